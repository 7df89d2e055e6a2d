"""Sources that grow: new images are added to a copy of the source.

The old images stay in their order under their names, the new ones come after them. Splits follow
from the images themselves (data/splits.py), so no old image changes its split.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cnn_core.data.image_sources import class_folders, open_images
from cnn_core.data.layouts.class_folders import Folders
from cnn_core.data.layouts.parts import TEST, TRAIN
from cnn_core.data.layouts.pixel_files import pixel_tables
from cnn_core.data.layouts.pixel_idx import find_idx
from cnn_core.data.layouts.pixel_tables import Table
from cnn_core.data.pixel_sources import open_pixels
from cnn_core.data.raw import decode_images
from cnn_core.files import whole_folder
from cnn_core.images.archives import open_files
from cnn_core.images.decoding import Picture, decode_square, pixels_sha256, read_picture
from cnn_core.inbox.deliveries import ADVICE, MAX_BYTES, Delivery, LabelledImage, SourceContent, SourceFormat


def grow(
    source_format: SourceFormat,
    source: str | Path,
    target: Path,
    deliveries: Iterable[tuple[str, Delivery]],
    content: SourceContent,
) -> None:
    """Write the source and the deliveries, by the names of their images, into ``target`` (or the source itself)."""
    with whole_folder(target) as partial:
        _copy(Path(source), partial)
        for name, delivery in deliveries:
            tested = [dataclasses.replace(image, tested=image.tested and content.tested) for image in delivery.new]
            source_format.write(partial, Path(source), name, tested, content.classes)


def _copy(source: Path, target: Path) -> None:
    with open_files(source, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        for name in files.names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with files.open(name) as opened, (target / name).open("wb") as file:
                shutil.copyfileobj(opened, file, 1 << 20)


def _write_pixels(target: Path, source: Path, _name: str, new: Sequence[LabelledImage], classes: Sequence[str]) -> None:
    tables = _tables(target)
    if not all(part in tables and _takes_rows(target, tables[part]) for part in map(_part, new)):
        _write_tables_anew(target, source)
        tables = _tables(target)
    for part in ("train", "test"):
        if rows := [image for image in new if _part(image) == part]:
            _append(target, tables[part], rows, classes)


def _part(image: LabelledImage) -> str:
    return "test" if image.tested else "train"


def _tables(folder: Path) -> dict[str, Table]:
    """The tables that the stage ingest reads, by their part; none where it reads idx files."""
    with open_files(folder, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        if find_idx(files, files.names):
            return {}
        return {table.part: table for table in pixel_tables(files, ADVICE, others=False)}


def _takes_rows(folder: Path, table: Table) -> bool:
    """Whether rows of a label and pixels can be added to the end of a table."""
    columns = table.columns
    is_plain = (folder / table.name).suffix.lower() in (".csv", ".tsv", ".tab")
    return is_plain and columns.label is not None and columns.width == len(columns.pixels) + 1


def _append(folder: Path, table: Table, rows: Sequence[LabelledImage], classes: Sequence[str]) -> None:
    path, columns = folder / table.name, table.columns
    with path.open("rb") as file:
        file.seek(-1, 2)
        ends_with_newline = file.read(1) in b"\r\n"
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write("" if ends_with_newline else "\n")
        writer = csv.writer(file, delimiter=columns.delimiter, lineterminator="\n")
        for row in rows:
            cells = dict(zip(columns.pixels, row.image.ravel().tolist(), strict=True))
            writer.writerow([cells.get(column, classes[row.label]) for column in range(columns.width)])


def _write_tables_anew(target: Path, source: Path) -> None:
    """Rewrite idx files, or tables in another form, as Kaggle's tables, to which rows can be added."""
    shutil.rmtree(target)
    target.mkdir()
    with open_pixels(source) as opened:
        parts = {opened.published_test: "test", opened.published_val: "val"}
        for batch in opened.batches():
            part = parts.get(batch.part, "train" if batch.part == "train" else "test")
            with (target / f"{part}.csv").open("a", encoding="utf-8", newline="") as file:
                flat = np.asarray(batch.images).reshape(len(batch.ids), -1)
                writer = csv.writer(file, lineterminator="\n")
                labels = [[]] * len(flat) if batch.labels is None else [[opened.classes[n]] for n in batch.labels]
                if not file.tell():
                    names = [f"pixel{number}" for number in range(flat.shape[1])]
                    writer.writerow(names if batch.labels is None else ["label", *names])
                writer.writerows([*label, *row] for label, row in zip(labels, flat.tolist(), strict=True))


def _write_images(target: Path, source: Path, name: str, new: Sequence[LabelledImage], classes: Sequence[str]) -> None:
    with open_files(target, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        folders = class_folders(files)
    if folders is None:
        folders = _write_folders_anew(target, source)
    names = {part: name for name, part in folders.parts.items()}
    for number, image in enumerate(new, start=1):
        part = target.joinpath(*folders.root, names.get(TEST if image.tested else TRAIN, ""))
        suffix = Path(image.id).suffix.lower() or ".jpg"
        file = part / classes[image.label] / f"{name}-{number:06d}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image.image.image)


def _write_folders_anew(target: Path, source: Path) -> Folders:
    """Rewrite images whose labels stand in tables as folders of their classes, to which images can be added."""
    shutil.rmtree(target)
    with open_images(source, multilabel=False) as opened:
        if bad := [label for label in opened.classes if "/" in label or label.startswith(".")]:
            raise ValueError(
                f"no folder can be called {bad[0]!r}, so nothing can be added to {source}: rename the class"
            )
        for batch in opened.batches():
            labels = [None] * len(batch.ids) if batch.labels is None else batch.labels.tolist()
            for id_, picture, label in zip(batch.ids, batch.images, labels, strict=True):
                file = target / batch.part / ("" if label is None else opened.classes[label]) / id_.replace("/", "-")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(picture.image)
    return Folders(root=(), parts={TRAIN: TRAIN, TEST: TEST}, classes=(), with_classes=True)


def _pixel_file(data: bytes, name: str, content: SourceContent) -> np.ndarray:
    return decode_square(data, len(content.sample[0].image), "L", name)[0]


def _image_file(data: bytes, name: str, _content: SourceContent) -> Picture:
    return read_picture(data, name)


def _pixel_squares(images: Sequence[np.ndarray], _side: int) -> np.ndarray:
    return np.stack(images)


def _image_squares(images: Sequence[Picture], side: int) -> np.ndarray:
    return decode_images([picture.image for picture in images], "RGB", size=side).transpose(0, 2, 3, 1)


SOURCE_FORMATS: Mapping[str, SourceFormat] = {
    "pixels": SourceFormat(
        open=open_pixels,
        read_file=_pixel_file,
        digest=pixels_sha256,
        write=_write_pixels,
        pixels=_pixel_squares,
    ),
    "images": SourceFormat(
        open=partial(open_images, multilabel=False),
        read_file=_image_file,
        digest=lambda picture: picture.sha256,
        write=_write_images,
        pixels=_image_squares,
    ),
}
