"""The page's part on the detector: its curves, its confusion with the pictures behind it, and its grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.annotations.tables import BOX, Annotations, read_objects
from cnn_core.annotations.truth import read_truth
from cnn_core.detection.evaluation.metrics import BACKGROUND, outcomes
from cnn_core.drawing.colours import class_colour
from cnn_core.reporting import charts
from cnn_core.reporting.classifiers import confusion
from cnn_core.reporting.images import figure, scene

STAGES = ("compose", "train_detector", "evaluate_detector", "detect")
COMPOSED = "The pictures are composed: real handwritten digits on walls drawn by a program, so every box is exact."
FAINTEST = 0.05  # least score of a box that the page holds


def section(root: Path, values: Mapping[str, Any], most: int) -> dict[str, Any]:
    """What the page shows of the detector; a part that is missing is None."""
    plots = root / "data/plots"
    params = values.get("evaluate_detector", {})
    return {
        "origin": came_from(params.get("source", "")),
        "composed": figure(plots / "compose.png"),
        "seen": figure(plots / "train_detector-seen.png"),
        "loss": losses(plots / "train_detector.csv"),
        "measured": measured(plots / "train_detector.csv"),
        "curves": precision_recall(plots / "evaluate_detector-pr.csv"),
        "confusion": confusion(plots / "evaluate_detector-confusion.csv", last=BACKGROUND),
        "scenes": scenes(root, params, most),
        "grid": grid(root / "data/predictions/detector-grid.json"),
    }


def came_from(source: str) -> str:
    return COMPOSED if source == "data/composed/numbers" else f"The images come from {source}."


def losses(path: Path) -> dict[str, Any] | None:
    """The parts of the loss over the epochs; the validation's only of epochs that were measured."""
    if not path.is_file():
        return None
    parts = {"box": "boxes", "cls": "classes", "dfl": "edges (DFL)"}
    names = {f"train_{part}_loss": f"{name}, training" for part, name in parts.items()}
    names |= {f"val_{part}_loss": f"{name}, validation" for part, name in parts.items()}
    rows = charts.series_rows(pd.read_csv(path), "epoch", names)
    return charts.epoch_curves(rows, y="loss") if rows else None


def measured(path: Path) -> dict[str, Any] | None:
    """mAP of the epochs that were measured, where a curve can be made of them."""
    if not path.is_file():
        return None
    rows = charts.series_rows(pd.read_csv(path), "epoch", {"mAP50": "mAP50", "mAP50-95": "mAP50-95"})
    return charts.epoch_curves(rows, y="mAP, validation") if len(rows) > 2 else None


def precision_recall(path: Path) -> dict[str, Any] | None:
    """Precision over recall at IoU 0.5: each class thin, their mean thick."""
    if not path.is_file() or (table := pd.read_csv(path, dtype={"class": str})).empty:
        return None
    columns = table[["recall", "precision", "class"]].itertuples(index=False)
    rows = [{"x": recall, "series": name, "value": precision} for recall, precision, name in columns]
    mean = str(table["class"].iloc[0])
    return charts.precision_recall_curves(rows, mean=mean)


def scenes(root: Path, params: Mapping[str, Any], most: int) -> dict[str, Any] | None:
    """Test images with the true boxes and those found, the images with most mistakes first.

    Returns:
        ``classes`` and their ``colours``; ``confidence`` and ``iou``: where the slider starts, and what two boxes share
        that belong together; ``total`` images; ``rows``: ``{id, image, width, height, truth: [[x1, y1, x2, y2, class]],
        found: [[…, class, score]], pairs: [[actual, predicted]]}``.
    """
    known, path = known_truth(root, params), root / "data/predictions/detector-test.parquet"
    if known is None or not path.is_file():
        return None
    images, truth, classes = known
    found = read_objects(path)
    limits = {"confidence": params["confidence"], "least_iou": params["match_iou"]}
    table = outcomes(images, truth, found, **limits)
    wrong = (table["actual"] != table["predicted"]).groupby(table["image_id"]).sum()
    images = images.assign(wrong=images["image_id"].map(wrong).fillna(0))
    shown = images.sort_values("wrong", ascending=False, kind="stable").head(most)
    numbers = {name: number for number, name in enumerate(classes)}
    true_boxes, boxes = grouped(truth), grouped(found[found["score"] >= FAINTEST])
    pairs = dict(list(table.groupby("image_id")[["actual", "predicted"]]))
    rows = []
    for image in shown.itertuples():
        source, width, height = scene(Path(image.file))
        there, said = true_boxes.get(image.image_id), boxes.get(image.image_id)
        rows.append(
            {
                "id": image.image_id,
                "image": source,
                "width": width,
                "height": height,
                "truth": [[*box, numbers[name]] for box, name, _ in there or []],
                "found": [[*box, numbers.get(name, -1), round(score, 3)] for box, name, score in said or []],
                "pairs": pairs[image.image_id].to_numpy().tolist() if image.image_id in pairs else [],
            }
        )
    colours = ["#{:02x}{:02x}{:02x}".format(*class_colour(number)) for number in range(len(classes))]
    return {"classes": classes, "colours": colours, "total": len(images), "rows": rows, **limits}


def known_truth(root: Path, params: Mapping[str, Any]) -> Annotations | None:
    """The split that was measured on, with whole paths to its images; None where it is not there any more."""
    source = root / str(params.get("source", ""))
    if "source" not in params or not source.exists():
        return None
    images, truth, classes = read_truth(source, params["split"])
    files = [str(path if (path := Path(file)).exists() else root / file) for file in images["file"]]
    return images.assign(file=files), truth, classes


def grouped(table: pd.DataFrame) -> dict[str, list[tuple[list[float], str, float]]]:
    """By image the boxes (a tenth of a pixel is enough for a picture), their classes and scores."""
    groups: dict[str, list[tuple[list[float], str, float]]] = {}
    boxes = table[BOX].round(1).to_numpy().tolist()
    rows = zip(table["image_id"], boxes, table["class_name"], table["score"], strict=True)
    for name, box, class_name, score in rows:
        groups.setdefault(name, []).append((box, class_name, float(score)))
    return groups


def grid(path: Path) -> dict[str, Any] | None:
    """What each cell says of one image (`yolo_grid.grid_record`), with the classes' colours."""
    if not path.is_file() or not (record := json.loads(path.read_text())):
        return None
    colours = {number: "#{:02x}{:02x}{:02x}".format(*class_colour(int(number))) for number in record["names"]}
    return {**record, "image": f"data:image/png;base64,{record['image']}", "colours": colours}
