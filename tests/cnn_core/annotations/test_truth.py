"""Truth as tools export it: each image and annotation is judged alone, and the same for training and evaluation."""

from __future__ import annotations

import csv
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_core.annotations.checks import Refused, write_refused
from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import BOX
from cnn_core.annotations.truth import measured_truth, read_truth, refusals
from cnn_core.detection.training.data import open_source
from cnn_core.files import read_csv

GOOD = [20, 20, 60, 40]  # a box as COCO writes it: 20 20 to 80 60
RECT = [20, 20, 80, 20, 80, 60, 20, 60]
CORNERS = [20.0, 20.0, 80.0, 60.0]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (100, 200, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def coco(folder: Path, *, count: int = 4, name: str = "instances_train.json", **changes: Any) -> Path:
    """Images 200 x 100 with one box each; ``changes`` update image 1 (``image``) and its annotation, or all."""
    for number in range(1, count + 1):
        picture(folder / "images" / f"{number}.jpg")
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 200, "height": 100} for n in range(1, count + 1)]
    annotations = [
        {"id": 10 * n, "image_id": n, "category_id": 1, "bbox": GOOD, "area": 2400, "iscrowd": 0}
        for n in range(1, count + 1)
    ]
    images[0] |= changes.get("image", {})
    annotations[0] |= changes.get("annotation", {})
    annotations[0] = {key: value for key, value in annotations[0].items() if value != "-"}
    annotations += changes.get("more", [])
    categories = changes.get("categories", [{"id": 1, "name": "thing"}])
    path = folder / name
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def read(path: Path, split: str = "test") -> tuple[Any, Any, list[str], list[Refused]]:
    refused: list[Refused] = []
    return *read_truth(path, split, refused=refused), refused


@pytest.mark.parametrize(
    ("annotation", "outline"),
    [
        ({"segmentation": [[]]}, None),
        ({"segmentation": [[20, 20, 80, 60]]}, None),
        ({"segmentation": [20, 20, 80, 60]}, None),
        ({"segmentation": RECT}, 2400),
        ({"segmentation": [{"x": 20, "y": 20}, {"x": 80, "y": 20}, {"x": 80, "y": 60}]}, None),
        ({"segmentation": [["20", "20", "80", "20", "80", "60"]]}, None),
        ({"segmentation": [RECT, [1, 2]]}, 2400),
        ({"segmentation": [[300, 300, 310, 300, 310, 310]]}, None),
        ({"segmentation": {"size": [100, 200], "counts": "ZZ"}}, None),
        ({"segmentation": {"size": [100, 200], "counts": [5, 5]}}, None),
        ({"segmentation": {"size": [200, 100], "counts": [0, 20000]}}, None),
        ({"segmentation": 7}, None),
        ({"bbox": "-", "segmentation": [RECT]}, 2400),
        ({"bbox": None, "segmentation": [RECT]}, 2400),
        ({"bbox": [], "segmentation": [RECT]}, 2400),
    ],
)
def test_a_shape_that_is_none_is_no_mask_and_a_missing_box_follows_from_the_shape(tmp_path, annotation, outline):
    _, objects, _, refused = read(coco(tmp_path, annotation=annotation))
    assert objects[BOX].values.tolist() == [CORNERS] * 4
    rle = objects["rle"][0]
    assert (rle and decode_mask(rle, 100, 200).sum()) == outline
    entries = [entry for entry in refused if entry.name == "annotation 10"]
    assert len(entries) == (outline is None or annotation.get("segmentation") == [RECT, [1, 2]])
    data = open_source(tmp_path / "instances_train.json", outlines=False)
    assert all(len(text.splitlines()) == 1 for text in data.labels.values())


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"bbox": [250, 150, 20, 20]}, "outside of the 200 x 100 pixels"),
        ({"bbox": [20, 20, 0, 40]}, "0 x 40 pixels"),
        ({"bbox": [80, 60, -60, -40]}, "-60 x -40 pixels"),
        ({"bbox": [-90, 10, 30, 30]}, "outside"),
        ({"bbox": ["20", "20", "60", "40"]}, "not four numbers"),
        ({"bbox": [20, 20, 60]}, "not four numbers"),
        ({"bbox": {"x": 1}}, "not four numbers"),
        ({"bbox": [20, 20, float("nan"), 40]}, "not four numbers"),
        ({"bbox": "-"}, "not four numbers"),
        ({"image_id": 99}, "image 99"),
        ({"image_id": [1]}, "image [1]"),
        ({"category_id": "1"}, "category '1'"),
        ({"iscrowd": "yes"}, "iscrowd"),
    ],
)
def test_a_bad_annotation_is_left_out_with_its_id_and_the_others_stay(tmp_path, annotation, reason):
    path = coco(tmp_path, annotation=annotation, more=[{"id": 7, "image_id": 1, "category_id": 1, "bbox": GOOD}])
    images, objects, _, refused = read(path)
    assert len(images) == 4
    assert sorted(objects["image_id"]) == ["1", "2", "3", "4"]
    assert objects[BOX].values.tolist() == [CORNERS] * 4
    assert [(entry.kind, entry.file, entry.name) for entry in refused] == [("annotation", str(path), "annotation 10")]
    assert reason in refused[0].reason
    data = open_source(path, outlines=False)
    assert sum(len(text.splitlines()) for text in data.labels.values()) == 4
    assert refused[0] in data.refused


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"width": 100, "height": 200}, "it is 200 x 100 pixels, but the set says 100 x 200"),
        ({"width": "200"}, "its width is '200'"),
        ({"height": -100}, "its height is -100"),
        ({"width": True}, "its width is True"),
        ({"file_name": "gone.jpg"}, "not there"),
        ({"file_name": None}, "its file_name is None"),
        ({"file_name": ".."}, "its file_name is '..'"),
        ({"file_name": "2.jpg"}, "is the file of 2 images"),
        ({"id": None}, "it has no id"),
    ],
)
def test_an_image_that_contradicts_its_file_is_left_out_and_the_others_stay(tmp_path, image, reason):
    path = coco(tmp_path, image=image)
    images, objects, _, refused = read(path)
    left = 2 if "2 images" in reason else 1
    assert len(images) == len(objects) == 4 - left
    assert [entry.kind for entry in refused].count("image") == left
    assert reason in next(entry.reason for entry in refused if entry.kind == "image")
    assert len(objects) + [entry.kind for entry in refused].count("annotation") == 4  # read + refused = listed


