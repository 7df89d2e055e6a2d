"""New data (a table of Kaggle's, MNIST's idx files, images in folders of their class), held against a source."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cnn_core.data.image_files import image_names, read_entry
from cnn_core.data.layouts.listing import NO_CLASS
from cnn_core.data.layouts.parts import TEST, UNLABELLED, part_of_folder
from cnn_core.data.sources import ImageSource
from cnn_core.data.validation import CONFLICTING, Refusal, refuse_too_many
from cnn_core.images.archives import open_files
from cnn_core.images.decoding import BadImage

ADVICE = "put a train.csv, a .zip, or folders named after the classes there"
MAX_BYTES = 64 << 30
UNKNOWN_CLASS = "label that the source does not have"
OTHER_SIZE = "another size than the source's images"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImage:
    """An image with its label; ``image`` is uint8 (S, S) in a set of pixels, a `Picture` in one of images."""

    id: str
    image: Any
    label: int
    sha256: str
    tested: bool  # in the publisher's own test part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivery's images: good ones that the source lacks, bad ones, and how many the source has already."""

    path: Path
    new: list[LabelledImage]
    refused: list[Refusal]
    known: int
    left_out: Mapping[str, int]  # counts of the files that are no images, by what they are


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceContent:
    """A source's labels by SHA-256, whether its publisher labelled a test part, and a sample drawn evenly from all."""

    labels: dict[str, int]
    classes: Sequence[str]
    tested: bool
    sample: list[LabelledImage]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFormat:
    """How one data set's sources are read and written.

    Attributes:
        read_file: decodes an image file of a delivery as the source has its images: (bytes, name, content).
        digest: computes the SHA-256 of an image's pixels.
        write: adds images to a copy of a source: (copy, source, delivery's name, images, classes).
        pixels: stacks images as squares of so many pixels a side: uint8 (N, H, W) or (N, H, W, 3).
    """

    open: Callable[[str | Path], contextlib.AbstractContextManager[ImageSource]]
    read_file: Callable[[bytes, str, SourceContent], Any]
    digest: Callable[[Any], str]
    write: Callable[[Path, Path, str, Sequence[LabelledImage], Sequence[str]], None]
    pixels: Callable[[Sequence[Any], int], np.ndarray]


def read_source(source_format: SourceFormat, source: str | Path, *, sample: int) -> SourceContent:
    """Read all labelled images of a source; the sample are the ``sample`` images with the smallest hashes."""
    labels: dict[str, int] = {}
    with source_format.open(source) as opened:
        images = _remember(_labelled_images(opened, source_format, []), labels)
        kept = heapq.nsmallest(sample, images, key=lambda image: image.sha256)
        tested = opened.published_test is not None
        return SourceContent(labels=labels, classes=opened.classes, tested=tested, sample=kept)


def read_delivery(
    source_format: SourceFormat, path: Path, content: SourceContent, *, max_bad_fraction: float
) -> Delivery:
    """Read a delivery and sort its images into new, bad and known ones.

    Raises:
        ValueError: the delivery cannot be read, holds no labelled image that the source lacks, or too much is bad.
    """
    refused: list[Refusal] = []
    left_out: Counter[str] = Counter()
    if _in_folders(path, content.classes):
        images = list(_read_files(source_format, path, content, refused, left_out))
    else:
        images = list(_read_table(source_format, path, content, refused))
    if not images and not refused:
        raise ValueError(f"{path.name} holds no labelled images: {ADVICE}")
    total = len(images) + len(refused)
    new: dict[str, LabelledImage] = {}
    known = 0
    for image in images:
        label = new[image.sha256].label if image.sha256 in new else content.labels.get(image.sha256)
        if label is None:
            new[image.sha256] = image
        elif label == image.label:
            known += 1
        else:
            labels = f"says {content.classes[image.label]}, where the same pixels were {content.classes[label]} before"
            refused.append(Refusal(id=image.id, reason=CONFLICTING, detail=labels))
    refuse_too_many(refused, total, max_bad_fraction, path.name)
    if not new:
        raise ValueError(f"{path.name} holds nothing new: all of its {known:,} good images are in the source already")
    return Delivery(path=path, new=list(new.values()), refused=refused, known=known, left_out=left_out)


