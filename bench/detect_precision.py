"""The cost of reduced precision for a detector: mean average precision and images/s of each engine.

    python -m bench.detect_precision [--weights data/models/detector] [--source data/composed/numbers]

All engines have the same weights and the same held-out images; int8 is calibrated on images of the training split.
Images a second are those of the second of two passes, of the predictor alone, with the reading of files. A box of
PyTorch in float32 with a score of 0.25 or more agrees if the engine has one of the same class with IoU >= 0.98 and a
score within 0.01 (or, looser, IoU >= 0.9 and within 0.05).
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
from cnn_core.detection.evaluation.detections import detect_images, one_table
from cnn_core.detection.evaluation.metrics import average_precision, evaluate_boxes, mean, relative_areas
from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.params import DetectorParams
from tasks.engine.runtime import available_cores

ENGINES = {  # name: backend, half, int8
    "torch float32": ("torch", False, False),
    "openvino float32": ("openvino", False, False),
    "onnx float32": ("onnx", False, False),
    "openvino half": ("openvino", True, False),
    "openvino int8": ("openvino", False, True),
}
CALIBRATED = 128  # images
AGREEMENT = ((0.98, 0.01), (0.9, 0.05))  # the least IoU, the largest difference of the scores
SHOWN = 0.25  # the score from which `yolo predict` shows a box
SIZES = (0.15, 0.3)  # needed by the evaluation, not used here


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
    for name, (backend, half, int8) in ENGINES.items():
        map50, map50_95, boxes, speed = measure(arguments, truth, backend, half, int8)
        first = first or (map50_95, boxes)
        shares = [agreeing(first[1], boxes, *limits) for limits in AGREEMENT]
        differences = f"{100 * (map50_95 - first[0]):+11.2f} points {shares[0]:7.1%} {shares[1]:9.1%}"
        print(f"{name:18} {map50:7.4f} {map50_95:9.4f} {differences} {speed:9.0f}", flush=True)


def agreeing(reference: pd.DataFrame, boxes: pd.DataFrame, least_iou: float, within: float) -> float:
    """Return the share of the reference's boxes with a score of at least `SHOWN` that are in ``boxes`` too."""
    reference, groups = reference[reference["score"] >= SHOWN], by_image(boxes)
    count = sum(
        matched(rows, groups.get(image_id, rows[:0]), least_iou, within)
        for image_id, rows in by_image(reference).items()
    )
    return count / max(1, len(reference))


def by_image(objects: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return for each image float64 (n, 6): class, xyxy in pixels, score."""
    columns = ["class_id", "x1", "y1", "x2", "y2", "score"]
    return {str(name): rows[columns].to_numpy(float) for name, rows in objects.groupby("image_id")}


def matched(reference: np.ndarray, boxes: np.ndarray, least_iou: float = 0.98, within: float = 0.01) -> int:
    """Count the reference's boxes that have one of the same class, overlap and score; both as `by_image`."""
    overlap = box_iou(torch.tensor(reference[:, 1:5]), torch.tensor(boxes[:, 1:5])).numpy()
    near = np.abs(reference[:, None, 5] - boxes[None, :, 5]) <= within
    return int(((overlap >= least_iou) & near & (reference[:, None, 0] == boxes[None, :, 0])).any(1).sum())


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
        for _ in range(2):
            start = time.perf_counter()
            boxes = one_table(list(detect_images(detector, images, classes, {})))
            seconds = time.perf_counter() - start
    areas = relative_areas(*SIZES)
    evaluation = evaluate_boxes(images, objects, boxes, classes, max_det=300, areas=areas, relative=True)
    precision = [mean(average_precision(evaluation, at=at)) for at in (0.5, None)]
    return *precision, boxes, len(images) / seconds


def calibration(source: str) -> Iterator[np.ndarray]:
    files = read_truth(source, "train")[0]["file"]
    for file in files[:: max(1, len(files) // CALIBRATED)][:CALIBRATED]:
        yield cv2.imread(file)


if __name__ == "__main__":
    main()
