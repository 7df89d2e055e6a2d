"""The idx files of MNIST and its relatives (EMNIST, Fashion-MNIST, KMNIST): images in one file, labels in another.

http://yann.lecun.com/exdb/mnist/, big-endian: a magic number, the dimensions, the bytes; packed by gzip or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from cnn_core.data.layouts.parts import VAL, part_in_name
from cnn_core.data.layouts.pixel_columns import MAX_SIDE
from cnn_core.data.layouts.pixel_labels import Labels
from cnn_core.data.sources import Batch
from cnn_core.images.archives import SourceFiles
from cnn_core.images.decoding import MIN_SIDE

MAX_BYTES = 4 << 30  # of pixels
BATCH_ROWS = 2_000
_IMAGES, _LABELS = 0x803, 0x801
# The names of a set and its subset may stand in front: emnist-letters-train-images-idx3-ubyte.gz.
_NAME = re.compile(
    r"(.*?)[-_.]?(train|t10k|test|val|valid|validation)[-_.](images|labels)[-_.]idx[13]([-_.]ubyte)?(\.gz)?",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdxPart:
    """One part of a set: its two files (``labels`` is None where there are none), and what their headers say."""

    part: str
    images: str
    labels: str | None
    count: int
    side: int


def is_idx(name: str) -> bool:
    return _NAME.fullmatch(PurePosixPath(name).name) is not None


def find_idx(files: SourceFiles, names: list[str]) -> dict[str, str]:
    """Find the files: ``train-images`` -> the file's name. An unpacked file is preferred to its .gz.

    Raises:
        ValueError: there are files of two sets.
    """
    by_kind: dict[str, str] = {}
    subsets: set[str] = set()
    for path in sorted(
        map(PurePosixPath, names), key=lambda path: (len(path.parts), path.suffix.lower() == ".gz", str(path))
    ):
        if match := _NAME.fullmatch(path.name):
            part = part_in_name(match[2])
            by_kind.setdefault(f"{'t10k' if part == 'test' else part}-{match[3].lower()}", str(path))
            subsets.add(match[1].lower() or "MNIST")
    if len(subsets) > 1:
        raise ValueError(
            f"{files.path} has files of {' and '.join(sorted(subsets))}: keep those of the one that is meant"
        )
    return by_kind


def read_parts(files: SourceFiles, names: dict[str, str], advice: str) -> list[IdxPart]:
    """Read the headers of the files that `find_idx` returned.

    Raises:
        ValueError: one of train's files is missing, or a header is damaged, of other things or of another count.
    """
    for kind in ("images", "labels"):
        if f"train-{kind}" not in names:
            raise ValueError(f"{files.path} has no train-{kind} idx file: {advice}")
    parts = []
    for part in ("train", VAL, "t10k"):
        if (images := names.get(f"{part}-images")) is None:
            continue
        with _open(files, images, _IMAGES) as (_, shape):
            count, side = shape[:2]
        labels = names.get(f"{part}-labels")
        if labels:
            with _open(files, labels, _LABELS) as (_, shape):
                if shape[0] != count:
                    raise ValueError(f"{files.at(labels)} has {shape[0]:,} labels for {count:,} images: get both again")
        parts.append(IdxPart(part=part, images=images, labels=labels, count=count, side=side))
    return parts


def idx_labels(files: SourceFiles, parts: list[IdxPart]) -> Labels:
    """The labels of all parts, as names of classes."""
    present = np.zeros(256, bool)
    for part in parts:
        if part.labels:
            with _open(files, part.labels, _LABELS) as (file, shape):
                present[_bytes(file, shape[0], files, part.labels)] = True
    return Labels(names=tuple(map(str, np.flatnonzero(present).tolist())), are_numbers=True)


def read_idx(files: SourceFiles, part: IdxPart, classes: Labels) -> Iterator[Batch]:
    """Yield the images of a part, a block at a time.

    Raises:
        ValueError: a file is cut short, damaged, or longer than its header says.
    """
    with contextlib.ExitStack() as stack:
        images, _ = stack.enter_context(_open(files, part.images, _IMAGES))
        labels = stack.enter_context(_open(files, part.labels, _LABELS))[0] if part.labels else None
        for start in range(0, part.count, BATCH_ROWS):
            rows = min(BATCH_ROWS, part.count - start)
            pixels = _bytes(images, rows * part.side**2, files, part.images).reshape(rows, part.side, part.side)
            numbers = None
            if labels and part.labels:
                numbers = classes.numbers_of(_bytes(labels, rows, files, part.labels).astype(np.int64))
            ids = [f"{part.part}/{row:05d}" for row in range(start + 1, start + rows + 1)]
            yield Batch(part=part.part, ids=ids, images=pixels, labels=numbers, refused=[])
        for file, name in ((images, part.images), (labels, part.labels)):
            if file is None or name is None:
                continue
            with files.reading(name):
                surplus = file.read(1)  # also makes a .gz compare its checksum
            if surplus:
                raise ValueError(f"{files.at(name)} has more bytes than its header says: get it again")


@contextlib.contextmanager
def _open(files: SourceFiles, name: str, magic: int) -> Iterator[tuple[BinaryIO, list[int]]]:
    """Open a file, packed or not, after its header, and return the dimensions that the header gives."""
    where, dimensions = files.at(name), 3 if magic == _IMAGES else 1
    with files.open(name) as packed:
        buffered = io.BufferedReader(cast(io.RawIOBase, packed))
        unpacked = gzip.GzipFile(fileobj=buffered) if buffered.peek(2)[:2] == b"\x1f\x8b" else buffered
        file = cast(BinaryIO, unpacked)
        magic_number, *shape = _bytes(file, 4 + 4 * dimensions, files, name).view(">u4").tolist()
        if magic_number != magic:
            raise ValueError(
                f"{where} is no idx file of {'images' if magic == _IMAGES else 'labels'} (it begins with "
                f"{magic_number:#010x}, not {magic:#010x})"
            )
        if magic == _IMAGES:
            _check_sides(shape[1], shape[2], where)
        if not shape[0]:
            raise ValueError(f"{where} has a header but no items: get it again")
        if shape[0] * (shape[1] ** 2 if magic == _IMAGES else 64) > MAX_BYTES:
            raise ValueError(f"{where} claims {shape[0]:,} items, more than such a file can have: get it again")
        yield file, shape


def _check_sides(height: int, width: int, where: str) -> None:
    if height != width:
        raise ValueError(f"{where} has images of {height}x{width} pixels, which are not square: only squares are read")
    if not MIN_SIDE <= height <= MAX_SIDE:
        raise ValueError(f"{where} has images of {height}x{width} pixels; {MIN_SIDE} to {MAX_SIDE} on a side are read")


def _bytes(file: BinaryIO, count: int, files: SourceFiles, name: str) -> np.ndarray:
    with files.reading(name):
        data = file.read(count)
    if len(data) < count:
        raise ValueError(f"{files.at(name)} is {'cut short' if data else 'empty or cut short'}: get it again")
    return np.frombuffer(data, np.uint8)
