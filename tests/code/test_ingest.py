"""The stage ingest on whole sources: each bad one is one sentence, and costs nothing of an earlier good run."""

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
import yaml
from digit_files import HEADER, digits, idx, kaggle, mnist, rows, write_rows, zipped

from cnn_core import digit_sources
from cnn_core.datasets import decode, read_manifest, read_quarantine, read_raw
from cnn_core.ingestion import IngestParams, ingest
from tasks.ingest import LAYOUTS, main

SECTION = {
    "source": "source",
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 0,
    "max_bad_fraction": 0.05,
}


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A current folder with params.yaml, as a stage finds it."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": {"digits": SECTION}}))
    return tmp_path


def run(source: Path, folder: Path, **changes) -> dict:
    params = IngestParams(**{**SECTION, "source": str(source), **changes})
    return ingest("digits", LAYOUTS["digits"], params, folder)


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
        cells[row * 7][0] = "11"
    write_rows(folder / "train.csv", cells)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
GET, FETCH = "get it again", "python -m flows.fetch digits"
BAD: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing": (lambda folder: None, ["does not exist", "train.csv", FETCH]),
    "empty folder": (Path.mkdir, ["neither train.csv nor MNIST idx files", FETCH]),
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
    "column missing": (header(lambda names: names[:-1]), ["784 columns", "1 missing, such as pixel783", "785"]),
    "column unknown": (header(lambda names: ["digit", *names[1:]]), ["missing, such as label", "such as 'digit'"]),
    "column twice": (header(lambda names: [*names, "pixel0"]), ["header of 786 columns", "some twice"]),
    "no header": (
        spoil("train.csv", lambda data: data.split(b"\n", 1)[1], kaggle),
        ["header of 785 columns", "mend the header"],
    ),
    "semicolons": (spoil("train.csv", lambda data: data.replace(b",", b";"), kaggle), ["header of 1 columns"]),
    "utf-16": (spoil("train.csv", lambda data: data.decode().encode("utf-16"), kaggle), ["header of 785 columns"]),
    "no table": (spoil("train.csv", lambda data: b"\xff" * 100_000, kaggle), ["no table of digits"]),
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
    "idx of 32x32": (spoil(IMAGES, lambda data: idx(np.zeros((9, 32, 32))), plain_mnist), ["32x32 pixels, not 28x28"]),
    "idx of far too many": (
        spoil(IMAGES, lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], plain_mnist),
        ["4,294,967,295 items, more than"],
    ),
    "no idx": (spoil(IMAGES, lambda data: b"<html>" * 9, plain_mnist), ["no idx file of MNIST", "0x3c68746d"]),
    "idx counts differ": (
        spoil(LABELS, lambda data: idx(np.zeros(99)), plain_mnist),
        ["99 labels for 100 images", "get both again"],
    ),
    "idx without labels": (remove(LABELS, made=plain_mnist), ["no train-labels idx file", FETCH]),
    "idx without train": (remove(LABELS, IMAGES, made=plain_mnist), ["no train-images idx file", FETCH]),
    "too many bad rows": (
        bad_rows,
        ["6 of the 100 images", "6.0%", "label outside 0-9: 6 (train/00001: label is 11", "max_bad_fraction"],
    ),
    "a class missing": (table(digits(60)[0], digits(60)[1] % 9), ["no image of the class 9 is left to train from"]),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_source_is_one_sentence_and_harms_nothing(work, make, words):
    before = earlier_run()
    make(work / "source")
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        main("digits")
    assert Path(caught.traceback[-1].path).is_relative_to(Path(digit_sources.__file__).parent), "told as the user's"
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


def test_a_set_without_a_reader(work):
    with pytest.raises(ValueError, match=r"no reader is known for ingest\.faces: the sets are digits, scenes"):
        main("faces")


def test_the_stage_writes_data_and_metrics(work, capsys):
    kaggle(work / "source")
    main("digits")
    metrics = json.loads(Path("data/metrics/ingest-digits.json").read_text())
    assert metrics["images"] == read_manifest("data/raw/digits")["counts"]
    assert sum(metrics["images"].values()) == metrics["rows_read"] == 110
    assert metrics["images"]["unlabelled"] == 10
    assert (metrics["refused"], metrics["classes"]) == (0, 10)
    assert "110 images read" in capsys.readouterr().out


def test_pixels_and_labels_arrive_whole(tmp_path):
    run(kaggle(tmp_path / "source"), tmp_path / "raw")
    images, labels = digits(110)
    found = read_raw(tmp_path / "raw")
    assert (decode(found.images)[:, 0] == images).all()
    assert found.labels.tolist() == labels[:100].tolist() + [-1] * 10


