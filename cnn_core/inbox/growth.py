"""Sources that grow: new images are added to a copy of the source.

The old images stay in their order under their names, the new ones come after them. Splits follow
from the images themselves (data/splits.py), so no old image changes its split.
"""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnn_core.data import digit_sources, scene_sources
from cnn_core.data.digit_tables import PIXELS, SIDE, open_text, read_header
from cnn_core.data.raw import decode_images
from cnn_core.data.scene_sources import TEST, TRAIN
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


def _write_digits(
    target: Path, source: Path, _name: str, new: Sequence[LabelledImage], _classes: Sequence[str]
) -> None:
    if not _tables(target):
        _write_tables_of_idx(target, source)
    tables = _tables(target)
    for part in ("train", "test"):
        if rows := [image for image in new if image.tested == (part == "test")]:
            _append(target / tables[part], rows)


def _tables(folder: Path) -> dict[str, str]:
    """The tables that the stage ingest reads, by their part."""
    with open_files(folder, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        return digit_sources.find_tables(files)


def _append(path: Path, rows: Sequence[LabelledImage]) -> None:
    with path.open("rb") as file:
        columns = read_header(open_text(file), str(path), labelled=True)
    with path.open("rb") as file:
        file.seek(-1, 2)
        ends_with_newline = file.read(1) in b"\r\n"
    order = [PIXELS if column == "label" else int(column.removeprefix("pixel")) for column in columns]
    cells = np.column_stack([np.stack([row.image for row in rows]).reshape(len(rows), -1), [row.label for row in rows]])
    with path.open("a", newline="") as file:
        file.write("" if ends_with_newline else "\n")
        csv.writer(file, lineterminator="\n").writerows(cells[:, order].tolist())


def _write_tables_of_idx(target: Path, source: Path) -> None:
    """Rewrite MNIST's files as Kaggle's tables, to which rows can be added."""
    shutil.rmtree(target)
    target.mkdir()
    header = ["label", *(f"pixel{number}" for number in range(PIXELS))]
    with digit_sources.open_digits(source) as opened:
        for batch in opened.batches():
            part = "train" if batch.part == "train" else "test"
            labels = [] if batch.labels is None else [batch.labels]
            with (target / f"{part}.csv").open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if not file.tell():
                    writer.writerow(header if labels else header[1:])
                flat = np.asarray(batch.images).reshape(len(batch.ids), -1)
                writer.writerows(np.column_stack([*labels, flat]).tolist())


def _write_scenes(target: Path, _source: Path, name: str, new: Sequence[LabelledImage], classes: Sequence[str]) -> None:
    train = next(path for path in sorted(target.glob("*")) + sorted(target.glob("*/*")) if path.name.lower() == TRAIN)
    for number, image in enumerate(new, start=1):
        part = next(path for path in train.parent.iterdir() if path.name.lower() == (TEST if image.tested else TRAIN))
        suffix = Path(image.id).suffix.lower() or ".jpg"
        file = part / classes[image.label] / f"{name}-{number:06d}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image.image.image)


def _digit_file(data: bytes, name: str) -> np.ndarray:
    return decode_square(data, SIDE, "L", name)[0]


def _digit_pixels(images: Sequence[np.ndarray], _side: int) -> np.ndarray:
    return np.stack(images)


def _scene_pixels(images: Sequence[Picture], side: int) -> np.ndarray:
    return decode_images([picture.image for picture in images], "RGB", size=side).transpose(0, 2, 3, 1)


SOURCE_FORMATS: Mapping[str, SourceFormat] = {
    "pixels": SourceFormat(
        open=digit_sources.open_digits,
        read_file=_digit_file,
        digest=pixels_sha256,
        write=_write_digits,
        pixels=_digit_pixels,
    ),
    "images": SourceFormat(
        open=scene_sources.open_scenes,
        read_file=read_picture,
        digest=lambda picture: picture.sha256,
        write=_write_scenes,
        pixels=_scene_pixels,
    ),
}
