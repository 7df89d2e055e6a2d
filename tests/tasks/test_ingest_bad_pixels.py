"""Sources of digits that cannot be ingested: one sentence each, and an earlier run stays whole."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.ingest import main
from tests.helpers.ingesting import run, write_params
from tests.helpers.paths import ROOT
from tests.helpers.pixel_files import HEADER, digits, idx, kaggle, mnist, rows, write_rows, zipped


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_params(tmp_path)


def table(images: np.ndarray, labels: np.ndarray | None, name: str = "train.csv") -> Callable[[Path], object]:
    return lambda folder: write_rows(folder / name, rows(images, labels))


def spoil(name: str, change: Callable[[bytes], bytes], made: Callable[[Path], object]) -> Callable[[Path], object]:
    """A good folder in which one file's bytes were changed."""

    def make(folder: Path) -> None:
        made(folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return make


def remove(*names: str, made: Callable[[Path], object]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        made(folder)
        for name in names:
            (folder / name).unlink()

    return make


def plain_mnist(folder: Path) -> None:
    mnist(folder, packed=False)


def two_folders(folder: Path) -> None:
    kaggle(folder / "a")
    kaggle(folder / "b")


def both_layouts(folder: Path) -> None:
    kaggle(folder)
    mnist(folder)


def cut_zip(source: Path) -> None:
    packed = zipped(kaggle(source.parent / "good"), source)
    packed.write_bytes(packed.read_bytes()[:-200])


def escaping_zip(source: Path) -> None:
    zipped(kaggle(source.parent / "good"), source, "../")


def header(change: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    return lambda folder: write_rows(folder / "train.csv", rows(*digits(100)), change(HEADER))


def bad_rows(folder: Path) -> None:
    cells = rows(*digits(100))
    for row in range(6):
        cells[row * 7][0] = ""
    write_rows(folder / "train.csv", cells)


def class_in_test_alone(folder: Path) -> None:
    kaggle(folder)
    write_rows(folder / "test.csv", rows(digits(3, 9)[0], np.full(3, 12)))


def two_sizes(folder: Path) -> None:
    kaggle(folder)
    write_rows(folder / "test.csv", rows(digits(9)[0][:, 6:14, 8:16], None))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"

GET, FETCH = "get it again", "gridflow fetch digits"

BAD: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing": (lambda folder: None, ["does not exist", "train.csv", FETCH]),
    "empty folder": (Path.mkdir, ["neither tables of pixels nor MNIST idx files", FETCH]),
    "a file": (lambda path: path.write_text("x"), ["is a file, not a folder or a .zip", FETCH]),
    "only test.csv": (table(digits(9)[0], None, "test.csv"), ["test.csv but no train.csv", FETCH]),
    "two folders": (two_folders, ["a/train.csv and b/train.csv", "name the one folder"]),
    "both layouts": (both_layouts, ["both train.csv and MNIST idx files"]),
    "empty csv": (spoil("train.csv", lambda data: b"", kaggle), ["train.csv is empty", GET]),
    "empty test csv": (spoil("test.csv", lambda data: b"\n", kaggle), ["test.csv is empty", GET]),
    "header only": (
        spoil("train.csv", lambda data: data.splitlines(True)[0], kaggle),
        ["train.csv has a header but no rows", GET],
    ),
    "column missing": (header(lambda names: names[:-1]), ["783 columns of pixels", "no square", "28x28 would be 784"]),
    "column left out": (header(lambda names: [*names[:9], *names[10:]]), ["pixels", "1 missing, such as 8"]),
    "no label": (table(digits(60)[0], None), ["784 columns of pixels and none of labels: add one named label"]),
    "two labels": (header(lambda names: ["kind", "sort", *names[1:]]), ["'kind', 'sort' beside 784 pixels"]),
    "column twice": (header(lambda names: [*names, "pixel0"]), ["header of 786 columns", "some twice"]),
    "one endless line": (spoil("train.csv", lambda data: b"\xff" * 3_000_000, kaggle), ["no table of pixels"]),
    "no table": (
        spoil("train.csv", lambda data: b"\xff" * 9_000, kaggle),
        ["without names for pixels"],
    ),
    "cut zip": (cut_zip, ["damaged or cut short", GET]),
    "escaping zip": (escaping_zip, ["'../test.csv', which leads out of the folder"]),
    "cut gz": (spoil(f"{IMAGES}.gz", lambda data: data[:-500], mnist), [f"{IMAGES}.gz is damaged or cut short", GET]),
    "damaged gz": (
        spoil(f"{IMAGES}.gz", lambda data: data[:3000] + bytes(99) + data[3099:], mnist),
        [f"{IMAGES}.gz", GET],  # what deflate makes of it is anyone's guess
    ),
    "gz with another sum": (
        spoil(f"{LABELS}.gz", lambda data: data[:-8] + bytes(8), mnist),
        [f"{LABELS}.gz is damaged", GET],
    ),
    "cut idx": (spoil(IMAGES, lambda data: data[:-1], plain_mnist), [f"{IMAGES} is cut short", GET]),
    "cut idx labels": (spoil(LABELS, lambda data: data[:50], plain_mnist), [f"{LABELS} is cut short", GET]),
    "cut idx header": (spoil(IMAGES, lambda data: data[:9], plain_mnist), [f"{IMAGES} is cut short", GET]),
    "empty idx": (spoil(IMAGES, lambda data: b"", plain_mnist), [f"{IMAGES} is empty or cut short", GET]),
    "idx with more": (spoil(IMAGES, lambda data: data + b"x", plain_mnist), ["more bytes than its header says"]),
    "idx of nothing": (spoil(IMAGES, lambda data: idx(np.zeros((0, 28, 28))), plain_mnist), ["no items", GET]),
    "idx of oblongs": (spoil(IMAGES, lambda data: idx(np.zeros((9, 32, 28))), plain_mnist), ["32x28 pixels", "square"]),
    "idx of dots": (spoil(IMAGES, lambda data: idx(np.zeros((9, 5, 5))), plain_mnist), ["5x5 pixels; 8 to 512"]),
    "idx of two sizes": (
        spoil(IMAGES, lambda data: idx(np.zeros((100, 32, 32))), plain_mnist),
        ["images of 32x32 pixels and", "of 28x28 pixels: one size is needed"],
    ),
    "idx of far too many": (
        spoil(IMAGES, lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], plain_mnist),
        ["4,294,967,295 items, more than"],
    ),
    "no idx": (spoil(IMAGES, lambda data: b"<html>" * 9, plain_mnist), ["no idx file of images", "0x3c68746d"]),
    "idx counts differ": (
        spoil(LABELS, lambda data: idx(np.zeros(99)), plain_mnist),
        ["99 labels for 100 images", "get both again"],
    ),
    "idx without labels": (remove(LABELS, made=plain_mnist), ["no train-labels idx file", FETCH]),
    "idx without train": (remove(LABELS, IMAGES, made=plain_mnist), ["no train-images idx file", FETCH]),
    "too many bad rows": (
        bad_rows,
        ["6 of the 100 images", "6.0%", "label missing: 6 (train/00001: label is empty", "max_bad_fraction"],
    ),
    "one class": (table(digits(60)[0], np.full(60, 7)), ["images of the class 7 alone", "at least two classes"]),
    "a class in test alone": (class_in_test_alone, ["no image of the class 12 is left to train from"]),
    "pixels in 0..1": (table(digits(60)[0] / 255, digits(60)[1].astype(float)), ["pixels in 0..1, not in 0..255"]),
    "two sizes": (two_sizes, ["train.csv has images of 28x28 pixels and", "test.csv has images of 8x8 pixels"]),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_source_is_one_sentence_and_harms_nothing(work, make, words):
    before = earlier_run()
    make(work / "source")
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        main("digits")
    assert Path(caught.traceback[-1].path).is_relative_to(ROOT / "cnn_core"), "told as the user's"
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()} == before


def earlier_run() -> dict[Path, bytes]:
    """What a good run before left in data/."""
    run(kaggle(Path("earlier")), Path("data/raw/digits"))
    return {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}


def test_the_stage_as_a_process_tells_a_user_error_without_a_traceback(work, repository):
    (work / "run").mkdir()
    env = {"PYTHONPATH": str(repository), "GRIDFLOW_RUN_DIR": str(work / "run"), "PATH": ""}
    done = subprocess.run([sys.executable, "-m", "tasks.ingest", "digits"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: the source source does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((work / "run/failure.json").read_text())["kind"] == "user"


def test_a_gz_bomb_is_read_no_further_than_its_header_says(tmp_path):
    folder = mnist(tmp_path)
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(digits(100)[0]) + bytes(50 << 20)))
    with pytest.raises(ValueError, match="more bytes than its header says"):
        run(folder, tmp_path / "raw")
