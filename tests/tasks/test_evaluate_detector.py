"""The stage evaluate_detector: the truth it reads, the classes it compares by, and all that it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from cnn_core.annotations.coco import to_coco
from cnn_core.annotations.tables import images_table, objects_table, read_objects
from cnn_core.annotations.truth import read_truth
from cnn_core.annotations.yolo_labels import write_yolo
from cnn_core.detection.evaluation.detections import class_numbers, detect_images, one_table
from cnn_core.detection.evaluation.metrics import outcomes
from cnn_core.detection.evaluation.pictures import example_images, mistakes_by_image, write_examples
from cnn_core.detection.inference.results import Detections
from cnn_core.drawing.colours import class_colour
from cnn_core.images.seen import write_seen
from tasks import evaluate_detector
from tests.helpers.detector_files import photograph, write_detector

CLASSES = ["0", "1"]  # of the 80 that the networks of write_detector know
VALUES = {
    "weights": "random.pt", "source": "set", "split": "test", "imgsz": 0, "conf": 0.001, "iou": 0.7, "max_det": 300,
    "confidence": 0.25, "match_iou": 0.45, "small": 0.15, "large": 0.4, "resamples": 20, "worst": 4, "seed": 0,
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """Eight images with one object each, as Ultralytics' data set."""
    folder = tmp_path / "set"
    (folder / "images/test").mkdir(parents=True)
    images, objects = [], []
    for number in range(8):
        file = folder / f"images/test/{number}.png"
        Image.fromarray(photograph(64, 64, number)).save(file)
        images.append({"image_id": f"test/{number}", "file": str(file), "width": 64, "height": 64, "split": "test"})
        box = {"x1": 8.0, "y1": 8.0, "x2": 40.0, "y2": 48.0}
        kind = number % 2
        objects.append({"image_id": f"test/{number}", "class_id": kind, "class_name": CLASSES[kind], **box})
    tables = images_table(images), objects_table(objects)
    write_yolo(folder, *tables, CLASSES, masks=False)
    return folder, *tables


class Fake:
    """A detector that finds what it is told to."""

    def __init__(self, names: dict, boxes: list, classes: list) -> None:
        self.info = SimpleNamespace(names=names)
        self.found = Detections(
            height=64,
            width=64,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
            classes=np.array(classes, np.int64),
            masks=None,
        )

    def stream(self, entries):
        for entry in entries:
            yield entry, None, self.found


def test_the_same_truth_from_a_folder_a_data_yaml_and_a_coco_json(data) -> None:
    folder, images, objects = data
    (folder / "test.json").write_text(json.dumps(to_coco(images, objects, CLASSES)))
    for source in (folder, folder / "data.yaml", folder / "test.json"):
        found_images, found, classes = read_truth(source, "test")
        assert classes == CLASSES
        assert [Path(file).name for file in found_images["file"]] == [f"{number}.png" for number in range(8)]
        assert found["class_name"].tolist() == objects["class_name"].tolist()
        np.testing.assert_allclose(found[["x1", "y1", "x2", "y2"]], objects[["x1", "y1", "x2", "y2"]], atol=1e-5)


