"""The stage `train_detector` as a process that is killed, and goes on."""

from __future__ import annotations

import csv
import json

import pytest
import yaml

from cnn_core.detection import yolo
from tests.helpers.detection_sets import CLASSES, detector_params, rectangles
from tests.helpers.detector_training import job_of, params_of, trained
from tests.helpers.stages import finish, kill, start, wait_for, worker_processes


@pytest.fixture(scope="session", autouse=True)
def _quiet(tmp_path_factory):
    yolo.quiet(tmp_path_factory.mktemp("ultralytics"))


def begin(folder, **changes):
    """The stage as a process, in ``folder``, with small parameters."""
    params = detector_params(source="set", epochs=8, **changes)
    (folder / "params.yaml").write_text(yaml.safe_dump({"train_detector": {"detector": params}}))
    return start(folder, stage="train_detector detector")


@pytest.mark.nightly
def test_a_killed_stage_goes_on_from_its_last_epoch_and_ends_as_if_nothing_had_happened(tmp_path):
    source = rectangles(tmp_path / "set", train=96, val=8)
    (tmp_path / "uninterrupted").mkdir()
    params = params_of(epochs=8, source=str(source), model="yolo11n.yaml")
    uninterrupted = trained(job_of(params, tmp_path / "uninterrupted", source), tmp_path / "uninterrupted")[-1]
    process = begin(tmp_path, model="yolo11n.yaml")
    wait_for(process, "epoch 3/8")
    kill(process)
    assert list((tmp_path / ".gridflow/state").glob("[!.]*"))
    output = finish(begin(tmp_path, model="yolo11n.yaml"))
    metrics = json.loads((tmp_path / "data/metrics/train_detector-detector.json").read_text())
    assert 2 <= metrics["resumed_at"] < 8
    assert f"resuming at epoch {metrics['resumed_at'] + 1} of 8" in output
    with (tmp_path / "data/plots/train_detector-detector.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(number) for number in range(1, 9)]
    losses = [float(row["train_box_loss"]) for row in rows]
    assert losses == pytest.approx([record["train_box_loss"] for record in uninterrupted["history"]], abs=1e-2)
    card = json.loads((tmp_path / "data/models/detector/model.json").read_text())
    assert (card["classes"], card["imgsz"], card["task"]) == (list(CLASSES), 64, "detect")
    assert yolo.load_network(tmp_path / "data/models/detector").imgsz == 64
    assert list((tmp_path / ".gridflow/state").glob("[!.]*")) == []
    assert list(source.rglob("*.cache")) == []
    assert "Ultralytics" not in output


@pytest.mark.nightly
def test_a_killed_worker_is_replaced_and_goes_on(tmp_path):
    source = rectangles(tmp_path / "set", train=96, val=8)
    for image in sorted((source / "images/train").iterdir())[:24]:  # all that the picture of samples would draw
        image.write_bytes(image.read_bytes()[:60])
    process = begin(tmp_path, model="yolo11n.yaml")
    wait_for(process, "epoch 3/8")
    (worker,) = worker_processes(process)
    worker.kill()
    output = finish(process)
    assert "a training worker died" in output
    assert "resuming at epoch" in output
    assert "of 104 images 72 are learned from and 8 validate; 24 left out" in output
    metrics = json.loads((tmp_path / "data/metrics/train_detector-detector.json").read_text())
    assert [metrics[key] for key in ("listed", "images", "left_out", "unused")] == [104, 80, 24, 0]
