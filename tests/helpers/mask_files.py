"""Sets of masks for the tests of segmentation's training: bright shapes on noise, and the tiniest small SAM."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch

from cnn_core.annotations.masks import encode_mask
from cnn_core.annotations.tables import images_table, objects_table, write_images, write_objects
from cnn_core.files import write_json
from cnn_core.params import from_mapping
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.train import start_network

CLASSES = ["disc", "bar"]
MODEL = {
    "widths": (8, 8, 16, 16),
    "depths": (0, 1, 1, 0),
    "windows": (4, 4, 4),
    "head_width": 8,
    "dim": 64,
    "layers": 1,
    "heads": 4,
    "mlp_dim": 32,
    "frequency": 0.5,
}
PARAMS = {
    "source": "",
    "weights": "none",
    "model": MODEL,
    "imgsz": 64,
    "freeze": "auto",
    "epochs": 2,
    "batch": 2,
    "prompts": 2,
    "points": 0.0,
    "box_jitter": 0.02,
    "learning_rate": 0.003,
    "warmup_fraction": 0.1,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "ema_decay": 0.5,
    "focal": 100.0,
    "dice": 1.0,
    "iou": 1.0,
    "colour": 0.1,
    "fliplr": 0.0,
    "precision": "float32",
    "val_every": 1,
    "seed": 0,
}


def picture(seed: int, height: int = 64, width: int = 64) -> tuple[np.ndarray, list[np.ndarray]]:
    """uint8 (height, width, 3) and the masks of its disc and its bar."""
    draws = np.random.default_rng(seed)
    image = draws.integers(0, 60, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[:height, :width]
    disc = (x - width * draws.uniform(0.2, 0.35)) ** 2 + (y - height / 2) ** 2 < (height / 6) ** 2
    left, top = int(width * draws.uniform(0.6, 0.7)), int(height * draws.uniform(0.1, 0.3))
    bar = (x >= left) & (x < left + 10) & (y >= top) & (y < top + height // 2)
    image[disc | bar] += 150
    return image, [disc, bar]


def write_set(folder: Path, *, train: int = 4, val: int = 2, height: int = 64, width: int = 64) -> Path:
    """A folder as `compose` writes it."""
    images, objects = [], []
    for number in range(train + val):
        split, image_id = ("train" if number < train else "val"), f"p{number}"
        pixels, masks = picture(number, height, width)
        file = Path("images", split, f"{image_id}.png")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / file), pixels[..., ::-1])
        images.append({"image_id": image_id, "file": str(file), "width": width, "height": height, "split": split})
        objects += [object_row(image_id, class_id, mask) for class_id, mask in enumerate(masks)]
    write_images(folder / "images.parquet", images_table(images))
    write_objects(folder / "objects.parquet", objects_table(objects))
    counts = {"train": train, "val": val}
    write_json(folder / "manifest.json", {"schema_version": 1, "classes": CLASSES, "counts": counts})
    return folder


def write_model(folder: Path) -> Path:
    """A model folder of the smallest network, with random weights; ``cnn_core.detection.yolo.quiet`` goes before."""
    params = from_mapping(TrainSegmenterParams, PARAMS, "train_segmenter")
    folder.mkdir()
    torch.save(start_network(params, "none").network.state_dict(), folder / "model.pt")
    write_json(folder / "model.json", {"imgsz": 64, "model": dataclasses.asdict(params.model)})
    return folder


def object_row(image_id: str, class_id: int, mask: np.ndarray) -> dict:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return {
        "image_id": image_id,
        "class_id": class_id,
        "class_name": CLASSES[class_id],
        "x1": float(columns[0]),
        "y1": float(rows[0]),
        "x2": float(columns[-1] + 1),
        "y2": float(rows[-1] + 1),
        "rle": encode_mask(mask),
    }
