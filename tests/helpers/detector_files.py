"""Shared by the tests of detection: weights that find something in any photograph, and photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from cnn_core.detection.yolo import quiet


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3) with edges, areas and some noise."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (max(2, height // 80), max(2, width // 80), 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        corner = draws.integers(0, (width, height))
        size = draws.integers(10, max(11, min(height, width) // 3), 2)
        colour = tuple(int(value) for value in draws.integers(0, 256, 3))
        cv2.rectangle(image, tuple(map(int, corner)), tuple(map(int, corner + size)), colour, -1)
    return cv2.add(image, draws.integers(0, 12, image.shape, dtype=np.uint8))


def new_weights(path: Path, name: str = "yolo11n") -> Path:
    """A weights file of this architecture of Ultralytics, as a new network has them."""
    quiet(path.parent)
    from ultralytics import YOLO

    YOLO(f"{name}.yaml").save(str(path))
    return path


def write_detector(path: Path, yaml: str = "yolo11n.yaml", *, imgsz: int = 640, boxes: int = 8, seed: int = 0) -> Path:
    """Random weights whose scores vary, with about ``boxes`` anchors an image above 0.25 (before suppression)."""
    quiet(path.parent)
    from ultralytics import YOLO

    torch.manual_seed(seed)
    model = YOLO(yaml)
    network, head = model.model.eval(), model.model.model[-1]
    with torch.no_grad():
        # Batch statistics of real inputs, so that a signal reaches the head.
        side = min(imgsz, 256)
        images = np.stack([photograph(side, side, number) for number in range(24)])
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        network.train()
        network(inputs)
        network.eval()
        last = [branch[-1] for branch in head.cv3]
        for layer in last:
            _look_for_places(layer, network, inputs)
        for layer in [branch[-1] for branch in head.cv2]:
            torch.nn.init.normal_(layer.weight, std=0.1)
        decoded = network(inputs)
        decoded = decoded[0][0] if isinstance(decoded[0], tuple) else decoded[0]
        best = decoded[:, 4 : 4 + head.nc].amax(1).logit().flatten()
        threshold = best.topk(len(inputs) * boxes).values[-1]
        for layer in last:
            layer.bias.fill_(float(torch.tensor(0.25).logit() - threshold))
    model.ckpt = {"train_args": {"imgsz": imgsz, "task": model.task, "model": yaml}}  # as a trained file has them
    model.save(path)
    return path


def _look_for_places(layer: torch.nn.Conv2d, network: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Random weights that tell places in an image from each other, not images: across their means. Without scores near
    1, where equal ones would come in any order."""
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(inputs)
    hook.remove()
    means, _ = torch.linalg.qr(seen[0].mean((2, 3)).T)
    weight = torch.randn(layer.weight.shape[:2])
    weight -= weight @ means @ means.T
    scores = torch.einsum("kc,nchw->nkhw", weight, seen[0])
    layer.weight.copy_((weight / scores.std() / 3)[:, :, None, None])
    layer.bias.zero_()


def agree(reference: Any, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> bool:
    """Whether Ultralytics' result and these are the same boxes: as many, and each of its boxes has one of the same
    class at IoU >= 0.98 whose score is within 0.01."""
    own = reference.boxes.cpu()
    if len(own) != len(boxes) or not len(own):
        return len(own) == len(boxes)
    overlap = box_iou(own.xyxy.double(), torch.as_tensor(np.array(boxes)).double())
    near = (own.conf[:, None] - torch.as_tensor(np.array(scores))[None]).abs() <= 0.01
    same = own.cls.int()[:, None] == torch.as_tensor(np.array(classes))[None]
    fits = (overlap >= 0.98) & near & same
    return bool(fits.any(0).all() and fits.any(1).all())
