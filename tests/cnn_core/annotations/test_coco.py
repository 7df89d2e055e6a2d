"""The tables of objects as COCO JSON and back."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnn_core.annotations.coco import coco_results, from_coco, to_coco
from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import BOX
from cnn_core.annotations.yolo_labels import write_yolo
from tests.helpers.annotated import CLASSES, HEIGHT, WIDTH, write_set


@pytest.fixture
def truth(tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return write_set(tmp_path)


def test_coco_there_and_back(tmp_path, truth):
    images, objects = truth
    (tmp_path / "truth.json").write_text(json.dumps(to_coco(images, objects, CLASSES)))
    read, found, classes = from_coco(tmp_path / "truth.json")
    assert classes == CLASSES
    assert read.drop(columns="split").equals(images.drop(columns="split"))
    pd.testing.assert_frame_equal(found.drop(columns="iscrowd"), objects)
    assert set(read["split"]) == {"train"}
    assert set(from_coco(tmp_path / "truth.json", split="test")[0]["split"]) == {"test"}


def test_pycocotools_takes_truth_and_results(tmp_path, truth):
    """A perfect detector is perfect by pycocotools, for boxes and masks; one that mixes up classes is not."""
    images, objects = truth
    (tmp_path / "truth.json").write_text(json.dumps(to_coco(images, objects, CLASSES)))
    for number, kind, low, high in [(0, "bbox", 1.0, 1.0), (0, "segm", 1.0, 1.0), (1, "bbox", 0.0, 0.5)]:
        guesses = objects.assign(score=0.9, class_id=(objects["class_id"] + number) % 3)
        results = coco_results(images, guesses)
        assert [entry["file_name"] for entry in results[:2]] == [images["file"][0]] * 2
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO(tmp_path / "truth.json")
            assert reference.loadCats(reference.getCatIds()) == [
                {"id": n + 1, "name": name} for n, name in enumerate(CLASSES)
            ]
            evaluation = COCOeval(reference, reference.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert low - 1e-9 <= evaluation.stats[0] <= high + 1e-9
    areas = [entry["area"] for entry in to_coco(images, objects, CLASSES)["annotations"]]
    assert areas == [decode_mask(rle, HEIGHT, WIDTH).sum() for rle in objects["rle"]]


def test_coco_as_it_is_published(tmp_path):
    """Ids with gaps, polygons, uncompressed run lengths, a crowd, an image in a folder beside."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "val2017/7.jpg")
    content = {
        "images": [{"id": 900, "file_name": "7.jpg", "width": 8, "height": 6}],
        "categories": [{"id": 90, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [
            {"id": 5, "image_id": 900, "category_id": 90, "bbox": [1, 2, 3, 2], "iscrowd": 0,
             "segmentation": [[1, 2, 4, 2, 4, 4, 1, 4]]},
            {"id": 6, "image_id": 900, "category_id": 3, "bbox": [0, 0, 1, 6], "iscrowd": 1,
             "segmentation": {"size": [6, 8], "counts": [0, 6, 42]}},
            {"id": 7, "image_id": 900, "category_id": 3, "bbox": [0, 0, 1, 1]},
        ],
    }  # fmt: skip
    path = tmp_path / "annotations/instances_val2017.json"
    path.write_text(json.dumps(content))
    images, objects, classes = from_coco(path)
    assert classes == ["a", "b"]
    assert images.iloc[0].tolist() == ["7", str(tmp_path / "val2017/7.jpg"), 8, 6, "val"]
    assert objects["class_name"].tolist() == ["b", "a", "a"]
    assert objects["iscrowd"].tolist() == [0, 1, 0]
    assert objects[BOX].values.tolist() == [[1, 2, 4, 4], [0, 0, 1, 6], [0, 0, 1, 1]]
    assert decode_mask(objects["rle"][0], 6, 8).sum() == 6
    assert decode_mask(objects["rle"][1], 6, 8)[:, 0].all()
    assert objects["rle"][2] is None
    write_yolo(tmp_path / "yolo", images, objects, classes, masks=True)
    lines = (tmp_path / "yolo/labels/val/7.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [5, 5], "boxes, as not all have masks; the crowd is left out"
    assert to_coco(images, objects, classes)["annotations"][1]["iscrowd"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("[]", "not a COCO instances file"),
        ('{"images": [], "annotations": []}', "it has no categories"),
        (
            '{"images": [], "categories": [], "annotations": [{"id": 1, "image_id": 2, "category_id": 1}]}',
            "none of its 0 images can be used",
        ),
        ("{", "not valid JSON"),
    ],
)
def test_what_is_wrong_with_a_coco_file_is_said(tmp_path, text, words):
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        from_coco(tmp_path / "c.json")


def test_an_object_of_an_unknown_image(truth):
    images, objects = truth
    with pytest.raises(ValueError, match="'train/0', which is not in the images' table"):
        to_coco(images[1:], objects, CLASSES)
