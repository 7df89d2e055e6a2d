"""The grid made visible shows what Ultralytics predicts for the same image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_core.detection.evaluation.grid import GridView, grid_record, grid_sizes, look_at, raw_predictions
from cnn_core.detection.evaluation.grid_picture import draw_grid
from cnn_core.detection.yolo import load_network
from tests.helpers.detector_files import new_weights, photograph, write_detector

CONF, IOU, SIDE = 0.25, 0.5, 160


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("weights") / "random.pt", imgsz=SIDE, boxes=60)


def view_of(weights: Path, image: np.ndarray) -> GridView:
    return look_at(load_network(weights), image, imgsz=SIDE, conf=CONF, iou=IOU)


def test_what_is_kept_is_what_ultralytics_predicts(weights: Path) -> None:
    from ultralytics import YOLO

    image = photograph(SIDE, SIDE, 7)  # uint8 (H, W, 3)
    view = view_of(weights, image)
    expected = YOLO(weights).predict(image[..., ::-1].copy(), imgsz=SIDE, conf=CONF, iou=IOU, verbose=False)[0].boxes
    assert 0 < len(view.kept) < len(view.boxes)
    assert len(view.kept) == len(expected)
    np.testing.assert_allclose(view.scores[view.kept], expected.conf.numpy(), atol=1e-4)
    np.testing.assert_allclose(view.boxes[view.kept].clip(0, SIDE), expected.xyxy.numpy(), atol=0.05)
    assert view.classes[view.kept].tolist() == expected.cls.int().tolist()


def test_every_box_comes_from_its_cell(weights: Path) -> None:
    view = view_of(weights, photograph(120, 200, 3))
    assert view.image.shape == (96, 160, 3)  # the rectangle that Ultralytics letterboxes to
    assert [level.scores.shape for level in view.levels] == [(12, 20), (6, 10), (3, 5)]
    for (level, row, column), score, number in zip(view.cells, view.scores, view.classes, strict=True):
        assert view.levels[level].scores[row, column] == score
        assert view.levels[level].classes[row, column] == number
    assert sum(int((level.scores >= CONF).sum()) for level in view.levels) == len(view.boxes)


@pytest.mark.parametrize("shape", [(160, 160), (120, 200), (200, 90)])
def test_the_picture_is_drawn_whatever_the_shape(weights: Path, tmp_path: Path, shape: tuple) -> None:
    view = view_of(weights, photograph(*shape, 1))
    draw_grid(tmp_path / "grid.png", view)
    first = (tmp_path / "grid.png").read_bytes()
    draw_grid(tmp_path / "grid.png", view)
    assert (tmp_path / "grid.png").read_bytes() == first
    assert Image.open(tmp_path / "grid.png").width > 1000


def test_nothing_found_is_drawn_too(weights: Path, tmp_path: Path) -> None:
    view = look_at(load_network(weights), photograph(160, 160, 1), imgsz=SIDE, conf=1.0, iou=IOU)
    assert len(view.boxes) == len(view.kept) == 0
    draw_grid(tmp_path / "grid.png", view)


def test_what_is_kept_at_a_low_score_tells_what_is_kept_at_any(weights: Path) -> None:
    loaded, image = load_network(weights), photograph(SIDE, SIDE, 7)
    record = grid_record(look_at(loaded, image, imgsz=SIDE, conf=0.02, iou=IOU))
    assert json.loads(json.dumps(record)) == record
    assert (record["height"], record["width"]) == (SIDE, SIDE)
    for conf in (0.1, CONF, 0.5):
        view = look_at(loaded, image, imgsz=SIDE, conf=conf, iou=IOU)
        least = conf + 1e-4  # the record's scores are rounded
        kept = [s for s, stays in zip(record["scores"], record["kept"], strict=True) if stays and s > least]
        scores = view.scores[view.kept]
        assert sorted(kept) == pytest.approx(sorted(scores[scores > least].tolist()), abs=1e-4)


@pytest.mark.parametrize("name", ["yolo11n", "yolo11n-seg", "yolov8n", "yolo26n"])
def test_raw_predictions_are_what_the_network_gives_before_non_maximum_suppression(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    loaded = load_network(new_weights(tmp_path / "some.pt", name))
    images = torch.rand(2, 3, 64, 96)
    predictions = raw_predictions(loaded, images)
    grids = grid_sizes(loaded, 64, 96)
    assert grids == [(8, 12), (4, 6), (2, 3)]
    assert predictions.shape == (2, sum(rows * columns for rows, columns in grids), 4 + 80)
    boxes, scores = predictions[..., :4], predictions[..., 4:]
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    with torch.no_grad():
        output = loaded.network(images)[0]
    output = output[0] if isinstance(output, tuple) else output
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert torch.allclose(centres, output[:, :2].transpose(1, 2), atol=1e-3)
    assert torch.equal(scores, output[:, 4:84].transpose(1, 2))


def test_of_a_network_that_needs_no_suppression_they_are_those_that_it_chooses_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loaded = load_network(new_weights(tmp_path / "some.pt", "yolo26n"))
    loaded.network.end2end = True
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        chosen = loaded.network(images)[0][0]
    boxes, scores = raw_predictions(loaded, images)[0].split([4, 80], 1)
    for *box, score, number in chosen[:5].tolist():
        near = (boxes - torch.tensor(box)).abs().amax(1) < 1e-3
        assert (scores[near, int(number)] - score).abs().min() < 1e-6
