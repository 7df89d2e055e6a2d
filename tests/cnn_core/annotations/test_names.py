"""Class names that hold anything survive tables, CSV, COCO, YAML, the evaluation, the comparison and the report."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cnn_core.annotations.checks import Refused
from cnn_core.annotations.coco import from_coco, to_coco
from cnn_core.annotations.tables import images_table, objects_table, read_objects, write_objects
from cnn_core.annotations.yolo_labels import read_yolo, write_yolo
from cnn_core.comparison.objects import compare_detectors
from cnn_core.detection.evaluation.detections import class_numbers
from cnn_core.detection.evaluation.metrics import (
    ANY_AREA,
    average_precision,
    evaluate_boxes,
    outcomes,
    precision_recall,
    rates,
)
from cnn_core.drawing.boxes import draw_box
from cnn_core.files import read_csv, write_json
from cnn_core.reporting.classifiers import confusion
from cnn_core.reporting.detection import precision_recall as curves
from cnn_core.reporting.numbers import Numbers, pointer
from cnn_core.segmentation.prompts.rows import read_table
from tasks import evaluate_detector

KNOWN = [
    *("NA", "null", "None", "nan", "", "a,b", 'a "b"', "a\nb", "a\rb", "car/truck", "background", "yes", "007", "1e3"),
    *("~", "- x", "#x", "x: y", " x ", "日本", "\u2028", "\x85", "ap50/x", "x" * 200, "\t", "{}", "N/A", "-1"),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ANY = st.one_of(st.sampled_from(KNOWN), TEXT)
NAMES = st.lists(ANY, min_size=1, max_size=4, unique=True)
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("pictures") / "images/a.png"
    file.parent.mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(file)
    return str(file)


def tables(names: list[str], picture: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One picture with an object of each class."""
    images = images_table([{"image_id": "NA", "file": picture, "width": 60, "height": 40, "split": "train"}])
    rows = [
        {"image_id": "NA", "class_id": number, "class_name": name, "x1": 10.0 * number, "y1": 4.0,
         "x2": 10.0 * number + 8, "y2": 30.0} for number, name in enumerate(names)
    ]  # fmt: skip
    return images, objects_table(rows)


@given(names=NAMES)
@example(names=KNOWN[:4])
@quick
def test_files_of_annotations(names: list[str], picture: str) -> None:
    images, objects = tables(names, picture)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_objects(folder / "objects.parquet", objects)
        assert read_objects(folder / "objects.parquet")["class_name"].tolist() == names
        write_json(folder / "coco.json", to_coco(images, objects, names))
        write_yolo(folder, images, objects, names, masks=False, link=True)
        for _, read, classes in (from_coco(folder / "coco.json"), read_yolo(folder / "data.yaml", "train")):
            assert classes == names
            assert read["class_name"].tolist() == names
            assert read["class_id"].tolist() == list(range(len(names)))


@given(names=NAMES)
@example(names=["car/truck", "car", "a\rb"])
@example(names=["NA", "background"])
@quick
def test_evaluation_comparison_and_report(names: list[str], picture: str) -> None:
    images, objects = tables(names, picture)
    detections = objects.assign(score=0.9)
    assert class_numbers(dict(enumerate(names)), names) == {number: number for number in range(len(names))}
    evaluation = evaluate_boxes(
        images, objects, detections, names, max_det=9, areas={"all": (0, ANY_AREA)}, relative=False
    )
    ap = average_precision(evaluation)
    assert ap.tolist() == pytest.approx([1.0] * len(names))
    table = outcomes(images, objects, detections.iloc[:-1], confidence=0.5, least_iou=0.5)
    assert rates(table)["recall"] == (len(names) - 1) / len(names)
    assert list(compare_detectors(images, objects, detections, detections, names, draws=20).classes) == names
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data/metrics").mkdir(parents=True)
        by_class = evaluate_detector.by_class(ap, names)
        write_json(folder / "data/metrics/evaluate_detector-detector.json", {"ap50": by_class})
        numbers = Numbers(folder)
        assert list(numbers.value("evaluate_detector-detector:ap50")) == names
        assert all(numbers.value(f"evaluate_detector-detector:ap50/{pointer(each)}") > 0.99 for each in names)
        evaluate_detector.write_csv(folder / "pr.csv", precision_recall(evaluation, names))
        read = read_csv(folder / "pr.csv")
        assert set(names) <= set(read["class"])
        pairs = evaluate_detector.confusion(table, names)
        evaluate_detector.write_csv(folder / "confusion.csv", pairs)
        counted = confusion(folder / "confusion.csv")
        assert set(counted["classes"]) == set(names) | {"(background)" if "background" in names else "background"}
        assert np.sum(counted["rows"]) == len(names)


def test_the_reports_curves_are_of_every_class(tmp_path: Path, picture: str) -> None:
    images, objects = tables(KNOWN, picture)
    detections = objects.assign(score=0.9)
    evaluation = evaluate_boxes(
        images, objects, detections, KNOWN, max_det=9, areas={"all": (0, ANY_AREA)}, relative=False
    )
    evaluate_detector.write_csv(tmp_path / "pr.csv", precision_recall(evaluation, KNOWN))
    text = json.dumps(curves(tmp_path / "pr.csv"))
    assert all(json.dumps(name) in text for name in KNOWN)


@given(name=ANY)
@quick
def test_a_label_in_a_picture(name: str) -> None:
    draw_box(ImageDraw.Draw(Image.new("RGB", (60, 40))), [5, 5, 30, 30], (1, 2, 3), text=name)


def test_an_image_and_a_class_called_na_in_a_table_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image_id,class_name,x1,y1,x2,y2,score\nNA,null,1,2,3,4,\nnan,,1,2,3,4,NA\n")
    table = read_table(tmp_path / "p.csv")
    assert table["image_id"].tolist() == ["NA", "nan"]
    assert table["class_name"].tolist()[0] == "null"
    assert table["class_name"].isna().tolist() == [False, True]
    assert table["score"].isna().all()
    assert table["x1"].astype(float).tolist() == [1, 1]  # numbers are judged later, row by row


def test_an_image_whose_name_is_not_utf8_is_left_out_by_name(tmp_path: Path) -> None:
    """No table could hold it."""
    for name in (b"a.png", b"caf\xe9.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / os.fsdecode(name))
    (tmp_path / "data.yaml").write_text("train: .\nnames: [a]\n")
    refused: list[Refused] = []
    images, _, _ = read_yolo(tmp_path / "data.yaml", "train", refused=refused)
    assert [Path(file).name for file in images["file"]] == ["a.png"]
    assert [(Path(one.name).name, one.reason) for one in refused] == [
        ("caf\\xe9.png", "its name is not UTF-8: rename it")
    ]