def _labelled_images(
    source: ImageSource, source_format: SourceFormat, refused: list[Refusal]
) -> Iterator[LabelledImage]:
    for batch in source.batches():
        if batch.labels is None:
            continue
        refused += batch.refused
        tested = batch.part == source.published_test
        for id_, image, label in zip(batch.ids, batch.images, batch.labels.tolist(), strict=True):
            yield LabelledImage(id=id_, image=image, label=label, sha256=source_format.digest(image), tested=tested)


def _remember(images: Iterable[LabelledImage], labels: dict[str, int]) -> Iterator[LabelledImage]:
    """Pass on the images whose pixels have not come before, and note their labels."""
    for image in images:
        if image.sha256 not in labels:
            labels[image.sha256] = image.label
            yield image


def _in_folders(path: Path, classes: Sequence[str]) -> bool:
    if path.suffix.lower() == ".csv":
        return False
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        return any(PurePosixPath(name).parent.name in classes for name in files.names)


def _read_files(
    source_format: SourceFormat,
    path: Path,
    content: SourceContent,
    refused: list[Refusal],
    left_out: Counter[str],
) -> Iterator[LabelledImage]:
    classes = content.classes
    numbers = {name: number for number, name in enumerate(classes)}
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        names, others = image_names(files)
        left_out.update(others + Counter(files.left_out))
        for name in names:
            folders = PurePosixPath(name).parts[:-1]
            in_class = bool(folders) and folders[-1] in numbers
            parts = set(map(part_of_folder, folders[:-1] if in_class else folders))
            if UNLABELLED in parts:
                continue  # unlabelled
            if not in_class:
                refused.append(Refusal(id=name, reason=NO_CLASS, detail=f"the classes are {', '.join(classes)}"))
                continue
            data = read_entry(files, name)
            try:
                if isinstance(data, BadImage):
                    raise data
                image = source_format.read_file(data, name, content)
            except BadImage as fault:
                refused.append(Refusal(id=name, reason=fault.reason, detail=fault.detail))
                continue
            yield LabelledImage(
                id=name,
                image=image,
                label=numbers[folders[-1]],
                sha256=source_format.digest(image),
                tested=TEST in parts,
            )


def _read_table(
    source_format: SourceFormat, path: Path, content: SourceContent, refused: list[Refusal]
) -> Iterator[LabelledImage]:
    numbers = {name: number for number, name in enumerate(content.classes)}
    with contextlib.ExitStack() as stack:
        if path.suffix.lower() == ".csv":  # the reader takes a folder with a train.csv
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / "train.csv").symlink_to(path.resolve())
            path = folder
        opened = stack.enter_context(source_format.open(path))
        for image in _labelled_images(opened, source_format, refused):
            fault = _misfit(image, opened.classes[image.label], content)
            if fault:
                refused.append(Refusal(id=image.id, reason=fault[0], detail=fault[1]))
            else:
                yield dataclasses.replace(image, label=numbers[opened.classes[image.label]])


def _misfit(image: LabelledImage, label: str, content: SourceContent) -> tuple[str, str] | None:
    """Why a delivery's image does not fit into the source (reason, detail), or None."""
    if label not in content.classes:
        return UNKNOWN_CLASS, f"label is {label}; the classes are {', '.join(content.classes)}"
    shapes = [getattr(picture, "shape", None) for picture in (image.image, content.sample[0].image)]
    if shapes[0] != shapes[1]:
        height, width = shapes[0] or (0, 0)
        return OTHER_SIZE, f"{height}x{width} pixels"
    return None
