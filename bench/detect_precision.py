"""What reduced precision costs a detector: mean average precision and images a second of each engine.

    python -m bench.detect_precision [--weights data/models/detector] [--source data/composed/numbers]

The same weights on the same held-out images; int8 is calibrated on images of the training split, which are not measured
on. Images a second are of the predictor alone, files read included, the second of two passes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from cnn_core.detection import Detector, DetectorParams
from cnn_core.detection_metrics import average_precision, evaluate_boxes, mean, relative_areas
from cnn_core.detection_truth import class_numbers, detections, joined
from cnn_core.truth import read_truth
from tasks.runtime import available_cores

WAYS = {  # name: backend, half, int8
    "torch float32": ("torch", False, False),
    "openvino float32": ("openvino", False, False),
    "onnx float32": ("onnx", False, False),
    "openvino half": ("openvino", True, False),
    "openvino int8": ("openvino", False, True),
}
CALIBRATED = 128  # images
SIZES = (0.15, 0.3)  # of no consequence here


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="data/models/detector")
    parser.add_argument("--source", default="data/composed/numbers")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    truth = read_truth(arguments.source, arguments.split)
    print(f"{arguments.weights} on {len(truth[0]):,} images of {arguments.source}, {available_cores()} threads")
    print(f"{'engine':18} {'mAP50':>7} {'mAP50-95':>9} {'against the first':>18} {'images/s':>9}")
    first = None
    for name, (backend, half, int8) in WAYS.items():
        map50, map50_95, speed = measure(arguments, truth, backend, half, int8)
        first = map50_95 if first is None else first
        print(
            f"{name:18} {map50:7.4f} {map50_95:9.4f} {100 * (map50_95 - first):+11.2f} points {speed:9.0f}", flush=True
        )


def measure(
    arguments: argparse.Namespace, truth: tuple, backend: str, half: bool, int8: bool
) -> tuple[float | None, float | None, float]:
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
    return mean(average_precision(evaluation, at=0.5)), mean(average_precision(evaluation)), len(images) / seconds


def calibration(source: str) -> Iterator[np.ndarray]:
    files = read_truth(source, "train")[0]["file"]
    for file in files[:: max(1, len(files) // CALIBRATED)][:CALIBRATED]:
        yield cv2.imread(file)


if __name__ == "__main__":
    main()
