"""New images with boxes and masks: read in every format, judged, and added so that the old stays as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cnn_core.annotations.checks import Refused
from cnn_core.annotations.raw_objects import read_raw_objects
from cnn_core.annotations.tables import BOX as SIDES
from cnn_core.data.ingestion import IngestParams
from cnn_core.data.objects.grown import read_source
from cnn_core.data.objects.ingestion import ingest_objects
from tasks.inbox import main
from tests.helpers.object_deliveries import BOX, FORMATS, coco, label_of, request, ultralytics, voc
from tests.helpers.object_formats import HEIGHT, WIDTH, picture, write_json


def take_in(source: Path, target: Path, *deliveries: Path, **changes: Any) -> list[dict[str, Any]]:
    """The verdict on each delivery; of an accepted one the counts have to add up."""
    verdicts = list(main(request(source, target, deliveries, **changes))["deliveries"].values())
    for verdict in verdicts:
        if verdict["accepted"]:
            others = verdict["known"] + verdict["refused"] + sum(verdict["left_out"].values())
            assert verdict["listed"] == verdict["new"] + others
            annotations = verdict["annotations"]
            lost = annotations["refused"] + annotations["left_out"]
            assert annotations["listed"] == annotations["added"] + lost
    return verdicts


def raw(source: Path, folder: Path) -> tuple[dict[str, str], dict[str, list[Any]], dict[str, Any]]:
    """What ingest makes of a source: the split and the objects of each image, by the image_id; and the manifest."""
    params = IngestParams(
        source=str(source), kind="objects", val_fraction=0.2, test_fraction=0.2, seed=0, max_bad_fraction=1.0,
        near_duplicates=True,
    )  # fmt: skip
    manifest = ingest_objects("things", params, folder)
    images, objects, _ = read_raw_objects(folder, None)
    shown: dict[str, list[Any]] = {name: [] for name in images["image_id"]}
    for row in objects.itertuples():
        shown[row.image_id].append((row.class_id, row.class_name, [getattr(row, side) for side in SIDES]))
    return dict(zip(images["image_id"], images["split"], strict=True)), shown, manifest


@pytest.mark.parametrize(("base", "came"), [*(("coco", came) for came in FORMATS), ("voc", "coco")])
def test_a_set_grows_by_any_format_and_the_old_images_stay_as_they_were(tmp_path: Path, base: str, came: str) -> None:
    source = FORMATS[base](tmp_path / "base", range(24))
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    delivered = FORMATS[came](tmp_path / "in", range(100, 106))
    (verdict,) = take_in(source, tmp_path / "grown", delivered)
    assert verdict["accepted"], verdict
    assert (verdict["new"], verdict["known"], verdict["refused"], verdict["left_out"]) == (6, 0, 0, {})
    splits, objects, _ = raw(source, tmp_path / "raw/before")
    more_splits, more_objects, manifest = raw(tmp_path / "grown", tmp_path / "raw/after")
    assert splits.items() <= more_splits.items()
    assert objects.items() <= more_objects.items()
    new = {name: shown for name, shown in more_objects.items() if name not in objects}
    assert len(new) == 6
    for name, shown in new.items():
        number = int(Path(name).stem)
        ((class_id, label, box),) = shown
        assert (class_id, label) == (number % 2, label_of(number))
        assert box == pytest.approx(BOX, abs=0.1)
    assert manifest["counts"]["train"] + manifest["counts"]["val"] + manifest["counts"]["test"] == 30
    assert {file: file.read_bytes() for file in source.rglob("*") if file.is_file()} == before


def test_classes_are_matched_by_name_and_not_by_number(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(6))
    swapped = ultralytics(tmp_path / "in", range(100, 104), classes=("dog", "cat"))
    spelled = coco(tmp_path / "more", range(200, 204), classes=("cat", "dog"))
    text = (spelled / "instances.json").read_text()
    (spelled / "instances.json").write_text(text.replace('"dog"', '"Dog "'))
    verdicts = take_in(source, tmp_path / "grown", swapped, spelled)
    assert [verdict["new"] for verdict in verdicts] == [4, 4]
    assert verdicts[1]["warnings"] == ["its class 'Dog ' is taken for 'dog'"]
    _, objects, classes = read_source(tmp_path / "grown").annotations
    assert classes == ["cat", "dog"]
    for row in objects.itertuples():
        number = int(Path(row.image_id).stem)
        assert (row.class_id, row.class_name) == (number % 2, label_of(number))


def test_an_image_of_a_class_that_the_set_lacks_is_refused_with_all_its_objects(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(6))
    delivered = ultralytics(tmp_path / "in", range(100, 104), classes=("cat", "dog", "wolf"))
    label = delivered / "labels/train/0100.txt"
    label.write_text(label.read_text() + label.read_text().replace("0 ", "2 ", 1))
    (verdict,) = take_in(source, tmp_path / "grown", delivered)
    assert not verdict["accepted"]
    assert "it shows the class 'wolf'; those of the set are cat, dog" in verdict["reason"]
    assert "unknown class: 1" in verdict["reason"]
    (verdict,) = take_in(source, tmp_path / "grown", delivered, max_bad_fraction=0.5)
    assert (verdict["new"], verdict["refused"]) == (3, 1)
    assert verdict["annotations"] == {"listed": 5, "added": 3, "refused": 2, "left_out": 0}
    assert [entry.kind for entry in map(Refused._make, verdict["refusals"])] == ["image", "annotation", "annotation"]


def test_known_images_are_left_out_and_those_with_other_boxes_are_refused(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(10))
    again = voc(tmp_path / "in", [*range(4), 100])  # VOC counts from 1: its boxes may be off by a pixel
    (verdict,) = take_in(source, tmp_path / "grown", again)
    assert (verdict["listed"], verdict["new"], verdict["known"]) == (5, 1, 4)
    assert verdict["annotations"] == {"listed": 5, "added": 1, "refused": 0, "left_out": 4}
    (verdict,) = take_in(tmp_path / "grown", tmp_path / "more", again)
    assert verdict["reason"] == ("in holds nothing new: of its 5 images 5 are in the set already and 0 are bad")
    moved = coco(tmp_path / "moved", [0, 200], box=(100, 30, 160, 80))
    (verdict,) = take_in(source, tmp_path / "more", moved, max_bad_fraction=0.6)
    assert (verdict["new"], verdict["refused"]) == (1, 1)
    (image, _) = verdict["refusals"]
    assert image.name == "moved/0000.jpg"
    assert image.reason == "conflicting labels: says 1 cat, where the same pixels had them at other places before"


def test_an_image_that_comes_twice_comes_once(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(4))
    delivered = ultralytics(tmp_path / "in", range(100, 104))
    for folder, ending in (("images", "jpg"), ("labels", "txt")):
        shutil.copy(
            delivered / folder / "train/0100.jpg".replace("jpg", ending), delivered / folder / f"train/copy.{ending}"
        )
    again = voc(tmp_path / "again", [100, 300])
    first, second = take_in(source, tmp_path / "grown", delivered, again)
    assert (first["new"], first["known"], second["new"], second["known"]) == (4, 1, 1, 1)


@pytest.mark.parametrize("said", ["", "flag", "folder"])
def test_images_without_a_label_are_background_only_where_a_person_says_so(tmp_path: Path, said: str) -> None:
    source = coco(tmp_path / "base", range(6))
    delivered = ultralytics(tmp_path / "in", range(100, 104))
    picture(delivered / "images/train/0200.jpg", 200)  # among the images of the data.yaml, without a label file
    picture(delivered / ("background" if said == "folder" else "more") / "0201.jpg", 201)
    picture(delivered / "images/train/0202.jpg", 202)
    (delivered / "labels/train/0202.txt").write_text("")  # somebody has looked: it shows none
    (verdict,) = take_in(source, tmp_path / "grown", delivered, background=said == "flag")
    left_out = {"": 2, "flag": 0, "folder": 1}[said]
    assert verdict["left_out"] == ({"images without a label": left_out} if left_out else {})
    assert verdict["new"] == 7 - left_out
    images, objects, _ = read_source(tmp_path / "grown").annotations
    bare = set(images["image_id"]) - set(objects["image_id"])
    assert {Path(name).stem for name in bare} == {
        "": {"0202"}, "flag": {"0200", "0201", "0202"}, "folder": {"0201", "0202"},
    }[said]  # fmt: skip


def test_an_image_without_a_label_takes_no_labelled_ones_name(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(6))
    delivered = coco(tmp_path / "in", [100])
    (delivered / "images").mkdir()
    (delivered / "0100.jpg").rename(delivered / "images/0100.jpg")
    listing = delivered / "instances.json"
    listing.write_text(listing.read_text().replace("0100.jpg", "images/0100.jpg"))
    picture(delivered / "0100.jpg", 300)
    (verdict,) = take_in(source, tmp_path / "grown", delivered, background=True)
    assert (verdict["new"], verdict["known"], verdict["refused"]) == (2, 0, 0)
    images, objects, _ = read_source(tmp_path / "grown").annotations
    assert len(images) == 8
    assert len(set(images["image_id"]) - set(objects["image_id"])) == 1


def test_a_folder_of_pictures_alone_needs_the_word_background(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(6))
    for number in (100, 101):
        picture(tmp_path / "in" / f"{number}.jpg", number)
    picture(tmp_path / "in/labelled.jpg", 102)
    (tmp_path / "in/labelled.txt").write_text("0 0.5 0.5 0.1 0.1\n")  # of no set: its number has no name
    (verdict,) = take_in(source, tmp_path / "grown", tmp_path / "in")
    assert verdict["reason"].startswith("in holds no labels that are read, and 3 images without a label (--background")
    (verdict,) = take_in(source, tmp_path / "grown", tmp_path / "in", background=True, max_bad_fraction=0.5)
    assert (verdict["new"], verdict["refused"]) == (2, 1)
    assert verdict["refusals"][0].reason == (
        "its label file labelled.txt is of no set that is read, so it is no image without a label"
    )


def test_each_bad_thing_is_named_and_the_rest_comes_in(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(4))
    delivered = ultralytics(tmp_path / "in", range(100, 110))
    (delivered / "images/train/0100.jpg").write_bytes(b"\xff\xd8\xff none")
    whole = (delivered / "images/train/0101.jpg").read_bytes()
    (delivered / "images/train/0101.jpg").write_bytes(whole[: len(whole) // 2])
    (delivered / "labels/train/0102.txt").write_text(
        "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n0 0.5 nothing\n9 0.5 0.5 0.2 0.2\n"
    )
    (verdict,) = take_in(source, tmp_path / "grown", delivered, max_bad_fraction=0.4)
    assert (verdict["listed"], verdict["new"], verdict["refused"]) == (10, 8, 2)
    annotations = {"listed": 13, "added": 8, "refused": 4, "left_out": 1}
    assert verdict["annotations"] == annotations
    reasons = "\n".join(": ".join(entry[1:]) for entry in verdict["refusals"])
    for words in ("in/images/train/0100.jpg", "0101.jpg", "nothing", "there is no class 9", "repeats another"):
        assert words in reasons, (words, reasons)
    assert str(tmp_path / "in") not in reasons


def test_a_publishers_splits_stay_and_a_deliverys_count_where_the_set_has_them(tmp_path: Path) -> None:
    published = ultralytics(tmp_path / "base", range(30), splits=("train", "val", "test"))
    delivered = ultralytics(tmp_path / "in", range(100, 112), splits=("train", "val", "test"))
    take_in(published, tmp_path / "grown", delivered)
    before, _, _ = raw(published, tmp_path / "raw/1")
    after, _, _ = raw(tmp_path / "grown", tmp_path / "raw/2")
    assert before.items() <= after.items()
    new = [split for name, split in after.items() if name not in before]
    assert sorted(new) == ["test"] * 4 + ["train"] * 4 + ["val"] * 4
    drawn = coco(tmp_path / "drawn", range(30))
    take_in(drawn, tmp_path / "grown-too", delivered)
    before, _, _ = raw(drawn, tmp_path / "raw/3")
    after, _, _ = raw(tmp_path / "grown-too", tmp_path / "raw/4")
    assert before.items() <= after.items()


def test_image_ids_do_not_collide_and_versions_grow_on(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(4))
    picture(source / "v1-1/0100.jpg", 900)  # the name that a new image would get
    content = json.loads((source / "instances.json").read_text())
    content["images"].append({"id": 900, "file_name": "v1-1/0100.jpg", "width": WIDTH, "height": HEIGHT})
    write_json(source / "instances.json", content)
    delivered = [coco(tmp_path / name, numbers) for name, numbers in (("a", [100, 101]), ("b", [102, 0]))]
    grown = tmp_path / "grown"
    take_in(source, grown, *delivered)
    names = list(read_source(grown).annotations[0]["image_id"])
    assert len(names) == len(set(names)) == 8
    assert "v1-1-2/0100.jpg" in names
    take_in(grown, grown, coco(tmp_path / "c", [103]))  # into itself, as the next version does
    images = read_source(grown).annotations[0]
    assert list(images["image_id"])[:8] == names
    assert len(images) == 9
    assert all(Path(file).is_file() for file in images["file"])


def test_masks_crowds_and_what_the_source_refuses_come_along(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(8))
    content = json.loads((source / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = [[20, 30, 60, 30, 60, 80, 20, 80]]
    content["annotations"][1] |= {"iscrowd": 1}
    content["annotations"][2]["bbox"] = [1, 1, 0, 0]
    content["images"].append({"id": 99, "file_name": "gone.jpg", "width": WIDTH, "height": HEIGHT})
    write_json(source / "instances.json", content)
    picture(source / "unlisted.jpg", 77)
    (source / "0003.jpg").write_bytes(b"none")
    take_in(source, tmp_path / "grown", coco(tmp_path / "in", [100]))
    _, _, before = raw(source, tmp_path / "raw/1")
    _, _, after = raw(tmp_path / "grown", tmp_path / "raw/2")
    assert after["objects"]["with_mask"] == before["objects"]["with_mask"] == 1
    assert after["objects"]["crowds"] == before["objects"]["crowds"] == 1
    assert after["refused"] == before["refused"]
    assert after["annotations"]["refused"] == before["annotations"]["refused"]
    assert after["left_out"] == before["left_out"]
    assert after["images_listed"] == before["images_listed"] + 1


def test_boxes_alone_are_told_where_a_set_has_masks(tmp_path: Path) -> None:
    source = coco(tmp_path / "base", range(4))
    content = json.loads((source / "instances.json").read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[20, 30, 60, 30, 60, 80, 20, 80]]
    write_json(source / "instances.json", content)
    (verdict,) = take_in(source, tmp_path / "grown", coco(tmp_path / "in", range(100, 103)))
    assert verdict["warnings"] == ["3 of its 3 objects have no mask, where all of the set's have one"]


def test_a_zip_comes_in_and_a_single_file_is_told_what_is_wanted(tmp_path: Path) -> None:
    source = shutil.make_archive(str(tmp_path / "base"), "zip", coco(tmp_path / "base", range(4)))
    packed = shutil.make_archive(str(tmp_path / "in"), "zip", voc(tmp_path / "in", range(100, 103)))
    lone, photo = tmp_path / "in/instances.json", tmp_path / "in/0100.jpg"
    lone.write_text("{}")
    verdicts = take_in(Path(source), tmp_path / "grown", Path(packed), lone, photo)
    assert [verdict["accepted"] for verdict in verdicts] == [True, False, False]
    assert verdicts[0]["new"] == 3
    assert verdicts[1]["reason"].startswith("instances.json is one file: put the folder or .zip there")
    assert verdicts[2]["reason"].startswith("0100.jpg is one file")
    assert not list(tmp_path.glob(".unpacked-*"))
