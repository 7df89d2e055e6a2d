"""Stage ``evaluate_detector``: measure a detector on the held-out split of a set.

It writes average precision, confusion, examples, and a picture of what the grid's cells say.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pycocotools.cocoeval import COCOeval

from cnn_core.annotations.checks import Refused, write_refused
from cnn_core.annotations.tables import write_objects
from cnn_core.annotations.truth import read_truth, refusals, refused_images, without_images
from cnn_core.data.class_changes import names_now
from cnn_core.detection.evaluation.detections import detect_images, one_table
from cnn_core.detection.evaluation.grid import grid_record, look_at
from cnn_core.detection.evaluation.grid_picture import draw_grid
from cnn_core.detection.evaluation.metrics import (
    BACKGROUND,
    COCO_AREAS,
    average_precision,
    evaluate_boxes,
    map50_interval,
    mean,
    outcomes,
    precision_recall,
    rates,
    relative_areas,
)
from cnn_core.detection.evaluation.pictures import example_images, mistakes_by_image, write_examples
from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.params import DetectorParams
from cnn_core.detection.yolo import load_network, weights_file
from cnn_core.devices import pick_device
from cnn_core.files import is_composed, write_csv, write_json
from cnn_core.images.reader import read_image
from cnn_core.images.seen import claim, overlap
from cnn_core.locks import temporary_folder
from cnn_core.params import Params, bounded, load_section
from tasks.engine import events
from tasks.engine.runtime import load_runtime
from tasks.engine.state import input_sha256

FIRST = 6  # images that are shown whatever was detected in them
FAINTEST = 0.02  # the least score of a box in the report's grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateDetectorParams(Params):
    """The section ``evaluate_detector.<model>``.

    ``imgsz``, ``conf``, ``iou`` and ``max_det`` are Ultralytics' names.
    """

    weights: str  # a model folder or a weights file
    source: str  # a folder with a data.yaml, a data.yaml or a COCO JSON
    split: str
    imgsz: int = bounded(0, 8192)  # 0 = what the weights were trained with
    conf: float = bounded(0, 1)  # low, as a curve needs the unsure boxes too
    iou: float = bounded(0, 1)  # of non-maximum suppression
    max_det: int = bounded(1)
    confidence: float = bounded(0, 1)  # the least of a box in the confusion and in the pictures
    match_iou: float = bounded(0, 1)  # above which a box matches an object there
    small: float = bounded(0, 1)  # limits of the sizes, as shares of the image's side
    large: float = bounded(0, 1)
    resamples: int = bounded(0)  # of the images, for the interval of mAP50
    worst: int = bounded(0, 200)  # number of images with mistakes that are shown
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.small > self.large:
            raise ValueError(f"small must be at most large, {self.large}, not {self.small}")
        if self.confidence < self.conf:
            raise ValueError(f"confidence must be at least conf, {self.conf}, not {self.confidence}")


PARAMS = EvaluateDetectorParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"evaluate_detector.{name}")
    left_out = f"data/predictions/{name}-left-out.csv"  # images and annotations of the truth that cannot be used
    weights_file(params.weights)  # fails early when they are missing
    refused: list[Refused] = []
    annotations = read_truth(params.source, params.split, refused=refused)
    faults: dict[str, str] = {}
    with temporary_folder() as scratch:
        detector = make_detector(params, scratch)
        detected = detect(detector, params.weights, annotations[0], annotations[2], faults)
    refused += refused_images(faults, params.source)
    images, truth, classes = without_images(annotations, faults, source=params.source, split=params.split)
    for sentence in refusals(refused, images=len(images)):
        events.log(f"warning: {sentence}; all are in {left_out}")
    table = outcomes(images, truth, detected, confidence=params.confidence, least_iou=params.match_iou)
    plot = f"data/plots/evaluate_detector-{name}"
    Path(plot).parent.mkdir(parents=True, exist_ok=True)
    metrics, evaluation = measure(params, images, truth, detected, classes)
    write_csv(f"{plot}-pr.csv", precision_recall(evaluation, classes))
    write_csv(f"{plot}-confusion.csv", confusion(table, classes))
    Path("data/predictions").mkdir(parents=True, exist_ok=True)
    write_objects(f"data/predictions/{name}-test.parquet", detected)
    write_refused(left_out, refused)
    show(params, name, images, truth, detected, table)
    kinds = Counter(entry.kind for entry in refused)
    metrics |= rates(table) | {"listed": len(images) + kinds["image"], "left_out": kinds["image"]}
    metrics["left_out_annotations"] = kinds["annotation"]
    metrics |= {"weights_sha256": detector.info.sha256, "generated": is_composed(params.source)}
    metrics["source_sha256"] = input_sha256(params.source)
    seen = overlap(params.weights, images["file"], threads=detector.threads)
    metrics |= {"seen": dataclasses.asdict(seen)} if seen else {}
    events.write_metrics(f"data/metrics/evaluate_detector-{name}.json", metrics)
    events.log(
        f"mAP50 {metrics['map50']:.3f}, mAP50-95 {metrics['map50_95']:.3f} on {len(images):,} images with "
        f"{len(truth):,} objects {claim(seen)}"
    )


def make_detector(params: EvaluateDetectorParams, scratch: Path) -> Detector:
    """Build the detector in plain torch and float32: the figures are the weights', not an engine's."""
    runtime = load_runtime()
    cores = runtime.threads()
    torch.set_num_threads(cores)
    taken = {name: getattr(params, name) for name in ("imgsz", "conf", "iou", "max_det")}
    return Detector(
        params.weights,
        DetectorParams(**taken, classes=(), agnostic_nms=False, half=False, int8=False),
        backend="torch",
        device=pick_device(runtime.use_gpu),
        threads=cores,
        cache=scratch / "engines",
        settings=scratch / "settings",
        batch=runtime.micro_batch,
    )


def detect(
    detector: Detector, weights: str, images: pd.DataFrame, classes: list[str], faults: dict[str, str]
) -> pd.DataFrame:
    numbers, names = detector.info.names.keys(), list(detector.info.names.values())
    named = dict(zip(numbers, names_now(weights, names), strict=True))
    parts = []
    with events.progress("detect", len(images), "images") as bar:
        for rows in detect_images(detector, images, classes, faults, named):
            parts.append(rows)
            bar.update()
    return one_table(parts)


def measure(
    params: EvaluateDetectorParams,
    images: pd.DataFrame,
    truth: pd.DataFrame,
    detected: pd.DataFrame,
    classes: list[str],
) -> tuple[dict[str, Any], COCOeval]:
    """Return the metrics and pycocotools' evaluation; a ValueError where the split holds no object."""
    if truth.empty:
        raise ValueError(f"the split {params.split} of {params.source} holds no object: there is nothing to measure on")
    tables = (images, truth, detected, classes)
    sizes = relative_areas(params.small, params.large)
    by_share = evaluate_boxes(*tables, max_det=params.max_det, areas=sizes, relative=True)
    by_pixels = evaluate_boxes(*tables, max_det=params.max_det, areas=COCO_AREAS, relative=False)
    ap, ap50 = average_precision(by_share), average_precision(by_share, at=0.5)
    interval = map50_interval(by_share, resamples=params.resamples, seed=params.seed)
    return {
        "images": len(images),
        "objects": len(truth),
        "map50": mean(ap50),
        "map50_95": mean(ap),
        "map75": mean(average_precision(by_share, at=0.75)),
        **(dict(zip(("map50_low", "map50_high"), interval, strict=True)) if interval else {}),
        "map50_95_by_size": by_size(by_share),
        "map50_95_by_coco_area": by_size(by_pixels),
        "ap50": by_class(ap50, classes),
        "ap50_95": by_class(ap, classes),
        "objects_by_class": {name: int((truth["class_name"] == name).sum()) for name in by_class(ap, classes)},
    }, by_share