def test_refused_rows_are_quarantined_with_their_reason(tmp_path):
    images, labels = digits(200)
    cells = rows(images, labels)
    cells[3][0], cells[8][700], cells[9] = "12", "oops", cells[9][:-1]
    write_rows(tmp_path / "source/train.csv", cells)
    manifest = run(tmp_path / "source", tmp_path / "raw")
    assert read_quarantine(tmp_path / "raw") == [
        {"id": "train/00004", "reason": "label outside 0-9", "detail": "label is 12"},
        {"id": "train/00009", "reason": "pixel not a number", "detail": "pixel699 is 'oops'"},
        {"id": "train/00010", "reason": "wrong column count", "detail": "784 columns, not 785"},
    ]
    assert manifest["refused"]["total"] == 3
    assert manifest["rows_read"] == 200 == sum(manifest["counts"].values()) + 3


def test_duplicates_across_the_parts_of_mnist(tmp_path):
    images, labels = digits(120)
    images[5], labels[5] = images[110], labels[110]  # train repeats test: test keeps it
    images[6], labels[6] = images[7], labels[7]  # train repeats itself
    images[8], labels[8] = images[9], (labels[9] + 1) % 10  # two labels for the same pixels
    folder = mnist(tmp_path / "source", packed=False)
    for part, where in (("train", slice(100)), ("t10k", slice(100, None))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images[where]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels[where]))
    manifest = run(folder, tmp_path / "raw")
    assert manifest["counts"]["test"] == 20
    assert {entry["id"]: entry["reason"] for entry in read_quarantine(tmp_path / "raw")} == {
        "train/00006": "duplicate",
        "train/00008": "duplicate",
        "train/00009": "conflicting labels",
        "train/00010": "conflicting labels",
    }
    assert manifest["refused"] == {"total": 2, "reasons": {"conflicting labels": 2}}, "duplicates are not bad"
    assert {key: value for key, value in manifest["duplicates"].items() if key != "examples"} == {
        "same_label": 1,
        "train_in_test": 1,
        "conflicting_labels": 2,
        "labelled_and_unlabelled": 0,
        "near": 0,
        "near_train_in_test": 0,
        "near_across_classes": 0,
    }
    found = read_raw(tmp_path / "raw")
    assert len(set(found.sha256)) == len(found.sha256) == 116
    assert all((split == "test") == id_.startswith("t10k") for id_, split in zip(found.ids, found.splits, strict=True))


def test_near_duplicates_share_a_split(tmp_path):
    images, labels = digits(300)
    moved = np.roll(images, (2, -3), axis=(1, 2))
    write_rows(tmp_path / "source/train.csv", rows(np.concatenate([images, moved]), np.concatenate([labels, labels])))
    manifest = run(tmp_path / "source", tmp_path / "raw", val_fraction=0.3, test_fraction=0.3)
    splits = read_raw(tmp_path / "raw").splits
    assert splits[:300] == splits[300:]
    assert set(splits) == {"train", "val", "test"}
    assert manifest["duplicates"]["near"] == 300


def test_adding_data_moves_no_image(tmp_path):
    images, labels = digits(400)
    write_rows(tmp_path / "small/train.csv", rows(images[100:300], labels[100:300]))
    write_rows(tmp_path / "large/train.csv", rows(images[::-1], labels[::-1]))
    found = []
    for name in ("small", "large"):
        run(tmp_path / name, tmp_path / "raw" / name)
        raw = read_raw(tmp_path / "raw" / name)
        found.append(dict(zip(raw.sha256, raw.splits, strict=True)))
    assert len(found[0]) == 200
    assert found[0].items() <= found[1].items()


def test_the_same_source_gives_the_same_bytes_and_another_seed_other_splits(tmp_path):
    source = kaggle(tmp_path / "source")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(source, tmp_path / name, seed=seed)
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"]
    assert contents[0] == contents[1]
    assert read_raw(tmp_path / "a").splits != read_raw(tmp_path / "c").splits


def test_a_class_missing_from_val_is_a_warning(tmp_path):
    manifest = run(kaggle(tmp_path / "source"), tmp_path / "raw", val_fraction=0.01)
    assert any("val has no image of the class" in warning for warning in manifest["warnings"])


@pytest.mark.parametrize(("key", "value"), [("val_fraction", 0.0), ("test_fraction", 0.5), ("max_bad_fraction", 1.1)])
def test_parameters_are_bounded(key, value):
    with pytest.raises(ValueError, match=key):
        IngestParams(**{**SECTION, key: value})


def test_a_gz_bomb_is_read_no_further_than_its_header_says(tmp_path):
    folder = mnist(tmp_path)
    (folder / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(digits(100)[0]) + bytes(50 << 20)))
    with pytest.raises(ValueError, match="more bytes than its header says"):
        run(folder, tmp_path / "raw")