def test_sizes_that_are_not_said_are_those_of_the_files_and_a_byte_order_mark_is_none(tmp_path):
    path = coco(tmp_path)
    content = json.loads(path.read_text())
    content["images"] = [{"id": image["id"], "file_name": image["file_name"]} for image in content["images"]]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    images, objects, _, refused = read(path)
    assert images[["width", "height"]].values.tolist() == [[200, 100]] * 4
    assert objects[BOX].values.tolist() == [CORNERS] * 4
    assert not refused


@pytest.mark.parametrize(
    "shown", ["images\\{}", "../../label-studio/media/upload/4/{}", "C:\\set\\images\\{}", "/elsewhere/{}"]
)
def test_files_are_known_by_the_end_of_the_names_that_another_machine_gave_them(tmp_path, shown):
    path = coco(tmp_path)
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = shown.format(image["file_name"])
    path.write_text(json.dumps(content))
    images, objects, _, refused = read(path)
    assert sorted(images["file"]) == [str(tmp_path / "images" / f"{number}.jpg") for number in range(1, 5)]
    assert len(objects) == 4
    assert not refused


def test_a_set_without_one_file_says_which_json_and_which_file(tmp_path):
    path = coco(tmp_path)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"_train\.json: none of its 4 images can be used: 1\.jpg: .*not there"):
        open_source(path, outlines=False)


def test_what_is_left_out_is_said_in_sentences_and_a_table(tmp_path):
    path = coco(tmp_path, count=10, more=[{"id": 7, "image_id": 2, "category_id": 1, "bbox": [500, 5, 9, 9]}])
    (tmp_path / "images/1.jpg").unlink()
    images, _, _, refused = read(path)
    assert [sentence.partition(";")[0] for sentence in refusals(refused, images=len(images))] == [
        "1 of 10 images cannot be used and are left out",
        "2 annotations cannot be used and are left out",
    ]
    assert open_source(path, outlines=False).refused == refused  # read twice, for two parts, and counted once
    write_refused(tmp_path / "left_out.csv", refused)
    lines = (tmp_path / "left_out.csv").read_text().splitlines()
    assert lines[0] == "kind,file,name,reason"
    assert len(lines) == 4


def test_two_categories_of_one_name_are_one_class_and_roboflows_root_is_none(tmp_path):
    twice = [{"id": 1, "name": "thing"}, {"id": 2, "name": "thing"}]
    path = coco(tmp_path / "twice", categories=twice, annotation={"category_id": 2})
    _, objects, classes, _ = read(path)
    assert classes == ["thing"]
    assert objects["class_id"].tolist() == [0] * 4
    root = [
        {"id": 0, "name": "things", "supercategory": "none"},
        {"id": 1, "name": "thing", "supercategory": "things"},
    ]
    assert read(coco(tmp_path / "root", categories=root))[2] == ["thing"]
    used = coco(tmp_path / "used", categories=root, annotation={"category_id": 0})
    assert read(used)[2] == ["things", "thing"]  # of a hierarchy that is meant


def test_roboflow_validates_on_its_own_folder(tmp_path):
    for split, count in (("train", 10), ("valid", 3)):
        file = coco(tmp_path / split, count=count, name="_annotations.coco.json")
        for image in (tmp_path / split / "images").iterdir():
            image.rename(tmp_path / split / image.name)
    for source in (tmp_path, tmp_path / "train/_annotations.coco.json"):
        data = open_source(source, outlines=False)
        assert (len(data.train), len(data.val)) == (10, 3)
        assert {Path(name).parent.name for name in data.val} == {"valid"}
    assert len(read(file, "val")[0]) == 3


