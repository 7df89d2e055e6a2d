"""The stage ingest on whole sources of digits: what arrives, what is refused, what is kept together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cnn_core.data.ingestion import IngestParams
from cnn_core.data.raw import decode_images, read_manifest, read_quarantine, read_raw
from tasks.ingest import main
from tests.helpers.ingesting import SECTION, run, write_params
from tests.helpers.pixel_files import digits, idx, kaggle, mnist, rows, write_rows


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_params(tmp_path)


def test_a_set_without_a_section(work):
    with pytest.raises(ValueError, match=r"params\.yaml has no section 'ingest\.faces'"):
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


def test_classes_that_are_new_gone_or_renamed_are_said(work, capsys):
    """By the images: the number of a class and its place do not matter."""
    images, labels = digits(200)
    names = np.array([str(number) for number in range(10)], object)

    def ingest(names: np.ndarray, kept: np.ndarray) -> dict:
        cells = rows(images[kept], labels[kept])
        for row, label in zip(cells, labels[kept], strict=True):
            row[0] = names[label]
        write_rows(work / "source/train.csv", cells)
        main("digits")
        return json.loads(Path("data/metrics/ingest-digits.json").read_text())

    first = ingest(names, labels < 9)
    assert "class_changes" not in first
    names[3] = "33"
    for _ in range(2):  # the same source again says the same
        changed = ingest(names, labels > 0)["class_changes"]
        assert {key: changed[key] for key in ("unit", "new", "gone", "renamed")} == {
            "unit": "images",
            "new": {"9": 20},
            "gone": {"0": 20},
            "renamed": {"3": {"now": "33", "same": 20, "of": 20}},
        }
        printed = capsys.readouterr().out
        for sentence in ("the class 9 is new", "the class 0 is gone", "the class 3 is now called 33"):
            assert f"warning: {sentence} since the set's former version" in printed
    assert "class_changes" not in read_manifest("data/raw/digits")  # the same source always gives the same set


def test_pixels_and_labels_arrive_whole(tmp_path):
    run(kaggle(tmp_path / "source"), tmp_path / "raw")
    images, labels = digits(110)
    found = read_raw(tmp_path / "raw")
    assert (decode_images(found.images)[:, 0] == images).all()
    assert found.labels.tolist() == labels[:100].tolist() + [-1] * 10


def test_refused_rows_are_quarantined_with_their_reason(tmp_path):
    images, labels = digits(200)
    cells = rows(images, labels)
    cells[3][0], cells[8][700], cells[9] = "twelve", "oops", cells[9][:-1]
    write_rows(tmp_path / "source/train.csv", cells)
    manifest = run(tmp_path / "source", tmp_path / "raw")
    assert read_quarantine(tmp_path / "raw") == [
        {"id": "train/00004", "reason": "label not a number", "detail": "label is 'twelve'"},
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
    assert {key: value for key, value in manifest["duplicates"].items() if isinstance(value, int)} == {
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
