"""Readers of digit sources: Kaggle's Digit Recognizer (train.csv, test.csv) and MNIST idx(.gz) files.

Kaggle: https://www.kaggle.com/c/digit-recognizer/data, a header ``label,pixel0,…,pixel783``, one row for each image.
idx: http://yann.lecun.com/exdb/mnist/, big-endian: magic number, dimensions, bytes. EMNIST's files hold transposed
images, which are noticed by what they show (`data.orientation`), or else by the files' names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from cnn_core.data.digit_tables import BATCH_ROWS, PIXELS, SIDE, open_text, read_header, read_table
from cnn_core.data.orientation import are_enough, are_transposed
from cnn_core.data.sources import Batch, ImageSource
from cnn_core.data.validation import check_digits
from cnn_core.images.archives import SourceFiles, open_files

CLASSES = tuple("0123456789")
CLASS_NUMBERS = range(len(CLASSES))
FEW = 100  # images of a digit, by which it is seen how they lie
ADVICE = (
    "put Kaggle's train.csv and test.csv (or MNIST's idx files) there, in a folder or a .zip, or run "
    "`gridflow fetch digits`, which gets them"
)
TRANSPOSED = "the images are transposed, as EMNIST's files hold them; they were turned upright"
MAX_BYTES = 4 << 30  # Kaggle's files unpack to 0.13 GiB; a .zip of thirty times that is a bomb
_IMAGES, _LABELS = 0x803, 0x801
# EMNIST's files bear its name and the subset's in front, and its images are transposed.
_IDX = re.compile(r"(emnist-[a-z]+-)?(train|t10k|test)-(images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?", re.IGNORECASE)


@contextlib.contextmanager
def open_digits(path: str | Path) -> Iterator[ImageSource]:
    """Open the digits in a folder or .zip of either layout. Files one folder down are found too.

    Raises:
        ValueError: there is nothing usable, or a file is empty, damaged or of another layout.
    """
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        tables, idx = find_tables(files), _find_idx(files)
        if tables and idx:
            raise ValueError(f"{path} has both train.csv and MNIST idx files: keep the one that is meant")
        if not tables and not idx:
            raise ValueError(f"{path} has neither train.csv nor MNIST idx files: {ADVICE}")
        source = _kaggle(files, tables) if tables else _mnist(files, idx)
        is_emnist = not tables and PurePosixPath(idx["train-images"]).name.lower().startswith("emnist-")
        yield _upright(source, transposed=is_emnist)


def _upright(source: ImageSource, *, transposed: bool) -> ImageSource:
    """Turn EMNIST's images, whatever its files are called.

    Args:
        transposed: what the files' names say; it counts where the images do not tell.
    """
    noticed = are_transposed(*_first_labelled(source))
    if not (transposed if noticed is None else noticed):
        return source

    def batches() -> Iterator[Batch]:
        for batch in source.batches():
            yield dataclasses.replace(batch, images=np.ascontiguousarray(np.asarray(batch.images).swapaxes(1, 2)))

    return dataclasses.replace(source, batches=batches, warnings=[*source.warnings, TRANSPOSED])


def _first_labelled(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of the source's first labelled blocks, until they hold enough digits."""
    images, labels = np.empty((0, SIDE, SIDE), np.uint8), np.empty(0, np.int64)
    with contextlib.closing(cast(Generator[Batch], source.batches())) as batches:
        for batch in batches:
            if batch.labels is None:
                continue
            few = [row for number in CLASS_NUMBERS for row in np.flatnonzero(batch.labels == number)[:FEW]]
            images = np.concatenate([images, np.asarray(batch.images)[few]])
            labels = np.concatenate([labels, batch.labels[few]])
            if are_enough(labels):
                break
    return images, labels


def is_table(path: PurePosixPath) -> bool:
    """Whether a file of a source, by its name and place, holds the pixels of many images."""
    named = path.name.lower() in ("train.csv", "test.csv") or _IDX.fullmatch(path.name) is not None
    return len(path.parts) <= 2 and named


def _top(files: SourceFiles) -> list[PurePosixPath]:
    return [path for path in map(PurePosixPath, files.names) if len(path.parts) <= 2]


def find_tables(files: SourceFiles) -> dict[str, str]:
    tables: dict[str, str] = {}
    for part in ("train", "test"):
        names = [str(path) for path in _top(files) if path.name.lower() == f"{part}.csv"]
        shallow = [name for name in names if "/" not in name] or names
        if len(shallow) > 1:
            raise ValueError(f"{files.path} has {' and '.join(shallow)}: name the one folder that is meant")
        if shallow:
            tables[part] = shallow[0]
    if "test" in tables and "train" not in tables:
        raise ValueError(f"{files.path} has test.csv but no train.csv, so nothing to learn from: {ADVICE}")
    return tables


def _others(files: SourceFiles, used: Mapping[str, str]) -> Counter[str]:
    """Counts of the files that are not read, by their ending; an idx file beside its own .gz is among them."""
    others = [PurePosixPath(name) for name in files.names if name not in used.values()]
    return Counter(path.suffix.lower() or "no ending" for path in others) + Counter(files.left_out)


# Kaggle's tables