def test_a_coco_json_alone_is_measured_on_the_tenth_that_training_did_not_learn_from(tmp_path):
    path = coco(tmp_path, count=25, name="all.json")
    data = open_source(path, outlines=False)
    assert (len(data.train), len(data.val)) == (22, 3)
    assert sorted(read(path, "val")[0]["file"]) == data.val
    assert sorted(read(path, "train")[0]["file"]) == data.train
    assert len(read(path, "test")[0]) == 25


def labelled(path: Path, text: str = "0 0.25 0.5 0.3 0.4\n") -> None:
    picture(path)
    label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text(text)


def test_a_listing_of_cvat_finds_its_images_and_a_tenth_validates(tmp_path):
    for name in "abcd":
        labelled(tmp_path / f"images/train/{name}.jpg")
    (tmp_path / "train.txt").write_text("".join(f"data/images/train/{name}.jpg\n" for name in "abcde"))
    (tmp_path / "data.yaml").write_text("path: .\ntrain: train.txt\nnames:\n  0: x\n  1: y\n")
    data = open_source(tmp_path / "data.yaml", outlines=False)
    assert (len(data.train), len(data.val)) == (3, 1)
    assert all(data.labels[file] for file in data.train + data.val)
    assert {(entry.name, entry.reason) for entry in data.refused} == {("data/images/train/e.jpg", "is not there")}


def test_a_bad_line_costs_neither_its_image_in_training_nor_the_set_in_evaluation(tmp_path):
    for split in ("train", "val"):
        for name in "abcd":
            labelled(tmp_path / split / f"images/{name}.jpg", "0 0.25 0.5 0.3 0.4\n1 1.2 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [x, y]\n")
    data = open_source(tmp_path, outlines=False)
    assert set(data.labels.values()) == {"0 0.25 0.5 0.3 0.4\n"}
    _, objects, _, refused = read(tmp_path / "data.yaml", "val")
    assert len(objects) == len(refused) == 4
    assert len(data.refused) == 8


def test_boxes_among_polygons_become_boxes_for_a_detector_and_are_left_out_for_a_segmenter(tmp_path):
    polygon = "0 0.1 0.2 0.4 0.2 0.4 0.6"
    for split in ("train", "val"):
        labelled(tmp_path / split / "images/a.jpg", f"{polygon}\n1 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [x, y]\n")
    file = str(tmp_path / "train/images/a.jpg")
    lines = open_source(tmp_path, outlines=False).labels[file].splitlines()
    assert [len(line.split()) for line in lines] == [5, 5]
    assert [float(value) for value in lines[0].split()] == pytest.approx([0, 0.25, 0.4, 0.3, 0.4])
    data = open_source(tmp_path, outlines=True)
    assert data.labels[file] == f"{polygon}\n"
    assert [entry.reason for entry in data.refused] == ["it has no outline to learn from"] * 2


def bomb(path: Path) -> None:
    """A PNG of a few bytes whose header says 60,000 x 1,000 pixels, with EXIF data behind them."""
    Image.new("L", (2, 2)).save(path, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0")
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 1_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    path = coco(tmp_path, image={"width": 60_000, "height": 1_000})
    bomb(tmp_path / "images/1.jpg")
    images, _, _, refused = read(path)
    assert len(images) == 3
    assert refused[0].name == "1.jpg"
    assert "has 60000 x 1000 pixels, more than 50,000,000 in all" in refused[0].reason
    (tmp_path / "data.yaml").write_text("{train: images, val: images, names: [a]}")
    images, _, _, refused = read(tmp_path / "data.yaml", "train")
    assert len(images) == 3
    assert refused[0].reason == "has 60000 x 1000 pixels, more than 50,000,000 in all"


def test_an_evaluations_truth_lacks_what_it_left_out(tmp_path):
    path = coco(tmp_path)
    (tmp_path / "out").mkdir()
    names = ["images/1.jpg", str(tmp_path / "images/3.jpg")]
    write_refused(tmp_path / "out/left.csv", [Refused("image", "set", name, "damaged") for name in names])
    images, objects, _ = measured_truth(tmp_path, path.name, "test", "out/left.csv")
    assert [Path(file).name for file in images["file"]] == ["2.jpg", "4.jpg"]
    assert len(objects) == 2
    assert len(measured_truth(tmp_path, path.name, "test", "none.csv")[0]) == 4


def test_a_spreadsheet_computes_nothing_of_what_is_left_out(tmp_path):
    names = ["=1+1.jpg", "@SUM(1)", "-2+3", "+cmd|x", "plain.jpg"]
    write_refused(tmp_path / "left.csv", [Refused("image", "=set", name, name) for name in names])
    assert read_csv(tmp_path / "left.csv")["name"].tolist() == names
    with (tmp_path / "left.csv").open() as file:
        _, *rows = csv.reader(file)
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]
