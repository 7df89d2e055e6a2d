"""A source of boxes and masks becomes a RAW set: what is kept, clipped, quarantined and split, and nothing is lost."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from cnn_core.annotations.raw_objects import read_raw_objects
from cnn_core.annotations.sets import UNLISTED
from cnn_core.annotations.tables import BOX, read_objects
from cnn_core.annotations.truth import read_truth
from cnn_core.data.ingestion import IngestParams
from cnn_core.data.kinds import kind_of
from cnn_core.data.objects.ingestion import ingest_objects
from cnn_core.images.media import list_media
from cnn_core.images.reader import Reader
from tasks.ingest import metrics, summary
from tests.helpers.annotated import write_set
from tests.helpers.object_deliveries import ultralytics
from tests.helpers.object_formats import HEIGHT, WIDTH, cvat_xml, picture, voc_object, voc_xml, write_json

GOOD = [20, 20, 60, 40]  # as COCO writes it


def params(source: Path, **changes: Any) -> IngestParams:
    fractions = {"val_fraction": 0.2, "test_fraction": 0.2, "max_bad_fraction": 1.0}
    return IngestParams(
        **{"source": str(source), "kind": "objects", "seed": 0, "near_duplicates": True, **fractions, **changes}
    )


def coco(folder: Path, count: int = 20, *, name: str = "instances.json", first: int = 0, **changes: Any) -> Path:
    """Different pictures with a box each; ``more`` adds annotations, ``images`` changes images by their number."""
    numbers = range(first, first + count)
    for number in numbers:
        picture(folder / "images" / f"{number:03d}.jpg", number)
    images: list[dict[str, Any]] = [
        {"id": n, "file_name": f"{n:03d}.jpg", "width": WIDTH, "height": HEIGHT} for n in numbers
    ]
    annotations = [{"id": n + 1, "image_id": n, "category_id": 1, "bbox": GOOD} for n in numbers]
    annotations += [{"id": 1000 + n, "category_id": 1, **each} for n, each in enumerate(changes.get("more", []))]
    for number, change in changes.get("images", {}).items():
        images[number] |= change
    categories = [{"id": 1, "name": "thing"}, {"id": 2, "name": "other"}]
    write_json(folder / name, {"images": images, "annotations": annotations, "categories": categories})
    return folder


def quarantine(folder: Path) -> list[dict[str, str]]:
    return pq.read_table(folder / "quarantine.parquet").to_pylist()


def check_accounts(manifest: dict[str, Any]) -> None:
    """Listed = read + refused + left out."""
    left, read = sum(manifest["left_out"].values()), sum(manifest["counts"].values())
    assert manifest["images_listed"] == read + manifest["refused"]["total"] + left
    annotations = manifest["annotations"]
    lost = annotations["refused"]["total"] + sum(annotations["left_out"].values())
    assert annotations["listed"] == annotations["read"] + lost
    assert annotations["read"] == manifest["objects"]["total"]


def test_a_set_becomes_raw_and_is_read_as_the_source_is(tmp_path):
    source = coco(tmp_path / "set")
    manifest = ingest_objects("things", params(source), tmp_path / "raw/things")
    check_accounts(manifest)
    assert manifest["classes"] == ["thing", "other"]
    assert sum(manifest["counts"].values()) == manifest["objects"]["total"] == 20
    assert manifest["counts"]["train"] > 8
    images, objects, classes = read_raw_objects(tmp_path / "raw/things", None)
    assert classes == ["thing", "other"]
    assert objects[BOX].drop_duplicates().to_numpy().tolist() == [[20, 20, 80, 60]]
    original = {file.name: file.read_bytes() for file in (source / "images").iterdir()}
    assert {Path(file).name: Path(file).read_bytes() for file in images["file"]} == original
    train = read_truth(tmp_path / "raw/things", "train")[0]
    assert len(train) == manifest["counts"]["train"]
    assert (tmp_path / "raw/things/sheet.png").stat().st_size > 10_000
    assert "other" in " ".join(manifest["warnings"])
    assert metrics(manifest)["annotations"]["read"] == 20
    assert any("20 objects of 20 annotations (coco)" in line for line in summary(manifest))
    again = ingest_objects("things", params(source), tmp_path / "raw/again")
    assert {**again, "set": ""} == {**manifest, "set": ""}


def test_each_bad_thing_is_quarantined_with_its_reason_and_the_rest_stays(tmp_path):
    more = [
        {"image_id": 0, "bbox": [150, 20, 50.9, 40]},  # a rounding: clipped
        {"image_id": 0, "bbox": [150, 20, 80, 40]},  # thirty pixels beyond
        {"image_id": 0, "bbox": [300, 20, 8, 40]},
        {"image_id": 0, "bbox": [10, 20, -8, 40]},
        {"image_id": 0, "bbox": [10, 20, "a", 40]},
        {"image_id": 0, "bbox": [1, 2, 3, 4], "category_id": 9},
        {"image_id": 0, "bbox": GOOD},  # again
        {"image_id": 1, "bbox": GOOD, "segmentation": {"size": [3, 3], "counts": [9]}},  # only the outline is bad
        {"image_id": 5, "bbox": [1, 2, 3, 4]},
    ]
    changes = {2: {"width": 77}, 3: {"file_name": "gone.jpg"}}
    source = coco(tmp_path / "set", more=more, images=changes)
    (source / "images/005.jpg").write_bytes(b"no image")
    data = (source / "images/006.jpg").read_bytes()
    (source / "images/006.jpg").write_bytes(data[: len(data) // 2])
    picture(source / "images/unlisted.png", 999)
    manifest = ingest_objects("things", params(source), tmp_path / "raw/things")
    check_accounts(manifest)
    assert manifest["clipped"] == 1
    assert manifest["refused"]["total"] == 4
    assert manifest["left_out"] == {UNLISTED: 2}  # 003.jpg, which the set calls gone.jpg
    reasons = manifest["annotations"]["refused"]["reasons"]
    assert reasons["box outside of its picture"] == 2
    assert {"box without area", "no numbers", "unknown class"} <= reasons.keys()
    assert manifest["annotations"]["left_out"] == {"repeats another annotation": 2}
    entries = quarantine(tmp_path / "raw/things")
    assert all(entry["file"] and entry["reason"] for entry in entries)
    assert any(entry["annotation"] == "annotation 1002" and "outside" in entry["reason"] for entry in entries)
    objects = read_objects(tmp_path / "raw/things/annotations.parquet")
    of_first = objects[objects["image_id"] == "000.jpg"][BOX].to_numpy().tolist()
    assert of_first == [[20, 20, 80, 60], [150, 20, 200, 60]]


def test_too_much_that_is_bad_stops_and_writes_nothing(tmp_path):
    source = coco(tmp_path / "set", more=[{"image_id": 0, "bbox": [300, 1, 5, 5]}] * 5)
    with pytest.raises(ValueError, match=r"5 of the 25 annotations of .* are bad \(20.0%\).*box outside"):
        ingest_objects("things", params(source, max_bad_fraction=0.1), tmp_path / "raw/things")
    assert not (tmp_path / "raw/things").exists()


def test_copies_of_a_picture_share_no_two_splits(tmp_path):
    source = coco(tmp_path / "set", 30)
    copied = Image.open(source / "images/004.jpg")
    copied.save(source / "images/005.jpg", quality=60)  # shows the same
    (source / "images/007.jpg").write_bytes((source / "images/006.jpg").read_bytes())  # is the same
    for seed in range(5):
        manifest = ingest_objects("things", params(source, seed=seed), tmp_path / "raw/things")
        check_accounts(manifest)
        assert manifest["left_out"] == {"duplicate": 1}
        images = read_raw_objects(tmp_path / "raw/things", None)[0].set_index("image_id")["split"]
        assert images["004.jpg"] == images["005.jpg"]
        assert "007.jpg" not in images
        assert manifest["annotations"]["left_out"] == {"of an image that repeats another": 1}


def test_train_holds_nothing_of_what_the_publishers_test_part_shows(tmp_path):
    for number, part in enumerate(("train", "test")):
        coco(tmp_path / "set", 12, name=f"annotations/instances_{part}.json", first=100 * number)
    shown = Image.open(tmp_path / "set/images/104.jpg")
    shown.save(tmp_path / "set/images/004.jpg", quality=60)
    manifest = ingest_objects("things", params(tmp_path / "set"), tmp_path / "raw/things")
    check_accounts(manifest)
    assert manifest["left_out"] == {"near-duplicate of a test image": 1}
    images = read_raw_objects(tmp_path / "raw/things", None)[0]
    assert "104.jpg" in set(images["image_id"])
    assert "004.jpg" not in set(images["image_id"])
    assert any("004.jpg" in entry["file"] for entry in quarantine(tmp_path / "raw/things"))


def test_equal_pictures_with_other_boxes_are_refused(tmp_path):
    source = coco(tmp_path / "set", more=[{"image_id": 7, "bbox": [1, 1, 9, 9]}])
    (source / "images/007.jpg").write_bytes((source / "images/006.jpg").read_bytes())
    manifest = ingest_objects("things", params(source), tmp_path / "raw/things")
    assert manifest["refused"]["reasons"] == {"conflicting labels": 2}
    check_accounts(manifest)


@pytest.mark.parametrize(
    ("parts", "drawn"),
    [
        (("train",), {"train", "val", "test"}),
        (("train", "val"), {"train", "val"}),
        (("train", "test"), {"train", "val", "test"}),
        (("train", "val", "test"), {"train", "val", "test"}),
        (("val",), {"train", "val", "test"}),
    ],
)
def test_what_the_publisher_split_stays_and_the_rest_is_drawn(tmp_path, parts, drawn):
    for number, part in enumerate(parts):
        coco(tmp_path / "set", 40, name=f"annotations/instances_{part}.json", first=100 * number)
    manifest = ingest_objects("things", params(tmp_path / "set"), tmp_path / "raw/things")
    images = read_raw_objects(tmp_path / "raw/things", None)[0]
    assert set(images["split"]) == drawn
    check_accounts(manifest)
    for number, part in enumerate(parts):
        of_part = images[images["image_id"].str.slice(0, 1) == str(number)]
        if part != "train" and len(parts) > 1:
            assert set(of_part["split"]) == {part}
        elif "val" in parts and len(parts) > 1:
            assert set(of_part["split"]) == {"train"}
        else:
            assert len(set(of_part["split"])) > 1


def test_more_data_moves_no_image(tmp_path):
    few, many = coco(tmp_path / "few", 20), coco(tmp_path / "many", 40)
    splits = []
    for source in (few, many):
        ingest_objects("things", params(source), tmp_path / "raw" / source.name)
        images = read_raw_objects(tmp_path / "raw" / source.name, None)[0]
        splits.append(dict(zip(images["image_id"], images["split"], strict=True)))
    assert splits[0].items() <= splits[1].items()


def test_a_zip_is_read_as_its_folder_and_messages_name_the_zip(tmp_path):
    source = coco(tmp_path / "set", images={3: {"file_name": "gone.jpg"}})
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in source.rglob("*.*"):
            archive.write(file, Path("around") / file.relative_to(source))
    expected = ingest_objects("things", params(source), tmp_path / "raw/folder")
    manifest = ingest_objects("things", params(tmp_path / "set.zip"), tmp_path / "raw/zipped")
    assert manifest["counts"] == expected["counts"]
    assert manifest["objects"]["total"] == 19
    texts = json.dumps(quarantine(tmp_path / "raw/zipped"))
    assert "set.zip/around/instances.json" in texts
    assert ".unpacked" not in texts
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["folder", "zipped"]


def test_the_splits_of_a_set_of_ours_stay_and_it_says_that_it_was_composed(tmp_path):
    images, objects = write_set(tmp_path / "set")
    from cnn_core.annotations.yolo_labels import write_yolo

    write_yolo(tmp_path / "set", images, objects, ["cat", "dog", "yes"], masks=True)
    (tmp_path / "set/manifest.json").write_text('{"generated": true}')
    for number, file in enumerate(images["file"]):
        picture(Path(file), number, size=(61, 43))
    manifest = ingest_objects("things", params(tmp_path / "set"), tmp_path / "raw/things")
    assert manifest["generated"] is True
    assert manifest["counts"] == {"train": 3, "val": 2, "test": 0}
    raw = read_raw_objects(tmp_path / "raw/things", None)[1]
    assert raw["rle"].tolist() == objects["rle"].tolist()
    assert raw[BOX].to_numpy() == pytest.approx(objects[BOX].to_numpy(), abs=1e-5)


def test_a_split_of_raw_is_a_source_of_detect(tmp_path):
    manifest = ingest_objects("things", params(coco(tmp_path / "set")), tmp_path / "raw/things")
    every, test = (list_media(tmp_path / "raw/things", match=match) for match in ("*", "part-test-*"))
    assert every.count == 20
    assert test.count == manifest["counts"]["test"]
    names = {entry.image_id for part in test.parts(8) for entry in Reader()(part)}
    assert names == set(read_truth(tmp_path / "raw/things", "test")[0]["image_id"])


def test_what_was_unpacked_of_an_older_content_is_removed(tmp_path):
    for count in (20, 25):
        ingest_objects("things", params(coco(tmp_path / "set", count)), tmp_path / "raw/things")
        read_truth(tmp_path / "raw/things", "train")
        read_truth(tmp_path / "raw/things", "val")
        assert [path.name for path in (tmp_path / "raw").iterdir()] == ["things"]  # stages depend on this folder whole
        assert len(list((tmp_path / "unpacked").iterdir())) == 1


def test_auto_recognises_objects_by_their_files(tmp_path):
    picture(tmp_path / "voc/JPEGImages/a.jpg")
    (tmp_path / "voc/Annotations").mkdir()
    (tmp_path / "voc/Annotations/a.xml").write_text(voc_xml("a.jpg", voc_object("dog", 1, 1, 9, 9)))
    (tmp_path / "cvat").mkdir()
    (tmp_path / "cvat/annotations.xml").write_text(cvat_xml(""))
    coco(tmp_path / "coco", 2)
    write_json(tmp_path / "tasks/tasks.json", [{"id": 1, "data": {"image": "a"}, "annotations": []}])
    picture(tmp_path / "classes/seg_train/cat/a.jpg")
    (tmp_path / "classes/seg_train/cat/a.xml").write_text("<annotation/>")
    kinds = {name: kind_of(tmp_path / name) for name in ("voc", "cvat", "coco", "tasks", "classes")}
    assert kinds == {**dict.fromkeys(("voc", "cvat", "coco", "tasks"), "objects"), "classes": "images"}
    assert Counter(kinds.values())["objects"] == 4


@pytest.mark.parametrize(("named", "watched"), [("", True), ("data.yaml", False)])
def test_a_file_that_leads_to_others_is_told_as_dvc_watches_it_alone(tmp_path, named, watched):
    source = ultralytics(tmp_path / "set", range(12)) / named
    manifest = ingest_objects("things", params(source), tmp_path / "raw/things")
    warnings = [warning for warning in manifest["warnings"] if warning.startswith(f"DVC watches {source} alone")]
    assert bool(warnings) is not watched


@pytest.mark.parametrize("others", [False, True])
def test_a_json_leads_to_those_of_other_splits(tmp_path, others):
    coco(tmp_path / "set", 12, name="instances_train.json")
    if others:
        coco(tmp_path / "set", 6, name="instances_val.json", first=20)
    source = tmp_path / "set/instances_train.json"
    manifest = ingest_objects("things", params(source), tmp_path / "raw/things")
    assert any(warning.startswith("DVC watches") for warning in manifest["warnings"]) is others
