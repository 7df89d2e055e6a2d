"""Tables and idx files of any size and any classes, as they are published."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnn_core.data.kinds import kind_of
from cnn_core.data.pixel_sources import TRANSPOSED, open_pixels
from tests.helpers.pixel_files import idx, rows, write_rows


def squares(side: int, count: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)


def read(path: Path) -> tuple[np.ndarray, list[str | None], list[str]]:
    """The images, their labels by name, and the classes."""
    assert kind_of(path) == "pixels"
    with open_pixels(path) as source:
        batches = list(source.batches())
        images = np.concatenate([np.asarray(batch.images) for batch in batches])
        labels = [
            None if batch.labels is None else source.classes[batch.labels[row]]
            for batch in batches
            for row in range(len(batch.ids))
        ]
        assert sum(len(batch.refused) for batch in batches) == 0
        return images, labels, list(source.classes)


IMAGES = squares(8)
LETTERS = [chr(ord("a") + number % 26) for number in range(40)]
PIXELS = [f"pixel{number}" for number in range(64)]


def cells(labels: list, images: np.ndarray = IMAGES) -> list[list[str]]:
    return [[str(label), *row] for label, row in zip(labels, rows(images, None), strict=True)]


def table(
    header: list[str] | None, change: Callable[[list[str]], list[str]] = lambda row: row, name: str = "train.csv"
) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        content = [change(row) for row in cells(LETTERS)]
        path = write_rows(folder / name, content, header or ["header"])
        if header is None:
            path.write_bytes(path.read_bytes().split(b"\n", 1)[1])

    return write


def separated(by: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        table(["label", *PIXELS])(folder)
        (folder / "train.csv").write_text((folder / "train.csv").read_text().replace(",", by))

    return write


def packed_gz(folder: Path) -> None:
    table(["label", *PIXELS])(folder)
    (folder / "train.csv.gz").write_bytes(gzip.compress((folder / "train.csv").read_bytes()))
    (folder / "train.csv").unlink()


def packed_zip(folder: Path) -> None:
    table(["label", *PIXELS])(folder)
    with zipfile.ZipFile(folder / "train.csv.zip", "w") as file:
        file.write(folder / "train.csv", "train.csv")
    (folder / "train.csv").unlink()


def utf16(folder: Path) -> None:
    table(["label", *PIXELS])(folder)
    (folder / "train.csv").write_text((folder / "train.csv").read_text(), encoding="utf-16")


LAYOUTS = {
    "from 0": table(["label", *PIXELS]),
    "from 1": table(["label", *(f"pixel{number}" for number in range(1, 65))]),
    "1x1": table(["label", *(f"{row}x{column}" for row in range(1, 9) for column in range(1, 9))]),
    "pixel_0_0": table(["target", *(f"pixel_{row}_{column}" for row in range(8) for column in range(8))]),
    "numbers alone": table(["label", *map(str, range(64))]),
    "the label's column is a number too": table([*map(str, range(65))]),
    "pandas' names for a row of zeros": table(["0", *(f"0.{number}" for number in range(1, 65))]),
    "label of any name": table(["sign", *PIXELS]),
    "label at the end": table([*PIXELS, "class"], lambda row: [*row[1:], row[0]]),
    "an index of pandas": table(["", "label", *PIXELS], lambda row: [row[1], *row]),
    "an id": table(["id", "label", *PIXELS], lambda row: [f"a{row[1]}", *row]),
    "no header": table(None),
    "no header, label at the end": table(None, lambda row: [*row[1:], row[0]]),
    "another name": table(["label", *PIXELS], name="fashion-mnist_train.csv"),
    "a name of no part": table(["label", *PIXELS], name="hmnist_8_8_L.csv"),
    "one folder down": table(["label", *PIXELS], name=["deep", "sign_mnist_train/sign_mnist_train.csv"][1]),
    "semicolons": separated(";"),
    "tabs": separated("\t"),
    "gz": packed_gz,
    "zip": packed_zip,
    "utf-16": utf16,
}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_of_a_table_gives_the_same(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path)
    images, labels, classes = read(tmp_path)
    assert (images == IMAGES).all()
    assert labels == LETTERS
    assert classes == sorted(set(LETTERS))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([number % 11 for number in range(40)], [*map(str, range(11))]),
        ([number % 25 + (number % 25 > 8) for number in range(40)], [*map(str, [*range(9), *range(10, 26)])]),
        ([f"{number % 12}.0" for number in range(40)], [*map(str, range(12))]),
        (["2", "10", "-1", "07"] * 10, ["-1", "2", "7", "10"]),
        (["A", "3", "b, c", "Z"] * 10, ["3", "A", "Z", "b, c"]),
        ([1000 + number % 3 for number in range(40)], ["1000", "1001", "1002"]),
    ],
)
def test_classes_are_the_labels_that_the_table_has(tmp_path: Path, labels: list, classes: list[str]) -> None:
    quoted = [f'"{label}"' if "," in str(label) else label for label in labels]
    write_rows(tmp_path / "train.csv", cells(quoted), ["label", *PIXELS])
    images, named, found = read(tmp_path)
    assert found == classes
    assert (images == IMAGES).all()
    numbers = all(name.lstrip("-").isdigit() for name in classes)
    assert named == [str(int(float(label))) if numbers else str(label) for label in labels]


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_any_side_in_tables_and_idx_files(tmp_path: Path, side: int) -> None:
    images, labels = squares(side, 12), np.arange(12) % 5 + 1
    write_rows(tmp_path / "table/train.csv", rows(images, labels))
    write_rows(tmp_path / "table/test.csv", rows(images[:3], None))
    (tmp_path / "idx").mkdir()
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        (tmp_path / f"idx/kmnist-train-{kind}-ubyte").write_bytes(idx(array))
    assert (read(tmp_path / "table")[0] == np.concatenate([images, images[:3]])).all()
    assert read(tmp_path / "table")[1][-3:] == [None] * 3
    found = read(tmp_path / "idx")
    assert (found[0] == images).all()
    assert found[1:] == ([*map(str, labels)], ["1", "2", "3", "4", "5"])


def test_the_publishers_val_and_test_tables_stay_parts(tmp_path: Path) -> None:
    for part, seed in (("train", 0), ("valid", 1), ("test", 2)):
        write_rows(tmp_path / f"my_{part}.csv", rows(squares(8, 6, seed), np.arange(6) % 2))
    with open_pixels(tmp_path) as source:
        assert (source.published_val, source.published_test) == ("val", "test")
        assert [batch.part for batch in source.batches()] == ["train", "val", "test"]


def test_emnist_letters_are_turned_by_their_files_names_in_tables_too(tmp_path: Path) -> None:
    images, labels = squares(28, 30), np.arange(30) % 26 + 1
    write_rows(tmp_path / "emnist-letters-train.csv", rows(images.swapaxes(1, 2), labels))
    with open_pixels(tmp_path) as source:
        assert list(source.warnings) == [TRANSPOSED]
    assert (read(tmp_path)[0] == images).all()


def test_dark_pixels_are_a_warning(tmp_path: Path) -> None:
    write_rows(tmp_path / "optdigits_train.csv", rows(squares(8) % 17, np.arange(40) % 10))
    with open_pixels(tmp_path) as source:
        assert list(source.warnings) == ["the brightest pixel of the first images in optdigits_train.csv is 16 of 255"]


def test_colours_in_columns_are_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 192))
    cells_ = [["1", *map(str, row)] for row in pixels.tolist()]
    write_rows(tmp_path / "train.csv", cells_, ["label", *(f"pixel{number}" for number in range(192))])
    with pytest.raises(ValueError, match=r"no square image.*8x8 in three colours are not read, only grey"):
        read(tmp_path)
