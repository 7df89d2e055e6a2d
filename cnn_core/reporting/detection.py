"""The page's part on the detector: its curves, its confusion with the pictures behind it, and its grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.annotations.tables import BOX, read_objects
from cnn_core.detection.evaluation.metrics import BACKGROUND, outcomes, wrong
from cnn_core.drawing.colours import class_colour
from cnn_core.files import read_csv
from cnn_core.reporting import charts
from cnn_core.reporting.classifiers import confusion
from cnn_core.reporting.images import figure, measured_split, scene
from cnn_core.reporting.sets import object_origin

MIN_SCORE = 0.05  # of a box that the page holds
PARTS = {"box": "boxes", "cls": "classes", "dfl": "edges (DFL)"}  # Ultralytics' names of the loss's parts -> ours
LOSSES = {
    f"{side}_{part}_loss": f"{name}, {words}"
    for side, words in (("train", "training"), ("val", "validation"))
    for part, name in PARTS.items()
}
MEASURES = {"mAP50": "mAP50", "mAP50-95": "mAP50-95"}
ClassBox = tuple[list[float], str, float]  # a box xyxy in pixels, its class and its score


def section(root: Path, name: str, values: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Gather what the page shows of one detector; a part whose files are missing is None."""
    plots, curves = root / "data/plots", root / f"data/plots/train_detector-{name}.csv"
    params = (values.get("evaluate_detector") or {}).get(name) or {}
    measured = f"evaluate_detector-{name}"
    return {
        "name": name,
        "origin": object_origin(params.get("source", "")),
        "seen": figure(plots / f"train_detector-{name}-seen.png"),
        "loss": charts.learning_chart(curves, LOSSES, "loss"),
        "measured": charts.learning_chart(curves, MEASURES, "mAP, validation", least=3),
        "curves": precision_recall(plots / f"{measured}-pr.csv"),
        "confusion": confusion(plots / f"{measured}-confusion.csv", last=BACKGROUND),
        "scenes": scenes(root, name, params, limit),
        "grid": grid(root / f"data/predictions/{name}-grid.json"),
    }


def precision_recall(path: Path) -> charts.Spec | None:
    """Draw precision over recall at IoU 0.5: a thin curve for each class and a thick one for their mean."""
    if not path.is_file() or (table := read_csv(path).astype({"recall": float, "precision": float})).empty:
        return None
    points = zip(table["recall"].tolist(), table["precision"].tolist(), table["class"], strict=True)
    rows = [{"x": recall, "series": name, "value": precision} for recall, precision, name in points]
    return charts.precision_recall_curves(rows, mean=str(table["class"].iloc[0]))


def scenes(root: Path, name: str, params: Mapping[str, Any], limit: int) -> dict[str, Any] | None:
    """Return up to ``limit`` test images with their true and detected boxes, those with most mistakes first.

    ``rows`` are ``{id, image, width, height, truth: [[x1, y1, x2, y2, class]], detections: [[…, class, score]], pairs:
    [[actual, predicted]]}``; ``confidence`` is where the slider starts, ``least_iou`` what a pair has to share.
    """
    predictions = root / "data/predictions"
    path, left_out = predictions / f"{name}-test.parquet", f"data/predictions/{name}-left-out.csv"
    split = measured_split(root, params, left_out=left_out)
    if split is None or not path.is_file():
        return None
    images, truth, classes = split
    detections = read_objects(path)
    limits = {"confidence": params["confidence"], "least_iou": params["match_iou"]}
    pairs = outcomes(images, truth, detections, **limits)
    mistakes = wrong(pairs).groupby(pairs["image_id"]).sum()
    images = images.assign(mistakes=images["image_id"].map(mistakes).fillna(0))
    shown = images.sort_values("mistakes", ascending=False, kind="stable").head(limit)
    numbers = {label: number for number, label in enumerate(classes)}
    true_boxes, boxes = boxes_by_image(truth), boxes_by_image(detections[detections["score"] >= MIN_SCORE])
    pairs_by_image = {
        image_id: group.to_numpy().tolist() for image_id, group in pairs.groupby("image_id")[["actual", "predicted"]]
    }
    rows = []
    for image_id, file in zip(shown["image_id"], shown["file"], strict=True):
        image, width, height = scene(Path(file))
        rows.append(
            {
                "id": image_id,
                "image": image,
                "width": width,
                "height": height,
                "truth": [[*box, numbers[label]] for box, label, _ in true_boxes.get(image_id, [])],
                "detections": [
                    [*box, numbers.get(label, -1), round(score, 3)] for box, label, score in boxes.get(image_id, [])
                ],
                "pairs": pairs_by_image.get(image_id, []),
            }
        )
    colours = [hex_colour(number) for number in range(len(classes))]
    return {"classes": classes, "colours": colours, "total": len(images), "rows": rows, **limits}


def boxes_by_image(table: pd.DataFrame) -> dict[str, list[ClassBox]]:
    """Group a table of objects by image id; a tenth of a pixel is exact enough for a picture."""
    groups: dict[str, list[ClassBox]] = {}
    boxes = table[BOX].round(1).to_numpy().tolist()
    for name, box, label, score in zip(table["image_id"], boxes, table["class_name"], table["score"], strict=True):
        groups.setdefault(name, []).append((box, label, float(score)))
    return groups


def grid(path: Path) -> dict[str, Any] | None:
    """Return what each cell says of one image (a `grid_record` of the evaluation), with the classes' colours."""
    if not path.is_file() or not (record := json.loads(path.read_text())):
        return None
    colours = {number: hex_colour(int(number)) for number in record["names"]}
    return {**record, "image": f"data:image/png;base64,{record['image']}", "colours": colours}


def hex_colour(number: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_colour(number))
