"""Shared by the tests of detectors: tiny sets of bright rectangles in Ultralytics' layout, and parameters for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

CLASSES = ("wide", "tall")


def rectangles(folder: Path, *, side: int = 64, polygons: bool = False, **counts: int) -> Path:
    """One wide or tall rectangle an image; ``counts`` says how many images each split has."""
    draws = np.random.default_rng(0)
    for split, count in (counts or {"train": 12, "val": 4}).items():
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for number in range(count):
            kind = int(draws.integers(0, 2))
            width, height = [(24, 10), (10, 24)][kind]
            x, y = int(draws.integers(2, side - width - 2)), int(draws.integers(2, side - height - 2))
            image = draws.integers(0, 90, (side, side, 3), dtype=np.uint8)
            image[y : y + height, x : x + width] = (40, 220, 220)
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image)
            corners = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)]) / side
            box = [(x + width / 2) / side, (y + height / 2) / side, width / side, height / side]
            values = corners.ravel() if polygons else box
            label = " ".join([str(kind), *(f"{value:.6f}" for value in values)])
            (folder / "labels" / split / f"{number}.txt").write_text(label + "\n")
    content = {split: f"images/{split}" for split in counts or ("train", "val")} | {"names": list(CLASSES)}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder


def detector_params(**changes: Any) -> dict[str, Any]:
    """The section ``train_detector``, for seconds."""
    return {
        "source": "data",
        "weights": "data/weights/none",
        "model": "cnn_core/detection/training/networks/small.yaml",
        "imgsz": 64,
        "epochs": 3,
        "batch": 4,
        "nbs": 4,
        "optimizer": "AdamW",
        "lr0": 0.005,
        "lrf": 0.05,
        "cos_lr": True,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "warmup_epochs": 1.0,
        "warmup_bias_lr": 0.0,
        "ema_decay": 0.9,
        "ema_tau": 10.0,
        "box": 7.5,
        "cls": 0.5,
        "dfl": 1.5,
        "freeze": 0,
        "precision": "float32",
        "val_every": 1,
        "patience": 0,
        "select": "last",
        "fraction": 1.0,
        "seed": 0,
        "mosaic": 0.5,
        "close_mosaic": 1,
        "mixup": 0.0,
        "degrees": 5.0,
        "translate": 0.1,
        "scale": 0.2,
        "shear": 0.0,
        "fliplr": 0.0,
        "flipud": 0.0,
        "hsv_h": 0.01,
        "hsv_s": 0.2,
        "hsv_v": 0.2,
        "multi_scale": 0.0,
    } | changes
