"""The grid made visible shows what Ultralytics predicts for the same image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_core.detection.evaluation.grid import GridView, grid_record, look_at
from cnn_core.detection.evaluation.grid_picture import draw_grid
from cnn_core.detection.yolo import load_network
from tests.helpers.detector_files import photograph, write_detector

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
