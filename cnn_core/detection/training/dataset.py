"""Ultralytics' data set of images with labels, in memory, and the order in which a training draws it.

Imports Ultralytics: only after `quiet`.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Sampler
from ultralytics.data import utils
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import DEFAULT_CFG_DICT, IterableSimpleNamespace

from cnn_core.detection.training.job import Job, arguments
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.seeds import generator, mixed_seed


class MemoryDataset(YOLODataset):
    """Ultralytics' data set of a list of image files: decoded once into memory (as much as there is room for), and its
    labels read anew each time. Ultralytics itself keeps them in a ``.cache`` file beside the user's labels, which it
    trusts as long as the labels have the same size.

    ``left_out``: the files that are not learned from, and why: a damaged image, or labels that are none.
    """

    left_out: dict[str, str]

    def __init__(self, *args: Any, hyp: Any, **kwargs: Any) -> None:
        self.turned = bool(hyp.degrees or hyp.shear)  # so that the polygon gives a tighter box than the turned box
        super().__init__(*args, hyp=hyp, **kwargs)

    def get_img_files(self, img_path: Any) -> list[str]:
        return list(img_path)

    def _load_or_scan_cache(self, *_: Any) -> tuple[dict[str, Any], bool]:
        with tempfile.TemporaryDirectory() as folder, _files_left_alone():
            found = self.cache_labels(Path(folder) / "labels.cache")
        used = {label["im_file"] for label in found["labels"]}
        self.left_out = {file: _reason(file, found["msgs"]) for file in self.im_files if file not in used}
        if not used:
            file, reason = next(iter(self.left_out.items()))
            raise ValueError(f"none of {len(self.left_out):,} images can be learned from; {file}: {reason}")
        return found, False

    def get_labels(self) -> list[dict[str, Any]]:
        """Of a polygon only its box, where that is enough: it would be 1,000 points to move at every draw."""
        labels = super().get_labels()
        if not self.use_segments and not self.turned:
            for label in labels:
                label["segments"] = []
        return labels


def _reason(file: str, messages: list[str]) -> str:
    """What Ultralytics says of a file that it leaves out, without its own words before it."""
    said = next((message for message in messages if f"{file}: " in message), "")
    return said.rpartition(f"{file}: ")[2].removeprefix("ignoring corrupt image/label: ") or "left out by Ultralytics"


@contextlib.contextmanager
def _files_left_alone() -> Iterator[None]:
    """Ultralytics writes JPEG files anew, in their place, whose last bytes are not the format's. But they are the
    user's, and a dependency of the stage. Here they are only read: one that is cut short is left out, as there."""
    theirs = utils._replace_image
    utils._replace_image = lambda file, _: utils._exif_jpeg(file).load()
    try:
        yield
    finally:
        utils._replace_image = theirs


class EpochOrder(Sampler[int]):
    """The images in an order that follows from the seed and the epoch's number, which goes up with each pass."""

    def __init__(self, images: int, seed: int, epoch: int) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch

    def __iter__(self) -> Iterator[int]:
        draws = generator(torch.device("cpu"), self.seed, "order", self.epoch)
        self.epoch += 1
        yield from torch.randperm(self.images, generator=draws).tolist()

    def __len__(self) -> int:
        return self.images


def drawn(params: TrainDetectorParams, job: Job) -> tuple[np.ndarray, list[list[int]]]:
    """Each training image once as training draws it, with its boxes: uint8 (N, 3, S, S), and the classes in each."""
    arguments_ = IterableSimpleNamespace(**{**DEFAULT_CFG_DICT, **arguments(params, job)})
    dataset = MemoryDataset(
        img_path=job.data.train,
        imgsz=params.imgsz,
        augment=True,
        hyp=arguments_,
        task=job.task,
        data={"names": dict(enumerate(job.data.names)), "channels": 3},
    )
    seed_all(mixed_seed(params.seed, "seen"))
    pictures, classes = [], []
    for number in range(len(dataset)):
        item = dataset[number]
        picture = np.ascontiguousarray(item["img"].permute(1, 2, 0).numpy())
        for x, y, width, height in (item["bboxes"] * picture.shape[0]).tolist():
            corners = (round(x - width / 2), round(y - height / 2)), (round(x + width / 2), round(y + height / 2))
            cv2.rectangle(picture, *corners, (255, 0, 0), 1)
        pictures.append(picture.transpose(2, 0, 1))
        classes.append([int(value) for value in item["cls"].flatten()])
    return np.stack(pictures), classes


def seed_all(seed: int) -> None:
    """``seed`` has 63 bits (`mixed_seed`), numpy takes 32."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
