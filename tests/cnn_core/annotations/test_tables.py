"""The shared tables of objects, and what Ultralytics' labels make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from cnn_core.annotations.masks import decode_mask, encode_mask, mask_box
from cnn_core.annotations.tables import (
    BOX,
    IMAGES,
    OBJECTS,
    class_name,
    image_ids,
    images_table,
    objects_table,
    read_images,
    read_objects,
    write_images,
    write_objects,
)
from cnn_core.annotations.yolo_labels import label_file, polygon, read_yolo, write_yolo
from tests.helpers.annotated import CLASSES, HEIGHT, WIDTH, blob, write_set


@pytest.fixture
def truth(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return write_set(tmp_path)


def test_the_tables_columns_and_dtypes_and_what_may_be_left_out(truth):
    images, objects = truth
    assert {name: str(images[name].dtype) for name in images} == {name: kind for name, (kind, _) in IMAGES.items()}
    assert {name: str(objects[name].dtype) for name in objects} == {name: kind for name, (kind, _) in OBJECTS.items()}
    assert objects["score"].isna().all()
    assert objects["track_id"].isna().all()
    empty = objects_table([])
    assert (empty.dtypes == objects.dtypes).all()
    with pytest.raises(ValueError, match="no column 'class_name'"):
        objects_table(objects.drop(columns="class_name"))
    with pytest.raises(ValueError, match="'train/0' stands in the images' table twice"):
        images_table(pd.concat([images, images[:1]]))


def test_parquet_keeps_everything_and_its_types_whatever_the_rows(tmp_path, truth):
    images, objects = truth
    objects["position"] = range(len(objects))  # a column of one's own
    objects.loc[0, "rle"] = None
    objects.loc[1, ["score", "track_id"]] = [0.5, 7]
    write_objects(tmp_path / "o.parquet", objects)
    write_images(tmp_path / "i.parquet", images)
    pd.testing.assert_frame_equal(read_objects(tmp_path / "o.parquet"), objects)
    pd.testing.assert_frame_equal(read_images(tmp_path / "i.parquet"), images)
    assert read_objects(tmp_path / "o.parquet")["rle"][0] is None
    for part in (objects_table([]), objects[:1].drop(columns="position")):  # no mask, no object: the same schema
        write_objects(tmp_path / "p.parquet", part)
        assert (read_objects(tmp_path / "p.parquet").dtypes == objects.drop(columns="position").dtypes).all()


def test_masks_as_text():
    mask = blob(3)
    assert isinstance(encode_mask(mask), str)
    assert (decode_mask(encode_mask(mask), HEIGHT, WIDTH) == mask).all()
    lone = np.zeros((5, 7), bool)
    lone[2:4, 3:6] = True
    assert mask_box(lone) == (3.0, 2.0, 6.0, 4.0), "the far edges lie behind the last pixel"


def test_a_class_is_looked_up_by_its_number():
    assert class_name(1, CLASSES) == "dog"
    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"no class {number}"):
            class_name(number, CLASSES)


def test_names_of_images():
    assert image_ids(["a/images/train/1.png", "a/images/train/2.jpg"]) == ["train/1", "train/2"]
    assert image_ids(["x/1.png", "x/1.jpg"]) == ["x/1.png", "x/1.jpg"], "told apart by their endings"
    assert image_ids(["a/images/1.png", "b/images/1.png"]) == ["a/images/1.png", "b/images/1.png"]


@pytest.mark.parametrize("seed", range(40))
def test_a_polygon_says_just_what_the_mask_does(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 30, 2))
    mask = rng.random((height, width)) < rng.random()
    mask[rng.integers(height), rng.integers(width)] = True
    points = polygon(mask)
    assert (*points.min(axis=0), *points.max(axis=0)) == mask_box(mask)
    filled = coco_mask.decode(coco_mask.frPyObjects([points.ravel().tolist()], height, width)[0])
    assert (filled == mask).all()


@pytest.mark.parametrize("masks", [True, False])
def test_labels_of_ultralytics_there_and_back(tmp_path, truth, masks):
    images, objects = truth
    write_yolo(tmp_path, images, objects, CLASSES, masks=masks)
    assert "path" not in yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert (tmp_path / "labels/train/2.txt").read_text() == "", "an image without an object has an empty file"
    for split in ("train", "val"):
        read, found, classes = read_yolo(tmp_path / "data.yaml", split)
        expected = objects[objects["image_id"].isin(read["image_id"])].reset_index(drop=True)
        assert classes == CLASSES
        pd.testing.assert_frame_equal(read, images[images["split"] == split].reset_index(drop=True))
        assert np.abs(found[BOX].to_numpy() - expected[BOX].to_numpy()).max() < 1e-3
        assert found[["image_id", "class_id", "class_name"]].equals(expected[["image_id", "class_id", "class_name"]])
        assert found["rle"].tolist() == (expected["rle"].tolist() if masks else [None] * len(expected))


def test_boxes_of_large_pictures_keep_a_thousandth_of_a_pixel(tmp_path):
    file = tmp_path / "images/train/a.png"
    file.parent.mkdir(parents=True)
    Image.new("L", (7919, 211)).save(file)
    images = images_table([{"image_id": "train/a", "file": str(file), "width": 7919, "height": 211, "split": "train"}])
    box = {"x1": 1.234, "y1": 0.777, "x2": 7001.501, "y2": 33.333}
    objects = objects_table([{"image_id": "train/a", "class_id": 0, "class_name": "cat", **box}])
    write_yolo(tmp_path, images, objects, CLASSES, masks=True)
    found = read_yolo(tmp_path / "data.yaml", "train")[1]
    assert np.abs(found[BOX].to_numpy() - list(box.values())).max() < 1e-3


def test_images_that_lie_elsewhere_are_linked(tmp_path, truth):
    images, objects = truth
    write_yolo(tmp_path / "there", images, objects, CLASSES, masks=True, link=True)
    read, found, _ = read_yolo(tmp_path / "there/data.yaml", "val")
    assert read["image_id"].tolist() == ["val/3", "val/4"]
    assert found["rle"].tolist() == objects["rle"].tolist()[4:]
    assert Path(read["file"][0]).resolve() == Path(images["file"][3])


def test_any_data_yaml(tmp_path, truth, monkeypatch):
    """Folders, listings, lists of both; with and without path; names as a list or numbered; Roboflow's ``../``."""
    images, objects = truth
    write_yolo(tmp_path, images, objects, CLASSES, masks=True)
    (tmp_path / "some.txt").write_text("./images/train/1.png\n\nnotes.md\n")
    (tmp_path / "all.txt").write_text("\n".join(images["file"]))
    names = {"names": {0: "cat", 1: "dog", 2: "x"}}
    for content, expected in [
        ({"train": "images/train", "names": CLASSES}, ["train/0", "train/1", "train/2"]),
        ({"train": "some.txt", **names}, ["train/1"]),
        ({"train": ["images/val", "some.txt"], **names}, ["train/1", "val/3", "val/4"]),
        ({"train": "all.txt", "nc": 3}, ["train/0", "train/1", "train/2", "val/3", "val/4"]),
        ({"path": str(tmp_path), "train": "images/train", **names}, ["train/0", "train/1", "train/2"]),
        ({"path": tmp_path.name, "train": "images/val", **names}, ["val/3", "val/4"]),
        ({"path": "gone", "train": "../images/val", **names}, ["val/3", "val/4"]),
        ({"train": "images/train", "validation": "images/val", **names}, ["train/0", "train/1", "train/2"]),
    ]:
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
        monkeypatch.chdir(tmp_path.parent)
        read, found, classes = read_yolo(tmp_path / "own.yaml", "train")
        assert read["image_id"].tolist() == expected, content
        assert found["image_id"].isin(expected).all()
        assert len(classes) == 3
    assert read_yolo(tmp_path / "own.yaml", "val")[0]["image_id"].tolist() == ["val/3", "val/4"]
    assert label_file("a/images/b/images/c.d.jpg").as_posix() == "a/images/b/labels/c.d.txt"


