"""Classes that are new, gone or renamed are told by the images, not by their names or numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from cnn_core.data.class_changes import SetLabels, compare_classes, former_version, read_labels, remember, sentences
from cnn_core.data.objects.ingestion import ingest_objects
from cnn_core.data.raw import RawRow, write_raw
from cnn_core.images.decoding import encode_png, pixels_sha256
from tests.cnn_core.data.objects.test_ingestion import coco, params
from tests.helpers.object_formats import write_json


def raw(folder: Path, classes: list[str], **images: range) -> Path:
    """A RAW set whose class NAME holds the images of these numbers; one image has no label."""
    rows = []
    for name, numbers in {**images, "": range(900, 901)}.items():
        for number in numbers:
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
            label, split = (classes.index(name), "train") if name else (-1, "unlabelled")
            rows.append(RawRow(id=f"{name}/{number}", image=encode_png(pixels), label=label, split=split, width=8,
                               height=8, sha256=pixels_sha256(pixels)))  # fmt: skip
    write_raw(folder, rows, [], {"classes": classes, "source": "photos"})
    return folder


def changes(tmp_path: Path, former: dict[str, range], present: dict[str, range]) -> dict:
    sets = [raw(tmp_path / name, sorted(images), **images) for name, images in (("a", former), ("b", present))]
    return compare_classes(*map(read_labels, sets)).plain()


def test_new_gone_and_renamed_classes_with_their_counts(tmp_path: Path) -> None:
    changed = changes(
        tmp_path,
        {"cat": range(10), "dog": range(10, 30), "eel": range(30, 35)},
        {"ant": range(50, 57), "cat": range(8), "hound": range(12, 40)},  # eel's images are hounds now, too
    )
    assert (changed["new"], changed["gone"]) == ({"ant": 7}, {"eel": 5})
    assert changed["renamed"] == {"dog": {"now": "hound", "same": 18, "of": 20}}
    text = list(sentences(changed))
    assert [line.split(" since")[0] for line in text] == [
        "the class ant is new", "the class eel is gone", "the class dog is now called hound",
    ]  # fmt: skip
    assert text[2].endswith("18 of its 20 images are the same")
    assert "from photos" in text[0]


def test_no_rename_where_it_cannot_be_known(tmp_path: Path) -> None:
    half = changes(tmp_path / "half", {"dog": range(20)}, {"hound": range(10, 40)})
    assert (half["renamed"], half["new"], half["gone"]) == ({}, {"hound": 30}, {"dog": 20})
    joined = changes(tmp_path / "joined", {"cat": range(10), "dog": range(10, 20)}, {"pet": range(20)})
    assert (joined["renamed"], joined["new"], joined["gone"]) == ({}, {"pet": 20}, {"cat": 10, "dog": 10})
    both = changes(
        tmp_path / "both", {"cat": range(10), "dog": range(10, 20)}, {"hund": range(10, 20), "katze": range(10)}
    )
    assert {name: each["now"] for name, each in both["renamed"].items()} == {"cat": "katze", "dog": "hund"}
    assert both["new"] == both["gone"] == {}


def test_two_labels_that_share_images_are_not_renamed_crosswise() -> None:
    def labels(first: str, second: str) -> SetLabels:
        names = [(number, first) for number in range(100)] + [(number, second) for number in range(20, 140)]
        items = pd.DataFrame({"key": [str(number) for number, _ in names], "class_name": [name for _, name in names]})
        return SetLabels(content=first, source="photos", unit="images", classes=[first, second], items=items)

    renamed = compare_classes(labels("beach", "sea"), labels("Beach", "Sea")).renamed
    assert {before: rename.now for before, rename in renamed.items()} == {"beach": "Beach", "sea": "Sea"}


def test_the_same_classes_are_no_change_whatever_their_numbers(tmp_path: Path) -> None:
    former = raw(tmp_path / "a", ["cat", "dog"], cat=range(5), dog=range(5, 9))
    present = raw(tmp_path / "b", ["dog", "cat"], cat=range(9), dog=range(9, 12))
    assert not compare_classes(read_labels(former), read_labels(present))
    assert list(sentences({})) == []


def test_versions_are_remembered_and_the_newest_other_one_is_the_former(tmp_path: Path) -> None:
    versions = [read_labels(raw(tmp_path / str(n), ["cat"], cat=range(n))) for n in (1, 2, 3)]
    folder = tmp_path / "sets"
    for second, version in enumerate(versions):
        remember(folder, "pets", version)
        for path in folder.glob(f"*{version.content[:12]}*"):
            os.utime(path, (second, second))
    assert len(list(folder.iterdir())) == 2
    for now, former in ((2, 1), (1, 2)):
        former_labels = former_version(folder, "pets", versions[now].content)
        assert former_labels.content == versions[former].content
        assert (former_labels.counts, former_labels.unit, former_labels.source) == (
            {"cat": former + 1},
            "images",
            "photos",
        )
    remember(folder, "pets", versions[1])  # ingested once more
    assert former_version(folder, "pets", "").content == versions[1].content
    assert former_version(folder, "pet", "") is None


def test_objects_are_known_by_their_picture_and_box(tmp_path: Path) -> None:
    seconds = [{"image_id": number, "bbox": [100, 20, 30, 20], "category_id": 2} for number in range(20)]
    folder = coco(tmp_path / "source", more=seconds)
    ingest_objects("things", params(folder), tmp_path / "a")
    former = read_labels(tmp_path / "a")
    assert former.counts == {"thing": 20, "other": 20}
    content = json.loads((folder / "instances.json").read_text())
    content["categories"] = [{"id": 5, "name": "Ding"}, {"id": 7, "name": "zebra"}]
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 7 if number < 2 or number >= 20 else 5
    write_json(folder / "instances.json", content)
    ingest_objects("things", params(folder), tmp_path / "b")
    changed = compare_classes(former, read_labels(tmp_path / "b"))
    assert (changed.unit, changed.new, changed.gone) == ("objects", {}, {})
    assert changed.plain()["renamed"] == {
        "thing": {"now": "Ding", "same": 18, "of": 20},
        "other": {"now": "zebra", "same": 20, "of": 20},
    }
