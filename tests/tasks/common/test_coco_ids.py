"""The COCO results that detect and segment leave: pycocotools' own evaluation takes them as they are written."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cnn_core.annotations.coco import official_ids
from cnn_core.annotations.tables import BOX, read_objects
from cnn_core.annotations.truth import read_truth
from cnn_core.detection.evaluation.metrics import COCO_AREAS, average_precision, evaluate_boxes, mean
from cnn_core.files import NONE, write_json
from tasks.common.prediction_parts import gather, write_part

IDS = {f"{number:03d}.jpg": 900 - 7 * number for number in range(12)}  # as published sets have them: any, with gaps
CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 3, "name": "car/truck"}, {"id": 17, "name": "NA"}]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """A published set: twelve images in val2017, their annotations in a folder beside it."""
    draws = np.random.default_rng(0)
    annotations = []
    for file, number in IDS.items():
        path = tmp_path / "val2017" / file
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (100, 200, 3), np.uint8)).save(path)
        for _ in range(3):
            x, y, width, height = (float(value) for value in draws.integers((0, 0, 20, 20), (100, 40, 90, 50)))
            category = CATEGORIES[int(draws.integers(3))]["id"]
            number_of = len(annotations) + 1
            annotations.append(
                {"id": number_of, "image_id": number, "category_id": category, "bbox": [x, y, width, height],
                 "area": width * height, "iscrowd": 0}
            )  # fmt: skip
    images = [{"id": number, "file_name": file, "width": 200, "height": 100} for file, number in IDS.items()]
    write_json(
        tmp_path / "instances_val2017.json", {"images": images, "annotations": annotations, "categories": CATEGORIES}
    )
    return tmp_path / "instances_val2017.json"


def predictions(folder: Path, truth: Path) -> list[Path]:
    """Parts of detect's: noisy boxes of the truth, the classes numbered as the network numbers them."""
    images, objects, _ = read_truth(truth, "val")
    names = ["cat", "NA", "car/truck", "dog"]
    draws = np.random.default_rng(1)
    boxes = objects[BOX] + draws.normal(0, 4, (len(objects), 4))
    detections = objects.drop(columns="iscrowd").assign(
        **{name: boxes[name] for name in BOX},
        score=draws.random(len(objects)),
        class_id=[names.index(name) for name in objects["class_name"]],
        file=objects["image_id"].map(dict(zip(images["image_id"], images["file"], strict=True))),
        model_sha256="0",
    )
    folders = []
    for number, part in enumerate((images.iloc[:5], images.iloc[5:])):
        at = folder / f"part-{number}"
        at.mkdir()
        rows = detections[detections["image_id"].isin(part["image_id"])].to_dict("records")
        write_part(at, rows, part.drop(columns="split").to_dict("records"), [])
        write_json(at / "model.json", {"names": names, "sha256": "0", "task": "detect"})
        folders.append(at)
    return folders


def test_cocoeval_takes_what_is_written_and_its_figures_are_ours(tmp_path: Path, truth: Path) -> None:
    folders, out = predictions(tmp_path, truth), tmp_path / "out"
    out.mkdir()
    gather(folders, out, source=str(tmp_path / "val2017"), truth=str(truth))
    entries = json.loads((out / "coco.json").read_text())
    assert all(IDS[entry["file_name"]] == entry["image_id"] for entry in entries)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(truth)
        evaluation = COCOeval(reference, reference.loadRes(str(out / "coco.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    images, objects, classes = read_truth(truth, "val")
    detections = read_found(out, classes)
    options = {"max_det": 100, "areas": COCO_AREAS, "relative": False}
    matches = evaluate_boxes(images, objects, detections, classes, **options)
    assert evaluation.stats[0] == pytest.approx(mean(average_precision(matches)))
    assert evaluation.stats[1] == pytest.approx(mean(average_precision(matches, at=0.5)))
    assert 0.1 < evaluation.stats[0] < 0.9


def read_found(folder: Path, classes: list[str]) -> pd.DataFrame:
    """The objects that were gathered, their classes numbered as the truth numbers them."""
    table = pd.concat([read_objects(file) for file in sorted(folder.glob("part-*.parquet"))], ignore_index=True)
    return table.assign(class_id=[classes.index(name) for name in table["class_name"]])


def test_without_a_truth_images_are_numbered_in_order_and_files_are_relative(tmp_path: Path, truth: Path) -> None:
    folders, out = predictions(tmp_path, truth), tmp_path / "out"
    out.mkdir()
    gather(folders, out, source=str(tmp_path / "val2017"), truth=NONE)
    entries = json.loads((out / "coco.json").read_text())
    assert {entry["file_name"]: entry["image_id"] for entry in entries} == {
        file: number for number, file in enumerate(IDS, start=1)
    }
    assert len(entries) == 36


def test_an_image_is_known_by_the_end_of_its_name_and_by_no_other_folders(tmp_path: Path) -> None:
    images = [{"id": 9, "file_name": "a/x.jpg"}, {"id": 8, "file_name": "b/x.jpg"}, {"id": 7, "file_name": "c/y.jpg"}]
    twice = [{"id": 3, "name": "k"}, {"id": 2, "name": "k"}]
    write_json(tmp_path / "t.json", {"images": images, "annotations": [], "categories": twice})
    ids = official_ids(tmp_path / "t.json")
    files = ("z/a/x.jpg", "a/x.jpg", "x.jpg", "y.jpg", "q/y.jpg", "c/y.jpg", "n.jpg")
    assert [ids.image(file) for file in files] == [9, 9, None, 7, None, 7, None]
    assert ids.categories == {"k": 2}


def test_what_the_truth_does_not_have_is_left_out_and_said(tmp_path: Path, truth: Path, capsys) -> None:
    content = json.loads(truth.read_text())
    content["images"] = content["images"][:4]
    content["categories"] = CATEGORIES[:2]
    write_json(tmp_path / "other.json", content)
    folders, out = predictions(tmp_path, truth), tmp_path / "out"
    out.mkdir()
    gathered = gather(folders, out, source=str(tmp_path / "val2017"), truth=str(tmp_path / "other.json"))
    entries = json.loads((out / "coco.json").read_text())
    assert {entry["image_id"] for entry in entries} <= {900, 893, 886, 879}
    assert {entry["category_id"] for entry in entries} <= {90, 3}
    left = gathered.counts["objects"] - len(entries)
    assert f"{left} of 36 objects are not in coco.json" in " ".join(capsys.readouterr())