def _kaggle(files: SourceFiles, names: dict[str, str]) -> ImageSource:
    columns = {}
    for part, name in names.items():
        with files.open(name) as file:
            columns[part] = read_header(open_text(file), files.at(name), labelled=part == "train")

    def batches() -> Iterator[Batch]:
        for part, name in names.items():
            with files.open(name) as file:
                yield from read_table(open_text(file), part, columns[part], files.at(name))

    # Kaggle's test.csv has no labels. One with labels is a test part that its owner published.
    published = "test" if "label" in columns.get("test", ()) else None
    return ImageSource(
        batches=batches, total=None, published_test=published, classes=CLASSES, left_out=_others(files, names)
    )


# MNIST's idx files


def _find_idx(files: SourceFiles) -> dict[str, str]:
    """Find the files: ``train-images`` -> the file's name. An unpacked file is preferred to its .gz."""
    files_by_kind: dict[str, str] = {}
    subsets: set[str] = set()
    for path in sorted(_top(files), key=lambda path: (len(path.parts), path.suffix.lower() == ".gz", str(path))):
        if match := _IDX.fullmatch(path.name):
            part = "train" if match[2].lower() == "train" else "t10k"
            files_by_kind.setdefault(f"{part}-{match[3][:6].lower()}", str(path))
            subsets.add((match[1] or "MNIST").lower().removesuffix("-"))
    if len(subsets) > 1:
        raise ValueError(
            f"{files.path} has files of {' and '.join(sorted(subsets))}: keep those of the one that is meant"
        )
    return files_by_kind


def _mnist(files: SourceFiles, names: dict[str, str]) -> ImageSource:
    for kind in ("images", "labels"):
        if f"train-{kind}" not in names:
            raise ValueError(f"{files.path} has no train-{kind} idx file: {ADVICE}")
    parts = [part for part in ("train", "t10k") if f"{part}-images" in names]
    counts = {}
    for part in parts:
        with _open_idx(files, names[f"{part}-images"], _IMAGES) as (_, count):
            counts[part] = count
        if f"{part}-labels" in names:
            with _open_idx(files, names[f"{part}-labels"], _LABELS) as (_, labels):
                if labels != counts[part]:
                    where = files.at(names[f"{part}-labels"])
                    raise ValueError(f"{where} has {labels:,} labels for {counts[part]:,} images: get both again")

    def batches() -> Iterator[Batch]:
        for part in parts:
            yield from _read_idx(files, part, names[f"{part}-images"], names.get(f"{part}-labels"))

    published = "t10k" if "t10k-labels" in names and "t10k" in parts else None
    return ImageSource(
        batches=batches,
        total=sum(counts.values()),
        published_test=published,
        classes=CLASSES,
        left_out=_others(files, names),
    )


def _read_idx(files: SourceFiles, part: str, images_name: str, labels_name: str | None) -> Iterator[Batch]:
    with contextlib.ExitStack() as stack:
        images, count = stack.enter_context(_open_idx(files, images_name, _IMAGES))
        labels = stack.enter_context(_open_idx(files, labels_name, _LABELS))[0] if labels_name else None
        for start in range(0, count, BATCH_ROWS):
            rows = min(BATCH_ROWS, count - start)
            pixels = _bytes(images, rows * PIXELS, files, images_name).reshape(rows, SIDE, SIDE)
            numbers = _bytes(labels, rows, files, labels_name).astype(np.int64) if labels and labels_name else None
            ids = [f"{part}/{row:05d}" for row in range(start + 1, start + rows + 1)]
            refused = check_digits(ids, pixels.reshape(rows, PIXELS), numbers)
            good = [row for row in range(rows) if row not in refused]
            yield Batch(
                part=part,
                ids=[ids[row] for row in good],
                images=pixels[good],
                labels=None if numbers is None else numbers[good],
                refused=list(refused.values()),
            )
        for file, name in ((images, images_name), (labels, labels_name)):
            if file is None or name is None:
                continue
            with files.reading(name):
                surplus = file.read(1)  # also makes a .gz compare its checksum
            if surplus:
                raise ValueError(f"{files.at(name)} has more bytes than its header says: get it again")


@contextlib.contextmanager
def _open_idx(files: SourceFiles, name: str, magic: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file, packed or not, after its header, and say how many items the header gives."""
    where, dimensions = files.at(name), 3 if magic == _IMAGES else 1
    with files.open(name) as packed:
        buffered = io.BufferedReader(cast(io.RawIOBase, packed))
        unpacked = gzip.GzipFile(fileobj=buffered) if buffered.peek(2)[:2] == b"\x1f\x8b" else buffered
        file = cast(BinaryIO, unpacked)
        magic_number, *shape = _bytes(file, 4 + 4 * dimensions, files, name).view(">u4").tolist()
        if magic_number != magic:
            raise ValueError(
                f"{where} is no idx file of MNIST (it begins with {magic_number:#010x}, not {magic:#010x})"
            )
        if magic == _IMAGES and shape[1:] != [SIDE, SIDE]:
            raise ValueError(f"{where} has images of {shape[1]}x{shape[2]} pixels, not {SIDE}x{SIDE}")
        if not shape[0]:
            raise ValueError(f"{where} has a header but no items: get it again")
        if shape[0] * PIXELS > MAX_BYTES:
            raise ValueError(f"{where} claims {shape[0]:,} items, more than a digits set can have: get it again")
        yield file, shape[0]


def _bytes(file: BinaryIO, count: int, files: SourceFiles, name: str) -> np.ndarray:
    with files.reading(name):
        data = file.read(count)
    if len(data) < count:
        raise ValueError(f"{files.at(name)} is {'cut short' if data else 'empty or cut short'}: get it again")
    return np.frombuffer(data, np.uint8)
