"""The stage ingest on whole sources of scenes: what is bad is quarantined by name or told in one sentence."""

from __future__ import annotations

import json
import re
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import ImageEnhance

from cnn_core.data.ingestion import IngestParams, Layout, ingest
from cnn_core.data.raw import read_manifest, read_quarantine, read_raw
from cnn_core.images.decoding import decode_rgb
from tasks.ingest import layouts, main
from tests.helpers.image_files import CLASSES, encoded, intel, put, scene, zipped

SCENES = layouts()["images"]
SECTION = {
    **{"source": "source", "val_fraction": 0.2, "test_fraction": 0.2},
    **{"seed": 0, "max_bad_fraction": 0.2, "near_duplicates": True},
}


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A current folder with params.yaml, as a stage finds it."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": {"scenes": SECTION}}))
    return tmp_path


def run(source: Path, folder: Path, layout: Layout = SCENES, **changes) -> dict:
    return ingest("scenes", layout, IngestParams(**{**SECTION, "source": str(source), **changes}), folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def quarantine(folder: Path) -> dict[str, tuple[str, str]]:
    return {entry["id"]: (entry["reason"], entry["detail"]) for entry in read_quarantine(folder)}


def test_the_stage_writes_every_bad_image_to_the_quarantine(work, capsys):
    source = intel(work / "source")
    sea = source / "seg_train/seg_train/sea"
    good = encoded(scene(5000), "JPEG")
    bad = {
        "zero.jpg": (b"", "empty file"),
        "cut.jpg": (good[:-300], "damaged image"),
        "text.jpg": (b"no image", "not an image"),
        "small.png": (encoded(scene(1, (7, 90))), "too small"),
        "line.png": (encoded(scene(1, (10, 210))), "too long and narrow"),
    }
    for name, (data, _) in bad.items():
        put(sea / name, data)
    put(sea / ".DS_Store", b"hidden")
    put(sea / "Thumbs.db", b"\xd0\xcf\x11\xe0")
    put(sea / "0.xml", b"<annotation/>")
    put(source / "readme.jpg", encoded(scene(5001), "JPEG"))
    put(source / "seg_pred/seg_pred/zero.jpg", b"")
    main("scenes")
    found = {id_: reason for id_, (reason, _) in quarantine(Path("data/raw/scenes")).items()}
    expected = {f"seg_train/sea/{name}": reason for name, (_, reason) in bad.items()}
    assert found == {**expected, "seg_pred/zero.jpg": "empty file"}
    manifest = read_manifest("data/raw/scenes")
    assert manifest["classes"] == list(CLASSES)
    assert manifest["refused"]["total"] == 6
    assert (manifest["counts"]["test"], manifest["counts"]["unlabelled"], manifest["rows_read"]) == (18, 4, 100)
    left_out = {".db": 1, ".xml": 1, "hidden": 1, "outside seg_train, seg_test and seg_pred": 1}
    assert manifest["left_out"] == left_out
    assert manifest["rows_read"] + sum(left_out.values()) == sum(path.is_file() for path in source.rglob("*"))
    assert manifest["counts"]["train"] + manifest["counts"]["val"] == 72
    metrics = json.loads(Path("data/metrics/ingest-scenes.json").read_text())
    assert metrics["duplicates"].keys() >= {"near", "near_train_in_test", "near_across_classes"}
    out = capsys.readouterr().out
    assert "100 images read" in out
    assert "left out, no images of the set: 1 .db, 1 .xml, 1 hidden, 1 outside seg_train" in out


def test_rows_say_what_the_files_hold(tmp_path):
    source = intel(tmp_path / "source")
    put(source / "seg_train/seg_train/sea/grey.png", encoded(scene(7000).convert("L")))
    run(source, tmp_path / "raw")
    raw = read_raw(tmp_path / "raw")
    for id_, image, label, split in zip(raw.ids, raw.images, raw.labels, raw.splits, strict=True):
        part = id_.partition("/")[0]
        file = source / part / id_
        assert split in {"seg_train": ("train", "val"), "seg_test": ("test",), "seg_pred": ("unlabelled",)}[part]
        assert label == (-1 if part == "seg_pred" else CLASSES.index(id_.split("/")[1]))
        assert image == file.read_bytes(), "no image is encoded anew"
        assert decode_rgb(image).shape == (40, 48, 3)


def cut_zip(source: Path) -> None:
    path = zipped(intel(source.parent / "good"), source)
    path.write_bytes(path.read_bytes()[:-50])


def damaged_zip(source: Path) -> None:
    path = zipped(intel(source.parent / "good"), source)
    data = bytearray(path.read_bytes())
    start = data.find(b"\xff\xd8")
    data[start + 200 : start + 210] = b"\0" * 10
    path.write_bytes(data)


def escaping_zip(source: Path) -> None:
    zipped(intel(source.parent / "good"), source)
    with zipfile.ZipFile(source, "a") as file:
        file.writestr("seg_train/../../evil.jpg", b"x")


def many_bad(source: Path) -> None:
    intel(source, train=2)
    for number in range(20):
        put(source / f"seg_train/seg_train/sea/bad{number}.jpg", b"bad")


def class_of_bad_images(source: Path) -> None:
    intel(source, test=0)
    for path in (source / "seg_train/seg_train/sea").iterdir():
        path.write_bytes(b"")


def one_class(source: Path) -> None:
    for number in range(9):
        put(source / f"seg_train/sea/{number}.png", encoded(scene(number)))


BAD = {
    "missing": (lambda source: None, ["does not exist", "a folder of images for each class", "gridflow fetch scenes"]),
    "empty folder": (Path.mkdir, ["has no images", "gridflow fetch scenes"]),
    "a file": (lambda source: source.write_text("x"), ["is a file, not a folder or a .zip"]),
    "cut zip": (cut_zip, ["damaged or cut short", "get it again"]),
    "damaged zip": (damaged_zip, ["seg_pred/seg_pred/0.jpg is damaged or cut short", "get it again"]),
    "escaping zip": (escaping_zip, ["'seg_train/../../evil.jpg', which leads out of the folder"]),
    "class folder empty": (
        lambda source: (intel(source, test=0) / "seg_train/seg_train/lake").mkdir(),
        ["no images in seg_train/lake"],
    ),
    "one class": (one_class, ["has images of the class sea alone, and at least two classes are needed"]),
    "class folder missing": (
        lambda source: put(intel(source) / "seg_test/seg_test/lake/1.jpg", b"x"),
        ["has seg_test/lake but not seg_train/lake"],
    ),
    "too many bad": (many_bad, ["of the 54 images", "not an image: 20 (seg_train/sea/bad0.jpg", "max_bad_fraction"]),
    "a class of bad images": (class_of_bad_images, ["no image of the class sea is left to train from"]),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_source_is_one_sentence_and_harms_nothing(work, make, words):
    run(intel(work / "earlier", train=4), work / "data/raw/scenes", max_bad_fraction=1.0)
    before = contents(work / "data")
    make(work / "source")
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        main("scenes")
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)
    assert contents(work / "data") == before
    assert not (work / "evil.jpg").exists()


def test_same_pixels_in_two_classes_and_in_train_and_test(tmp_path):
    source = intel(tmp_path / "source")
    train, test = source / "seg_train/seg_train", source / "seg_test/seg_test"
    put(train / "sea/as street.png", encoded(scene(8000)))
    put(train / "street/as sea.bmp", encoded(scene(8000), "BMP"))  # other bytes, the same pixels
    put(train / "sea/copy.jpg", (train / "sea/0.jpg").read_bytes())
    put(train / "sea/of test.jpg", (test / "sea/0.jpg").read_bytes())
    manifest = run(source, tmp_path / "raw")
    found = quarantine(tmp_path / "raw")
    said = "seg_train/sea/as street.png says sea, seg_train/street/as sea.bmp says street"
    assert found == {
        "seg_train/sea/as street.png": ("conflicting labels", said),
        "seg_train/street/as sea.bmp": ("conflicting labels", said),
        "seg_train/sea/copy.jpg": ("duplicate", "same pixels as seg_train/sea/0.jpg, kept"),
        "seg_train/sea/of test.jpg": ("duplicate", "same pixels as seg_test/sea/0.jpg, kept"),
    }
    assert manifest["refused"] == {"total": 2, "reasons": {"conflicting labels": 2}}


def test_near_duplicates_share_a_split_stay_out_of_test_and_are_told(tmp_path):
    source = intel(tmp_path / "source")
    train, test = source / "seg_train/seg_train", source / "seg_test/seg_test"
    for number in range(30):
        again = encoded(scene(9000 + number, (90, 90)), "JPEG", quality=40)
        put(train / f"sea/{number} first.png", encoded(scene(9000 + number)))
        put(train / f"{'street' if number < 2 else 'sea'}/{number} again.jpg", again)
    put(test / "sea/near.png", encoded(scene(6000)))
    put(train / "sea/of test.jpg", encoded(ImageEnhance.Brightness(scene(6000)).enhance(0.8), "JPEG"))
    manifest = run(source, tmp_path / "raw")
    raw = read_raw(tmp_path / "raw")
    splits = dict(zip(raw.ids, raw.splits, strict=True))
    pairs = [
        (splits[f"seg_train/sea/{n} first.png"], splits[f"seg_train/{'street' if n < 2 else 'sea'}/{n} again.jpg"])
        for n in range(30)
    ]
    assert set(pairs) == {("train", "train"), ("val", "val")}
    detail = "shows what seg_test/sea/near.png shows, which is kept"
    assert quarantine(tmp_path / "raw") == {"seg_train/sea/of test.jpg": ("near-duplicate of a test image", detail)}
    told = manifest["duplicates"]
    assert (told["near"], told["near_train_in_test"], told["near_across_classes"]) == (31, 1, 4)
    assert f"seg_train/sea/of test.jpg: {detail}" in told["examples"]
    assert (
        "near-duplicates under two labels: seg_train/sea/0 first.png, seg_train/street/0 again.jpg" in told["examples"]
    )
    assert manifest["refused"] == {"total": 0, "reasons": {}}, "near-duplicates are not bad"


def test_adding_data_moves_only_images_that_get_a_near_duplicate(tmp_path):
    source = intel(tmp_path / "source", train=40, test=0, pred=0)
    run(source, tmp_path / "a")
    for number in range(30):
        put(source / f"seg_train/seg_train/sea/new{number}.png", encoded(scene(4000 + number)))
    put(source / "seg_train/seg_train/forest/again.png", encoded(scene(41, (96, 96))))  # of forest/0.jpg
    run(source, tmp_path / "b")
    before, after = (
        dict(zip(raw.ids, raw.splits, strict=True)) for raw in map(read_raw, (tmp_path / "a", tmp_path / "b"))
    )
    assert set(before.values()) == {"train", "val", "test"}
    assert {id_ for id_ in before if before[id_] != after[id_]} <= {"seg_train/forest/0.jpg"}
    assert after["seg_train/forest/0.jpg"] == after["seg_train/forest/again.png"]


def test_the_same_source_gives_the_same_bytes_whatever_the_threads(tmp_path):
    source = intel(tmp_path / "source", train=30)
    put(source / "seg_train/seg_train/sea/grey.png", encoded(scene(7000).convert("L")))
    put(source / "seg_train/seg_train/sea/zero.png", b"")
    counts: dict[int, int] = {}
    for name, threads in (("a", 1), ("b", 6)):
        before = threading.active_count()
        running: list[int] = []
        params = IngestParams(**{**SECTION, "source": str(source)})
        layout, folder = layouts(threads)["images"], tmp_path / name
        ingest(
            "scenes",
            layout,
            params,
            folder,
            on_progress=lambda _, running=running: running.append(threading.active_count()),
        )
        counts[threads] = max(running) - before
    assert counts[1] == 1 < counts[6] <= 6
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_warnings_of_the_source_stand_in_the_manifest(tmp_path):
    source = intel(tmp_path / "source", doubled=False)
    for path in (source / "seg_test/sea").iterdir():
        path.unlink()
    warnings = run(source, tmp_path / "raw")["warnings"]
    assert any("there are no images in seg_test/sea" in warning for warning in warnings)
    assert np.unique(read_raw(tmp_path / "raw", "test").labels).tolist() == [0, 1, 2, 3, 5]