def by_size(evaluation: COCOeval) -> dict[str, float]:
    means = {size: mean(average_precision(evaluation, size=size)) for size in ("small", "medium", "large")}
    return {size: value for size, value in means.items() if value is not None}


def by_class(values: np.ndarray, classes: list[str]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(classes, values, strict=True) if not np.isnan(value)}


def confusion(table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """The actual and predicted classes of `outcomes`; a class that is called "background" is not mixed up with it."""
    pairs = table[["actual", "predicted"]].astype(str)
    if BACKGROUND in classes:
        pairs.loc[table["truth"] < 0, "actual"] = pairs.loc[table["detection"] < 0, "predicted"] = f"({BACKGROUND})"
    return pairs


def show(
    params: EvaluateDetectorParams,
    name: str,
    images: pd.DataFrame,
    truth: pd.DataFrame,
    detected: pd.DataFrame,
    table: pd.DataFrame,
) -> None:
    """Draw examples, and the grid of the image with the most objects and fewest mistakes."""
    files, plot = dict(zip(images["image_id"], images["file"], strict=True)), f"data/plots/evaluate_detector-{name}"
    names = example_images(images, table, first=FIRST, worst=params.worst)
    write_examples(f"{plot}-examples.png", {n: pixels(files[n]) for n in names}, truth, detected, table)
    mistakes = mistakes_by_image(images, table)
    objects = truth.groupby("image_id").size().reindex(mistakes.index, fill_value=0)
    best = (objects - 100 * mistakes).idxmax()
    weights = weights_file(params.weights)
    record = Path(f"data/predictions/{name}-grid.json")
    if weights.suffix != ".pt":  # an exported engine has no grid to show
        Image.new("RGB", (1, 1)).save(f"{plot}-grid.png")
        write_json(record, {})
        return
    loaded = load_network(params.weights)
    side = params.imgsz or loaded.imgsz or max(pixels(files[best]).shape)
    look = functools.partial(look_at, loaded, pixels(files[best]), imgsz=side, iou=params.iou)
    draw_grid(f"{plot}-grid.png", look(conf=params.confidence))
    write_json(record, grid_record(look(conf=FAINTEST)))


def pixels(file: str) -> np.ndarray:
    """Read an image as the detector did, uint8 (H, W, 3), RGB."""
    return np.ascontiguousarray(read_image(file)[..., ::-1])


if __name__ == "__main__":
    events.run_stage(main)
