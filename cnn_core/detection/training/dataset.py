"""Ultralytics' data set of images with labels, in memory, and the order in which a training draws it.

Imports Ultralytics: only after `quiet`.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Sampler
from ultralytics.data import utils
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import DEFAULT_CFG_DICT, IterableSimpleNamespace

from cnn_core.detection.training.job import DetectorJob, arguments
from cnn_core.seeds import generator, mixed_seed


class MemoryDataset(YOLODataset):
    """Ultralytics' data set of a list of image files, decoded once into memory as far as there is room.

    Its labels are those of the job. Ultralytics itself keeps them in a ``.cache`` file beside the user's labels, which
    it trusts as long as the labels have the same size, and leaves a whole image out for one bad line.

    Attributes:
        left_out: the files that training does without, and why: a damaged image, or labels that are none.
    """

    left_out: dict[str, str]

    def __init__(self, *args: Any, hyp: Any, texts: Mapping[str, str], **kwargs: Any) -> None:
        self.rotates, self.texts = bool(hyp.degrees or hyp.shear), texts
        super().__init__(*args, hyp=hyp, **kwargs)

    def get_img_files(self, img_path: Any) -> list[str]:
        return list(img_path)

    def get_labels(self) -> list[dict[str, Any]]:
        """Read the labels, and drop a polygon of which only the box is needed.

        A polygon is 1,000 points to move at every draw. Only a segmenter needs it, and training that rotates or shears:
        the polygon then gives a tighter box than the rotated box.
        """
        with tempfile.TemporaryDirectory() as folder, _images_not_rewritten():
            self.label_files = [f"{folder}/{number}.txt" for number in range(len(self.im_files))]
            for file, label in zip(self.im_files, self.label_files, strict=True):
                Path(label).write_text(self.texts[file], encoding="utf-8")
            scan = self.cache_labels(Path(folder) / "labels.cache")
        labels = scan["labels"]
        usable = [label["im_file"] for label in labels]
        self.left_out = {file: _reason(file, scan["msgs"]) for file in self.im_files if file not in set(usable)}
        if not usable:
            file, reason = next(iter(self.left_out.items()))
            raise ValueError(f"none of {len(self.left_out):,} images can be learned from; {file}: {reason}")
        self.im_files = usable
        self.verify_labels(labels, Path(usable[0]).parent)
        if not self.use_segments and not self.rotates:
            for label in labels:
                label["segments"] = []
        return labels


def _reason(file: str, messages: list[str]) -> str:
    message = next((message for message in messages if f"{file}: " in message), "")
    reason = message.rpartition(f"{file}: ")[2].removeprefix("ignoring corrupt image/label: ")
    return reason or "left out by Ultralytics"


@contextlib.contextmanager
def _images_not_rewritten() -> Iterator[None]:
    """Within it Ultralytics does not write a JPEG anew whose last bytes are not the format's: the file is the user's.

    One that is cut short is still left out. ``_replace_image`` is private, but Ultralytics has no setting for it;
    test_a_users_damaged_file_stays_as_it_is holds it.
    """

    def only_read(im_file: str | Path, write: object) -> None:  # noqa: ARG001
        with Image.open(im_file) as image:
            image.load()

    replace_image = utils._replace_image
    utils._replace_image = only_read
    try:
        yield
    finally:
        utils._replace_image = replace_image


class EpochOrder(Sampler[int]):
    """An order of the images that follows from the seed and the epoch's number, which goes up with each pass."""

    def __init__(self, images: int, seed: int, epoch: int) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch

    def __iter__(self) -> Iterator[int]:
        draws = generator(torch.device("cpu"), self.seed, "order", self.epoch)
        self.epoch += 1
        yield from torch.randperm(self.images, generator=draws).tolist()

    def __len__(self) -> int:
        return self.images


def augmented_images(job: DetectorJob) -> tuple[np.ndarray, list[list[int]]]:
    """Return each training image once as training draws it, uint8 (N, 3, S, S), and the classes of its boxes."""
    dataset = MemoryDataset(
        img_path=job.data.train,
        texts=job.data.labels,
        imgsz=job.params.imgsz,
        augment=True,
        hyp=IterableSimpleNamespace(**{**DEFAULT_CFG_DICT, **arguments(job)}),
        task=job.task,
        data={"names": dict(enumerate(job.data.names)), "channels": 3},
    )
    seed_all(mixed_seed(job.params.seed, "seen"))
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
    """Seed Python's, numpy's and torch's generators; ``seed`` has 63 bits (`mixed_seed`), numpy takes 32."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
