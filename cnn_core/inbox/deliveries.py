"""New data as it is handed in: a table of Kaggle's, idx files, or images in folders of their class; checked, and added
to a source that keeps all that it had.

A source only grows: its images stay in their order under their names, new ones come after them. Splits follow from the
images themselves (splits.py), so none of the old moves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cnn_core.data.scene_sources import NO_CLASS, PRED, TEST
from cnn_core.data.sources import ImageSource
from cnn_core.data.validation import CONFLICTING, Refusal, refuse_too_many
from cnn_core.images.archives import open_files
from cnn_core.images.decoding import BadImage

ADVICE = "put a train.csv, a .zip, or folders named after the classes there"
MAX_BYTES = 64 << 30


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """An image with its label; ``image`` is uint8 (28, 28) of a digit, a `Picture` of a scene."""

    id: str
    image: Any
    label: int
    sha256: str
    tested: bool  # in the publisher's own test part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """What was found in one: the ``new`` images, the bad ones and how many the source had already."""

    path: Path
    new: list[Labelled]
    refused: list[Refusal]
    known: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
    """What a source holds: SHA-256 -> label, its classes, and a ``sample`` of its images, even over all of them."""

    labels: dict[str, int]
    classes: Sequence[str]
    tested: bool  # the publisher labelled a test part
    sample: list[Labelled]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """What a data set adds: its reader, how a file becomes an image, how a source and new images become one folder."""

    open: Callable[[str | Path], contextlib.AbstractContextManager[ImageSource]]
    read_file: Callable[[bytes], Any]
    digest: Callable[[Any], str]
    write: Callable[[Path, Path, str, Sequence[Labelled], Sequence[str]], None]
    pixels: Callable[[Sequence[Any], int], np.ndarray]


def read_known(growth: Growth, source: str | Path, *, most: int) -> Known:
    """All labelled images of a source by their pixels; and ``most`` of the images, those with the smallest hashes.

    Raises:
        ValueError: the source cannot be read.
    """
    labels: dict[str, int] = {}
    with growth.open(source) as opened:
        images = _remember(_labelled(opened, growth), labels)
        sample = heapq.nsmallest(most, images, key=lambda image: image.sha256)
        return Known(labels=labels, classes=opened.classes, tested=opened.published_test is not None, sample=sample)


def read_delivery(growth: Growth, path: Path, known: Known, *, max_bad_fraction: float) -> Delivery:
    """What of a delivery is new and good.

    Raises:
        ValueError: it cannot be read, holds no labelled image or only such as the source has, or too much of it is bad.
    """
    bad: list[Refusal] = []
    found = list(
        _files(growth, path, known.classes, bad) if _in_folders(path, known.classes) else _table(growth, path, bad)
    )
    if not found and not bad:
        raise ValueError(f"{path.name} holds no labelled images: {ADVICE}")
    total = len(found) + len(bad)
    new: dict[str, Labelled] = {}
    seen = 0
    for image in found:
        label = new[image.sha256].label if image.sha256 in new else known.labels.get(image.sha256)
        if label is None:
            new[image.sha256] = image
        elif label == image.label:
            seen += 1
        else:
            said = f"says {known.classes[image.label]}, where the same pixels were {known.classes[label]} before"
            bad.append(Refusal(id=image.id, reason=CONFLICTING, detail=said))
    refuse_too_many(bad, total, max_bad_fraction, path.name)
    if not new:
        raise ValueError(f"{path.name} holds nothing new: all of its {seen:,} good images are in the source already")
    return Delivery(path=path, new=list(new.values()), refused=bad, known=seen)


def _labelled(source: ImageSource, growth: Growth) -> Iterator[Labelled]:
    for batch in source.batches():
        if batch.labels is None:
            continue
        tested = batch.part == source.published_test
        for id_, image, label in zip(batch.ids, batch.images, batch.labels.tolist(), strict=True):
            yield Labelled(id=id_, image=image, label=label, sha256=growth.digest(image), tested=tested)


def _remember(images: Iterable[Labelled], labels: dict[str, int]) -> Iterator[Labelled]:
    for image in images:
        if image.sha256 not in labels:
            labels[image.sha256] = image.label
            yield image


# A delivery's layouts


def _in_folders(path: Path, classes: Sequence[str]) -> bool:
    """Whether it is images in folders of their class, at any depth."""
    if path.suffix.lower() == ".csv":
        return False
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        return any(PurePosixPath(name).parent.name in classes for name in files.names)


def _files(growth: Growth, path: Path, classes: Sequence[str], bad: list[Refusal]) -> Iterator[Labelled]:
    numbers = {name: number for number, name in enumerate(classes)}
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        for name in files.names:
            place = PurePosixPath(name)
            around = {part.lower() for part in place.parts[:-1]}
            if PRED in around:
                continue  # unlabelled
            if place.parent.name not in numbers:
                bad.append(Refusal(id=name, reason=NO_CLASS, detail=f"the classes are {', '.join(classes)}"))
                continue
            with files.open(name) as opened:
                data = opened.read()
            try:
                image = growth.read_file(data)
            except BadImage as fault:
                bad.append(Refusal(id=name, reason=fault.reason, detail=fault.detail))
                continue
            label = numbers[place.parent.name]
            yield Labelled(id=name, image=image, label=label, sha256=growth.digest(image), tested=TEST in around)


def _table(growth: Growth, path: Path, bad: list[Refusal]) -> Iterator[Labelled]:
    with contextlib.ExitStack() as stack:
        if path.suffix.lower() == ".csv":  # the reader wants a folder with the name that it knows
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / "train.csv").symlink_to(path.resolve())
            path = folder
        source = stack.enter_context(growth.open(path))
        for batch in source.batches():
            bad += batch.refused if batch.labels is not None else []
            if batch.labels is not None:
                one = dataclasses.replace(source, batches=lambda batch=batch: iter([batch]))
                yield from _labelled(one, growth)