@pytest.mark.parametrize(
    ("content", "label", "words"),
    [
        ({"train": "images/train"}, "", "names must list the classes"),
        ({"train": "images/train", "names": {0: "a", 2: "b"}}, "", "without a gap"),
        ({"val": "images/val", "names": CLASSES}, "", "no split train; it has val"),
        ({"train": "images/gone", "names": CLASSES}, "", "images/gone does not exist"),
        ({"train": "images/train", "names": CLASSES, "nc": 5}, "", "nc is 5, but names has 3"),
        ({"train": "images/train", "names": CLASSES, "channels": 10}, "", "channels is 10"),
        ({"train": "images/train", "names": ["cat", "dog", "cat"]}, "", "'cat' twice"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_said(tmp_path, truth, content, label, words):
    write_yolo(tmp_path, *truth, CLASSES, masks=False)
    (tmp_path / "labels/train/1.txt").write_text(label)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=words):
        read_yolo(tmp_path / "data.yaml", "train")
    with pytest.raises(ValueError, match="does not exist"):
        read_yolo(tmp_path / "gone.yaml", "train")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("3 .5 .5 .1 .1", "there is no class 3"),
        ("-1 .5 .5 .1 .1", "there is no class -1"),
        ("0 .5 .5 .1", "neither"),
        ("0 .5 .5 .1 .1 .1", "neither"),
        ("0 40 20 10 10", "not shares of the image's size"),
        ("0 nan .5 .1 .1", "not shares"),
        ("inf .5 .5 .1 .1", "no whole number"),
        ("0 .5 .5 0 .1", "its box is 0 x"),
        ("cat .5 .5 .1 .1", "not all of it are numbers"),
    ],
)
def test_a_bad_line_is_left_out_and_the_good_ones_of_its_file_stay(tmp_path, truth, line, reason):
    write_yolo(tmp_path, *truth, CLASSES, masks=False)
    label = tmp_path / "labels/train/1.txt"
    good = label.read_text()
    expected = read_yolo(tmp_path / "data.yaml", "train")
    label.write_text(f"{line}\n{good}")
    refused = []
    read = read_yolo(tmp_path / "data.yaml", "train", refused=refused)
    pd.testing.assert_frame_equal(read[0], expected[0])
    pd.testing.assert_frame_equal(read[1], expected[1])
    assert [(entry.kind, entry.file) for entry in refused] == [("annotation", str(label))]
    assert line in refused[0].name
    assert reason in refused[0].reason


def test_a_line_that_stands_twice_is_one_object_and_a_photograph_is_upright(tmp_path):
    file = tmp_path / "images/a.jpg"
    file.parent.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 20)).save(file, exif=exif)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("1 .5 .5 .5 .25\n1 .5 .5 .5 .25\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": "images", "names": CLASSES}))
    images, objects, _ = read_yolo(tmp_path / "data.yaml", "train")
    assert images[["width", "height"]].values.tolist() == [[20, 40]]
    assert objects[[*BOX, "class_name"]].values.tolist() == [[5.0, 15.0, 15.0, 25.0, "dog"]]
