"""What reduced precision costs a detector: mean average precision and images a second of each engine.

    python -m bench.detect_precision [--weights data/models/detector] [--source data/composed/numbers]

The same weights on the same held-out images; int8 is calibrated on images of the training split, which are not measured
on. Images a second are of the predictor alone, files read included, the second of two passes. Agreeing are those boxes
of PyTorch in float32 with a score of 0.25 or more of which the engine has one of the same class with IoU >= 0.98 and a
score within 0.01; and, looser, IoU >= 0.9 within 0.05.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou

from cnn_core.annotations.truth import read_truth
from cnn_core.detection.evaluation.detections import class_numbers, detections, joined
from cnn_core.detection.evaluation.metrics import average_precision, evaluate_boxes, mean, relative_areas
from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.params import DetectorParams
from tasks.engine.runtime import available_cores

WAYS = {  # name: backend, half, int8
    "torch float32": ("torch", False, False),
    "openvino float32": ("openvino", False, False),
    "onnx float32": ("onnx", False, False),
    "openvino half": ("openvino", True, False),
    "openvino int8": ("openvino", False, True),
}
CALIBRATED = 128  # images
AGREEMENT = ((0.98, 0.01), (0.9, 0.05))  # least IoU, largest difference of the scores
SHOWN = 0.25  # the score from which `yolo predict` shows a box
SIZES = (0.15, 0.3)  # of no consequence here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="data/models/detector")
    parser.add_argument("--source", default="data/composed/numbers")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    truth = read_truth(arguments.source, arguments.split)
    print(f"{arguments.weights} on {len(truth[0]):,} images of {arguments.source}, {available_cores()} threads")
    print(f"{'engine':18} {'mAP50':>7} {'mAP50-95':>9} {'against the first':>18} {'agreeing':>17} {'images/s':>9}")
    first = None
    for name, (backend, half, int8) in WAYS.items():
        map50, map50_95, found, speed = measure(arguments, truth, backend, half, int8)
        first = first or (map50_95, found)
        shares = [agreeing(first[1], found, *limits) for limits in AGREEMENT]
        told = f"{100 * (map50_95 - first[0]):+11.2f} points {shares[0]:7.1%} {shares[1]:9.1%}"
        print(f"{name:18} {map50:7.4f} {map50_95:9.4f} {told} {speed:9.0f}", flush=True)


def agreeing(reference: pd.DataFrame, found: pd.DataFrame, least_iou: float, within: float) -> float:
    """The share of the reference's boxes with a score from `SHOWN` on that are among those found."""
    reference, groups = reference[reference["score"] >= SHOWN], by_image(found)
    have = sum(
        matched(rows, groups.get(image_id, rows[:0]), least_iou, within)
        for image_id, rows in by_image(reference).items()
    )
    return have / max(1, len(reference))


def by_image(objects: pd.DataFrame) -> dict[str, np.ndarray]:
    """float64 (n, 6) of each image: class, xyxy in pixels, score."""
    columns = ["class_id", "x1", "y1", "x2", "y2", "score"]
    return {str(name): rows[columns].to_numpy(float) for name, rows in objects.groupby("image_id")}


def matched(reference: np.ndarray, found: np.ndarray, least_iou: float = 0.98, within: float = 0.01) -> int:
    """How many of the reference's boxes have one of the same class at this overlap and score; both as `by_image`."""
    overlap = box_iou(torch.tensor(reference[:, 1:5]), torch.tensor(found[:, 1:5])).numpy()
    near = np.abs(reference[:, None, 5] - found[None, :, 5]) <= within
    return int(((overlap >= least_iou) & near & (reference[:, None, 0] == found[None, :, 0])).any(1).sum())


def measure(
    arguments: argparse.Namespace, truth: tuple, backend: str, half: bool, int8: bool
) -> tuple[float | None, float | None, pd.DataFrame, float]:
    images, objects, classes = truth
    params = DetectorParams(
        imgsz=0, conf=0.001, iou=0.7, max_det=300, classes=(), agnostic_nms=False, half=half, int8=int8
    )
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(available_cores())
        detector = Detector(
            arguments.weights,
            params,
            backend=backend,
            device=torch.device("cpu"),
            threads=available_cores(),
            cache=Path(folder, "engines"),
            settings=Path(folder, "settings"),
            calibration=(lambda: calibration(arguments.source)) if int8 else None,
        )
        numbers = class_numbers(detector.about.names, classes)
        for _ in range(2):
            began = time.perf_counter()
            found = joined([rows for _, rows in detections(detector, images, numbers, classes)])
            seconds = time.perf_counter() - began
    areas = relative_areas(*SIZES)
    evaluation = evaluate_boxes(images, objects, found, classes, max_det=300, areas=areas, relative=True)
    precision = [mean(average_precision(evaluation, at=at)) for at in (0.5, None)]
    return *precision, found, len(images) / seconds


def calibration(source: str) -> Iterator[np.ndarray]:
    files = read_truth(source, "train")[0]["file"]
    for file in files[:: max(1, len(files) // CALIBRATED)][:CALIBRATED]:
        yield cv2.imread(file)


if __name__ == "__main__":
    main()
