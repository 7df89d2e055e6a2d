"""The data that a segmenter learns from: images in memory, their objects' boxes and masks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil

from cnn_core.annotations.checks import Refused, size_fault
from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import BOX, Annotations, image_rows
from cnn_core.annotations.truth import read_truth, without_images
from cnn_core.files import file_sha256
from cnn_core.images.decoding import BadImage
from cnn_core.images.reader import read_image

PADDING = 114  # grey value beside an image that is no square; Ultralytics'
MEMORY_SHARE = 0.6  # of what is free: more than this the images may not take


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSet:
    """N images of one split that have objects with masks, M in all."""

    images: np.ndarray  # uint8 (N, 3, side, side), RGB, scaled to fit into the upper left corner
    ids: list[str]
    scales: np.ndarray  # float (N,), the factors by which the sides of the images were multiplied
    first: np.ndarray  # int64 (N + 1,): the objects of image n are ``first[n]`` … ``first[n + 1]`` - 1
    boxes: np.ndarray  # float32 (M, 4), xyxy in pixels of ``images``
    rles: list[str]
    shapes: np.ndarray  # int (M, 2), the (height, width) of each object's image before it was scaled
    left_out: int  # objects without a mask, in these images and in others
    faults: Mapping[str, str]  # why images of the split are left out, by their file

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        return self.images.shape[-1]

    def masks(self, objects: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the masks of the objects with these numbers: uint8 (n, side, side), 0 or 1."""
        masks = np.zeros((len(objects), self.side, self.side), np.uint8)
        for row, number in enumerate(objects):
            height, width = self.shapes[number]
            mask: np.ndarray = decode_mask(self.rles[number], height, width).view(np.uint8)
            scale = self.scales[np.searchsorted(self.first, number, side="right") - 1]
            if scale != 1:
                size = (round(width * scale), round(height * scale))
                mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
            masks[row, : mask.shape[0], : mask.shape[1]] = mask
        return masks


def read_masks(source: str | Path, split: str, *, refused: list[Refused] | None = None) -> Annotations:
    """Read the split ``train`` or ``val`` as `read_truth` does for training."""
    return read_truth(source, split, refused=refused, learning=True)


def masked_objects(objects: pd.DataFrame) -> pd.DataFrame:
    """Return the objects that can be learned from: crowds are none."""
    masked = objects[[isinstance(rle, str) for rle in objects["rle"]]]
    return masked[masked["iscrowd"] != 1] if "iscrowd" in masked else masked


def load_masks(source: str | Path, split: str, *, imgsz: int, most: int = 0) -> MaskSet:
    """Decode a split, or its first ``most`` images, each no larger than ``imgsz`` pixels a side, and none scaled up.

    Images that cannot be decoded, or have another size than the set says, are left out.

    Raises:
        ValueError: no image can be read, there is no object with a mask, or the images do not fit into memory.
    """
    images, objects, classes = read_masks(source, split)
    masked = masked_objects(objects)
    images = images[images["image_id"].isin(masked["image_id"])].reset_index(drop=True)
    if not len(images):
        raise ValueError(f"{source}: the split {split} has no object with a mask; a segmenter learns from masks")
    side = min(imgsz, int(images[["width", "height"]].max().max()))
    count = min(most or len(images), len(images))
    needed, free = count * 3 * side * side, psutil.virtual_memory().available
    if needed > MEMORY_SHARE * free:
        raise ValueError(
            f"{source}: {count:,} images of {side} pixels take {needed / 1e9:.1f} GB of memory, of which "
            f"{free / 1e9:.1f} GB are free: choose a smaller imgsz, or a part of the set"
        )
    left_out = len(objects) - len(masked)
    pixels, good, faults = _decoded(images, side, count)
    if not good:
        without_images((images, objects, classes), faults, source=source, split=split)
    images = images.iloc[good]
    rows = masked.groupby("image_id", sort=False).indices
    order = np.concatenate([rows[image_id] for image_id in images["image_id"]])
    counts = [len(rows[image_id]) for image_id in images["image_id"]]
    masked = masked.iloc[order]
    shapes = images[["height", "width"]].to_numpy()
    scales = np.minimum(1.0, side / shapes.max(axis=1))
    return MaskSet(
        images=pixels,
        ids=list(images["image_id"]),
        scales=scales,
        first=np.concatenate([[0], np.cumsum(counts)]),
        boxes=(masked[BOX].to_numpy() * np.repeat(scales, counts)[:, None]).astype(np.float32),
        rles=list(masked["rle"]),
        shapes=np.repeat(shapes, counts, axis=0),
        left_out=left_out,
        faults=faults,
    )


def _decoded(images: pd.DataFrame, side: int, count: int) -> tuple[np.ndarray, list[int], dict[str, str]]:
    """Decode images until ``count`` are good: uint8 (n, 3, side, side), the rows of the good ones, and why others are
    not."""
    pixels = np.full((count, 3, side, side), PADDING, np.uint8)
    good: list[int] = []
    faults: dict[str, str] = {}
    for number, row in enumerate(image_rows(images)):
        if len(good) == count:
            break
        try:
            picture = read_image(row.file)[..., ::-1]
        except BadImage as error:
            faults[row.file] = str(error)
            continue
        if fault := size_fault(*picture.shape[:2], listed=(row.height, row.width)):
            faults[row.file] = fault
            continue
        scale = min(1.0, side / max(row.width, row.height))
        if scale != 1:
            size = (round(row.width * scale), round(row.height * scale))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        pixels[len(good), :, : picture.shape[0], : picture.shape[1]] = picture.transpose(2, 0, 1)
        good.append(number)
    return pixels[: len(good)], good, faults


def content_sha256(parts: Mapping[str, Annotations]) -> str:
    """Return one SHA-256 over splits (`read_masks`): boxes, masks, and the names and bytes of the images."""
    digest = hashlib.sha256()
    for split, (images, objects, classes) in parts.items():
        digest.update(repr((split, classes)).encode())
        for file in images["file"]:
            content = file_sha256(file) if Path(file).is_file() else "gone"  # decoding it says so
            digest.update(f"{Path(file).name}:{content}\n".encode("utf-8", "surrogatepass"))
        for row in objects[["image_id", *BOX, "rle"]].itertuples(index=False):
            digest.update(repr(tuple(row)).encode())
    return digest.hexdigest()
