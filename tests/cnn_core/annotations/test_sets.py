"""Sets of objects in each format: what is read, what is refused and why, and nothing is lost without a word."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from cnn_core.annotations.label_studio import brush_rle, decode_brush
from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.safe_xml import read_xml
from cnn_core.annotations.sets import UNLISTED, ObjectSet, read_set
from cnn_core.annotations.tables import BOX
from cnn_core.annotations.truth import read_truth
from cnn_core.images.decoding import read_rgb
from tests.helpers.object_formats import HEIGHT, WIDTH, cvat_xml, picture, result, task, voc_object, voc_xml, write_json

CORNERS = [20.0, 20.0, 80.0, 60.0]
# Of label-studio-converter's own `encode_rle`: a mask of 5 x 4 pixels with the pixels 6, 7 and 11 set, in RGBA.
CONVERTERS = (
    [0, 0, 0, 80, 57, 27, 254, 23, 0, 159, 254, 216, 4, 127, 248, 124, 0],
    (5, 4),
)


def reasons(read: ObjectSet, kind: str = "annotation") -> list[str]:
    return [entry.reason for entry in read.refused if entry.kind == kind]


def boxes(read: ObjectSet) -> list[list[float]]:
    return read.annotations[1][BOX].to_numpy().round(6).tolist()


# Pascal VOC


def voc(folder: Path, objects: str, *, name: str = "a", shown: str = "a.jpg") -> Path:
    picture(folder / "JPEGImages" / f"{name}.jpg", len(name))
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(voc_xml(shown, objects))
    return folder


def test_voc_counts_pixels_from_one_and_a_box_holds_its_last_pixel(tmp_path):
    read = read_set(voc(tmp_path, voc_object("dog", 21, 21, 80, 60) + voc_object("cat", 1, 1, WIDTH, HEIGHT)))
    assert boxes(read) == [CORNERS, [0, 0, WIDTH, HEIGHT]]
    assert read.annotations[2] == ["cat", "dog"]
    assert read.annotations[0]["image_id"].tolist() == ["a.jpg"]
    assert read.format == "voc"
    assert not read.refused


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (voc_object("dog", 300, 300, 310, 310), "outside of the 200 x 100"),
        (voc_object("dog", 50, 50, 20, 20), "pixels"),
        (voc_object("dog", "x", 1, 2, 3), "xmin is 'x'"),
        (voc_object("dog", "nan", 1, 2, 3), "no number"),
        (voc_object("", 1, 1, 20, 20), "no class"),
        ("<object><name>dog</name></object>", "no bndbox"),
        ("<object><name>dog</name><robndbox><cx>1</cx></robndbox></object>", "rotated"),
    ],
)
def test_a_bad_object_of_voc_is_refused_and_the_others_stay(tmp_path, bad, reason):
    read = read_set(voc(tmp_path, bad + voc_object("dog", 21, 21, 80, 60)))
    assert boxes(read) == [CORNERS]
    assert [reason in text for text in reasons(read)] == [True]
    assert read.refused[0].name.startswith("object no. 1 of JPEGImages/a.jpg")


def test_voc_as_it_comes(tmp_path):
    voc(tmp_path, voc_object("dog", 21, 21, 80, 60), name="a", shown="elsewhere/photo 1.png")  # by the XML's name
    voc(tmp_path, "", name="bb", shown="bb.jpg")
    voc(tmp_path, voc_object("cat", 1, 1, 9, 9), name="ccc", shown="ccc")
    (tmp_path / "Annotations/dddd.xml").write_text("<annotation><object>")
    (tmp_path / "Annotations/gone.xml").write_text(voc_xml("gone.jpg", voc_object("cat", 1, 1, 9, 9)))
    picture(tmp_path / "JPEGImages/alone.jpg", 9)
    sets = tmp_path / "ImageSets/Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("a\nccc\nlost\n")
    (sets / "test.txt").write_text("bb  -1\nccc\n")
    read = read_set(tmp_path)
    images = read.annotations[0]
    assert dict(zip(images["image_id"], images["split"], strict=True)) == {"a.jpg": "train", "bb.jpg": "test"}
    assert len(read.annotations[1]) == 1
    assert Counter(entry.kind for entry in read.refused) == {"image": 4, "annotation": 2}
    assert sum("not valid XML" in text for text in reasons(read, "image")) == 1
    assert sum("in train and in test" in text for text in reasons(read, "image")) == 1
    assert sum("no XML file" in text for text in reasons(read, "image")) == 1
    assert read.left_out == {UNLISTED: 1}


def test_voc_as_roboflow_exports_it(tmp_path):
    for number, split in enumerate(("train", "valid", "test")):
        picture(tmp_path / split / "same.jpg", number)
        (tmp_path / split / "same.xml").write_text(voc_xml("same.jpg", voc_object("dog", 21, 21, 80, 60)))
    images = read_set(tmp_path).annotations[0]
    assert images["split"].tolist() == ["test", "train", "val"]
    assert images["image_id"].tolist() == ["test/same.jpg", "train/same.jpg", "valid/same.jpg"]
    assert read_truth(tmp_path, "val")[1][BOX].to_numpy().tolist() == [CORNERS]


def test_a_file_of_entities_is_refused(tmp_path):
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    path = tmp_path / "a.xml"
    path.write_text(f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><annotation>&l9;</annotation>')
    with pytest.raises(ValueError, match="declares entities"):
        read_xml(path)
    path.write_text('<!DOCTYPE x [<!ENTITY e "one">]><annotation>&e;</annotation>')
    with pytest.raises(ValueError, match="declares entities"):
        read_xml(path)
    path.write_text('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>')
    with pytest.raises(ValueError, match="entities"):
        read_xml(path)
    path.write_text("<a>" * 100_000)
    with pytest.raises(ValueError, match="elements in each other"):
        read_xml(path)


# CVAT


def cvat(folder: Path, shapes: str, **more: str) -> Path:
    picture(folder / "images/a.jpg", 1)
    attributes = "".join(f' {key}="{value}"' for key, value in more.items())
    image = f'<image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}"{attributes}>{shapes}</image>'
    (folder / "annotations.xml").write_text(cvat_xml(image))
    return folder


BOX_XML = '<box label="dog" occluded="1" xtl="20" ytl="20" xbr="80" ybr="60" z_order="0"></box>'


def test_cvat_boxes_polygons_and_masks(tmp_path):
    polygon = '<polygon label="cat" points="20.0,20.0;80.0,20.0;80.0,60.0;20.0,60.0"></polygon>'
    mask = '<mask label="cat" rle="1, 2, 3" left="10" top="20" width="3" height="2"></mask>'
    read = read_set(cvat(tmp_path, BOX_XML + polygon + mask, subset="Validation"))
    images, objects, classes = read.annotations
    assert classes == ["cat", "dog"]
    assert boxes(read) == [CORNERS, CORNERS, [11, 20, 13, 21]]
    assert [rle and int(decode_mask(rle, HEIGHT, WIDTH).sum()) for rle in objects["rle"]] == [None, 2400, 2]
    assert images["split"].tolist() == ["val"]
    assert not read.refused


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (BOX_XML.replace("occluded", 'rotation="30.0" occluded'), "rotated box (by 30.0"),
        ('<polyline label="cat" points="1,1;2,2"/>', "polyline"),
        ('<points label="cat" points="1,1"/>', "points"),
        ('<ellipse label="cat" cx="1"/>', "ellipse"),
        ('<cuboid label="cat"/>', "cuboid"),
        ('<skeleton label="cat"><points label="1" points="1,1"/></skeleton>', "skeleton"),
        ('<polygon label="cat" points="1,1;2,2"/>', "2 points"),
        ('<polygon label="cat" points="1,1;2,2;3,3"/>', "no area"),
        ('<polygon label="cat" points="1,1;b"/>', "points are"),
        ('<mask label="cat" rle="1, 2" left="10" top="20" width="3" height="2"/>', "does not fill"),
        ('<mask label="cat" rle="6" left="10" top="20" width="3" height="2"/>', "empty"),
        ('<mask label="cat" rle="0, 6" left="198" top="20" width="3" height="2"/>', "does not fit"),
        ('<mask label="cat" rle="-1, 7" left="1" top="2" width="3" height="2"/>', "does not fill"),
        ('<box xtl="20" ytl="20" xbr="80" ybr="60"/>', "no class"),
    ],
)
def test_a_bad_shape_of_cvat_is_refused_by_name_and_the_others_stay(tmp_path, bad, reason):
    read = read_set(cvat(tmp_path, bad + BOX_XML))
    assert boxes(read) == [CORNERS]
    assert [reason in text for text in reasons(read)] == [True], reasons(read)


def test_cvat_for_video_says_what_to_export(tmp_path):
    (tmp_path / "annotations.xml").write_text(cvat_xml('<track id="0" label="cat"/>'))
    with pytest.raises(ValueError, match="CVAT for images"):
        read_set(tmp_path)


# Label Studio

RECTANGLE = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}  # percent


def test_label_studio_rectangles_polygons_and_brushes(tmp_path):
    picture(tmp_path / "images/photo 1.jpg", 1)
    picture(tmp_path / "images/b.jpg", 2)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:50, 7:9] = True
    shapes = [
        result("rectangle", "dog", **RECTANGLE),
        result("polygon", "cat", points=[[10, 20], [40, 20], [40, 60], [10, 60]], closed=True),
        result("brush", "cat", format="rle", rle=brush_rle(mask)),
        {"type": "choices", "value": {"choices": ["sunny"]}},
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    tasks = [
        task(1, "/data/upload/3/0a1b2c3d-photo%201.jpg", *shapes),
        task(2, "/data/local-files/?d=images/b.jpg"),
        {"id": 3, "data": {"image": "images/c.jpg"}, "annotations": []},
    ]
    read = read_set(write_json(tmp_path / "tasks.json", tasks))
    assert boxes(read) == [CORNERS, CORNERS, [7, 3, 9, 50]]
    assert (decode_mask(read.annotations[1]["rle"][2], HEIGHT, WIDTH) == mask).all()
    assert sorted(read.annotations[0]["image_id"]) == ["b.jpg", "photo 1.jpg"]
    assert read.left_out == {"tasks without an annotation": 1}
    assert not read.refused


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (result("rectangle", "dog", **RECTANGLE | {"rotation": 12}), "rotated box (by 12"),
        (result("rectangle", ["dog", "cat"], **RECTANGLE), "2 labels"),
        (result("rectangle", [], **RECTANGLE), "0 labels"),
        (result("rectangle", "dog", **RECTANGLE | {"x": "10"}), "no number"),
        (result("rectangle", "dog", **RECTANGLE | {"x": 120}), "outside"),
        (result("ellipse", "dog", x=5, y=5, radiusX=3, radiusY=3), "ellipselabels"),
        (result("keypoint", "dog", x=5, y=5, width=1), "keypointlabels"),
        (result("polygon", "dog", points=[[1, 1], [2, 2]]), "2 points"),
        (result("polygon", "dog", points=7), "no list"),
        (result("brush", "dog", format="rle", rle=[1, 2, 3]), "cut short"),
        (result("brush", "dog", format="rle", rle="abc"), "no list of bytes"),
        (result("brush", "dog", format="rle", rle=brush_rle(np.ones((5, 5), bool))), "200 x 100"),
        (result("brush", "dog", format="rle", rle=brush_rle(np.zeros((HEIGHT, WIDTH), bool))), "empty"),
        (result("rectangle", "dog", **RECTANGLE) | {"image_rotation": 90}, "turned by 90"),
        (result("rectangle", "dog", **RECTANGLE) | {"original_width": {"x": 1}}, "has the size"),
        (result("rectangle", "dog", **RECTANGLE) | {"original_height": 77}, "has the size"),
    ],
)
def test_a_bad_shape_of_label_studio_is_refused_and_the_others_stay(tmp_path, bad, reason):
    picture(tmp_path / "a.jpg")
    good = [result("rectangle", "dog", **RECTANGLE), result("rectangle", "cat", **RECTANGLE)]
    read = read_set(write_json(tmp_path / "tasks.json", [task(1, "a.jpg", bad, *good)]))
    assert boxes(read) == [CORNERS] * 2
    assert [reason in text for text in reasons(read)] == [True], reasons(read)


def test_the_last_annotation_of_a_task_counts_and_labels_may_stand_apart(tmp_path):
    picture(tmp_path / "a.jpg")
    drawn = {"id": "r", "type": "rectangle", "original_width": WIDTH, "original_height": HEIGHT, "value": RECTANGLE}
    apart = drawn | {"type": "labels", "value": RECTANGLE | {"labels": ["dog"]}}
    first, last = task(1, "a.jpg", result("rectangle", "cat", **RECTANGLE)), task(1, "a.jpg", drawn, apart)
    cancelled = {"was_cancelled": True, "result": []}
    first["annotations"] += [*last["annotations"], cancelled]
    read = read_set(write_json(tmp_path / "tasks.json", [first]))
    assert read.annotations[1]["class_name"].tolist() == ["dog"]
    assert read.unused == {"of other annotators": 1}
    short = [{"id": 1, "image": "a.jpg", "label": [RECTANGLE | {"rectanglelabels": ["dog"], "original_width": WIDTH}]}]
    assert boxes(read_set(write_json(tmp_path / "tasks.json", short))) == [CORNERS]


def test_brushes_of_the_converter_are_read_bit_by_bit():
    rle, (width, height) = CONVERTERS
    assert np.flatnonzero(decode_brush(rle, width, height)).tolist() == [6, 7, 11]


# All formats


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_annotations_of_the_picture_as_it_is_stored_are_turned_with_it(tmp_path, orientation, frame):
    """The same dark square is under the box of either frame."""
    stored = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    stored[20:60, 20:80] = 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))[..., 0]
    shown = stored[..., 0] if frame == "stored" else upright
    (rows,), (columns,) = (np.nonzero((shown == 0).any(axis=axis)) for axis in (1, 0))
    left, top, right, bottom = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    square = [left, top, right, top, right, bottom, left, bottom]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": shown.shape[1], "height": shown.shape[0]}],
        "annotations": [annotation | {"segmentation": [square], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    points = ";".join(f"{x},{y}" for x, y in zip(square[::2], square[1::2], strict=True))
    shape = f'<polygon label="cat" points="{points}"/>'
    image = f'<image id="0" name="a.png" width="{shown.shape[1]}" height="{shown.shape[0]}">{shape}</image>'
    (tmp_path / "cvat.xml").write_text(cvat_xml(image))
    for path in (write_json(tmp_path / "coco.json", content), tmp_path / "cvat.xml"):
        read = read_set(path)
        objects = read.annotations[1]
        x1, y1, x2, y2 = objects[BOX].to_numpy().astype(int)[0]
        assert not read_rgb(tmp_path / "a.png")[y1:y2, x1:x2].any()
        assert (decode_mask(objects["rle"][0], WIDTH, HEIGHT) == (upright == 0)).all()


def test_an_image_of_two_splits_is_kept_where_nothing_is_learned_from_it(tmp_path):
    for name in "ab":
        picture(tmp_path / f"images/{name}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{name}.txt").write_text("0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n")
    (tmp_path / "train.txt").write_text("images/a.jpg\nimages/b.jpg\n")
    (tmp_path / "val.txt").write_text("images/a.jpg\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": "train.txt", "val": "val.txt", "names": ["x"]}))
    read = read_set(tmp_path)
    images = read.annotations[0]
    assert dict(zip(images["image_id"], images["split"], strict=True)) == {"b.jpg": "train", "a.jpg": "val"}
    assert [entry.kind for entry in read.refused].count("image") == 1
    lines = len(read.annotations[1]) + [entry.kind for entry in read.refused].count("annotation")
    assert lines == 6  # each file of two lines was listed: a.txt twice, b.txt once


def test_labels_without_an_image_are_counted_and_a_set_may_lie_elsewhere(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"elsewhere/images/{split}/a.jpg", len(split))
        (tmp_path / f"elsewhere/labels/{split}").mkdir(parents=True)
        (tmp_path / f"elsewhere/labels/{split}/a.txt").write_text("0 .5 .5 .1 .1\n")
    (tmp_path / "elsewhere/labels/train/gone.txt").write_text("0 .5 .5 .1 .1\n0 .2 .2 .1 .1\n")
    content = {"path": str(tmp_path / "elsewhere"), "train": "images/train", "val": "images/val", "names": ["x"]}
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data.yaml").write_text(yaml.safe_dump(content))
    read = read_set(tmp_path / "set")
    assert read.annotations[0]["image_id"].tolist() == ["train/a.jpg", "val/a.jpg"]
    assert read.unused == {"of label files without an image": 2}


def test_categories_of_one_name_are_one_class_and_a_sentence_says_so(tmp_path):
    picture(tmp_path / "a.jpg")
    annotations = [{"id": n, "image_id": 1, "category_id": n, "bbox": [20 * n, 20, 9, 9]} for n in (1, 2)]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}, {"id": 2, "name": "thing"}],
    }
    read = read_set(write_json(tmp_path / "all.json", content))
    assert read.annotations[1]["class_name"].tolist() == ["thing", "thing"]
    assert "several categories have the name 'thing'" in read.warnings[0]


def test_a_folder_that_is_no_set_says_what_can_be_named(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data\.yaml of Ultralytics, COCO JSON, Pascal VOC, CVAT"):
        read_set(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_set(tmp_path / "gone")