@pytest.mark.parametrize(("source", "words"), [("nowhere", "does not exist: name a folder"), (".", "has no data.yaml")])
def test_what_is_no_set_is_one_sentence(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_truth(tmp_path / source, "test")


def test_classes_are_compared_by_name_and_those_unknown_to_the_data_left_out(data) -> None:
    _, images, _ = data
    assert class_numbers({0: "car", 3: "1", 7: "0"}, CLASSES) == {3: 1, 7: 0}
    detector = Fake({0: "car", 3: "1", 7: "0"}, [[0, 0, 9, 9], [1, 1, 9, 9], [2, 2, 9, 9]], [7, 0, 3])
    detections = one_table(list(detect_images(detector, images, CLASSES, {})))
    assert detections["class_name"].tolist() == ["0", "1"] * 8
    assert detections["x1"].tolist() == [0.0, 2.0] * 8
    with pytest.raises(ValueError, match="none in common"):
        class_numbers({0: "car"}, CLASSES)


def test_a_class_that_was_renamed_is_found_by_its_name_of_today(data, tmp_path: Path) -> None:
    _, images, _ = data
    (tmp_path / "model").mkdir()
    (tmp_path / "model/renamed.json").write_text(json.dumps({"zero": "0"}))
    detector = Fake({0: "zero", 3: "1"}, [[0, 0, 9, 9], [1, 1, 9, 9]], [0, 3])
    detections = evaluate_detector.detect(detector, str(tmp_path / "model"), images, CLASSES, {})
    assert detections["class_name"].tolist() == ["0", "1"] * 8
    (tmp_path / "model/renamed.json").unlink()
    detections = evaluate_detector.detect(detector, str(tmp_path / "model"), images, CLASSES, {})
    assert detections["class_name"].tolist() == ["1"] * 8


def test_nothing_found_is_an_empty_table(data) -> None:
    _, images, _ = data
    detections = one_table(list(detect_images(Fake({0: "0"}, [], []), images, CLASSES, {})))
    assert len(detections) == 0
    assert "score" in detections


def test_the_examples_are_the_first_and_then_the_worst(data, tmp_path: Path) -> None:
    _, images, truth = data
    detector = Fake({0: "0", 1: "1"}, [[8, 8, 40, 48], [50, 50, 60, 60]], [0, 1])
    detections = one_table(list(detect_images(detector, images, CLASSES, {})))
    table = outcomes(images, truth, detections, confidence=0.25, least_iou=0.45)
    # every image has a false 1; where the object is a 1 it is confused too
    assert mistakes_by_image(images, table).tolist() == [1, 2] * 4
    names = example_images(images, table, first=2, worst=3)
    assert names == ["test/0", "test/1", "test/3", "test/5", "test/7"]
    write_examples(tmp_path / "e.png", {name: photograph(64, 64, 0) for name in names}, truth, detections, table)
    assert Image.open(tmp_path / "e.png").height > 400


def test_classes_have_colours_of_their_own() -> None:
    assert len({class_colour(number) for number in range(80)}) == 80


def test_the_stage_leaves_metrics_plots_and_predictions(data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRIDFLOW_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("GRIDFLOW_CPUS_PER_WORKER", "1")
    write_detector(tmp_path / "random.pt", imgsz=64, boxes=20)
    Path("params.yaml").write_text(yaml.safe_dump({"evaluate_detector": {"detector": VALUES}}))
    threads = torch.get_num_threads()
    evaluate_detector.main("detector")
    torch.set_num_threads(threads)
    metrics = json.loads(Path("data/metrics/evaluate_detector-detector.json").read_text())
    assert (metrics["images"], metrics["objects"], set(metrics["ap50"])) == (8, 8, set(CLASSES))
    assert 0 <= metrics["map50_95"] <= metrics["map50"] <= 1
    assert metrics["map50_low"] <= metrics["map50_high"]
    found = read_objects("data/predictions/detector-test.parquet")
    assert set(found["class_name"]) <= set(CLASSES)
    assert found["score"].between(VALUES["conf"], 1).all()
    curves = pd.read_csv("data/plots/evaluate_detector-detector-pr.csv")
    assert len(curves) == 3 * 101
    confusion = pd.read_csv("data/plots/evaluate_detector-detector-confusion.csv")
    assert (confusion["actual"] != "background").sum() == 8
    for name in ("examples", "grid"):
        assert Image.open(f"data/plots/evaluate_detector-detector-{name}.png").width > 600
    record = json.loads(Path("data/predictions/detector-grid.json").read_text())
    assert len(record["boxes"]) == len(record["kept"]) >= sum(record["kept"])
    assert min(record["scores"], default=1.0) >= evaluate_detector.FAINTEST - 1e-4


def test_images_that_cannot_be_decoded_are_left_out_counted_and_named(
    data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images, objects = data
    (folder / "test.json").write_text(json.dumps(to_coco(images, objects, CLASSES)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRIDFLOW_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("GRIDFLOW_CPUS_PER_WORKER", "1")
    write_detector(tmp_path / "random.pt", imgsz=64, boxes=20)
    Path("params.yaml").write_text(
        yaml.safe_dump({"evaluate_detector": {"detector": VALUES | {"source": "set/test.json"}}})
    )
    (cut, text, gone), files = images["file"][1:4], list(images["file"])
    Path(cut).write_bytes(Path(cut).read_bytes()[:200])
    Path(text).write_text("no image")
    Path(gone).unlink()
    threads = torch.get_num_threads()
    evaluate_detector.main("detector")
    metrics = json.loads(Path("data/metrics/evaluate_detector-detector.json").read_text())
    assert (metrics["listed"], metrics["images"], metrics["left_out"]) == (8, 5, 3)
    assert metrics["objects"] == 5
    left_out = pd.read_csv("data/predictions/detector-left-out.csv")
    named = [number for number in range(8) if left_out["name"].str.endswith(f"/{number}.png").any()]
    assert named == [1, 2, 3]
    assert left_out["reason"].notna().all()
    assert "3 of 8 images cannot be used and are left out" in " ".join(capsys.readouterr())
    for file in files:
        Path(file).write_bytes(Path(cut).read_bytes())
    with pytest.raises(ValueError, match=r"none of .*8 .*images .*can be (used|read).*\.png: damaged image"):
        evaluate_detector.main("detector")
    torch.set_num_threads(threads)


def test_images_that_the_model_learned_from_are_not_called_unseen(
    data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, images, _ = data
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRIDFLOW_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("GRIDFLOW_CPUS_PER_WORKER", "1")
    Path("model").mkdir()
    write_detector(tmp_path / "model/model.pt", imgsz=64, boxes=20)
    Path("model/model.json").write_text("{}")
    files = list(images["file"])
    write_seen("model", {"train": files[:3], "val": files[3:4]}, start="none", threads=1)
    Path("params.yaml").write_text(yaml.safe_dump({"evaluate_detector": {"detector": VALUES | {"weights": "model"}}}))
    threads = torch.get_num_threads()
    evaluate_detector.main("detector")
    torch.set_num_threads(threads)
    metrics = json.loads(Path("data/metrics/evaluate_detector-detector.json").read_text())
    assert metrics["seen"] == {"train": 3, "val": 1, "is_complete": True}
    printed = " ".join(capsys.readouterr())
    assert "of which it has learned from 3 and its epoch was chosen by 1" in printed
    assert "never seen" not in printed


@pytest.mark.parametrize(
    ("change", "words"),
    [({"small": 0.5}, "small must be at most large"), ({"confidence": 0.0}, "confidence must be at least conf")],
)
def test_values_that_contradict_each_other_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate_detector.EvaluateDetectorParams(**VALUES | change)


def test_missing_weights_are_one_sentence(data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = VALUES | {"weights": "data/weights/yolo11n.pt"}
    Path("params.yaml").write_text(yaml.safe_dump({"evaluate_detector": {"detector": values}}))
    with pytest.raises(ValueError, match=r"gridflow fetch yolo11n\.pt"):
        evaluate_detector.main("detector")
