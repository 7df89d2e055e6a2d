"""A whole small run as its stages leave it, made without training anything: what the report is written from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from cnn_core.annotations.tables import objects_table, read_annotations, write_objects
from cnn_core.classification.inference.metrics import classification
from cnn_core.data.raw import RawRow, write_raw
from cnn_core.data.validation import Refusal
from cnn_core.detection.evaluation.metrics import outcomes, rates
from cnn_core.files import write_csv, write_json
from cnn_core.images.decoding import encode_png, pixels_sha256
from cnn_core.params import load_section
from cnn_core.reporting.page import ReportParams, write_report
from tests.helpers.paths import ROOT
from tests.helpers.prediction_files import numbers_set

CLASSES = {"digits": list("0123456789"), "scenes": ["forest", "glacier", "sea <cold>"]}
SHAPES = {"digits": (28, 28), "scenes": (80, 80, 3)}
TEXTS = ["12", "345", "6", "7", "80"]
TIMES = {"seconds": 123.4, "resources": {"cpu_seconds": 234.5, "peak_memory_bytes": 678_900_000}}
TRAINED = {"epochs": 3, "best_epoch": 2, "parameters": 77_786, "images_per_s": 1234.0, "training_seconds": 98.7}


def whole_run(root: Path, *, scenes: list[str] = CLASSES["scenes"]) -> Path:
    """Two classifiers, a detector, a segmenter, reading, baselines, anatomy; parameters are the project's own."""
    for folder in ("metrics", "plots", "predictions/digits-read", "composed"):
        (root / "data" / folder).mkdir(parents=True)
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    for number, name in enumerate(CLASSES):
        _classifier(root, name, seed=number, classes=scenes if name == "scenes" else CLASSES[name])
    _scenes(root)
    _others(root)
    for name in (
        "compose-numbers",
        "train_detector-detector-seen",
        "train_segmenter-segmenter-seen",
        "evaluate_segmenter-segmenter-examples",
    ):
        Image.new("RGB", (30, 20), (90, 120, 60)).save(root / f"data/plots/{name}.png")
    return root


def metrics(root: Path, stage: str, values: dict[str, Any]) -> None:
    (root / f"data/metrics/{stage}.json").write_text(json.dumps({**values, **TIMES}))


def page(root: Path) -> str:
    params = load_section(ReportParams, "report", root / "params.yaml")
    write_report(params, root=root, output=root / "data/reports/index.html")
    return (root / "data/reports/index.html").read_text()


def change(root: Path, **values: Any) -> None:
    """Other values of ``report`` in params.yaml."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["report"] |= values
    (root / "params.yaml").write_text(yaml.safe_dump(content))


def _classifier(root: Path, name: str, seed: int, classes: list[str]) -> None:
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, len(classes), 60)
    rows = []
    for number, label in enumerate(labels):
        pixels = draws.integers(0, 255, SHAPES[name], dtype=np.uint8)
        facts = {"width": len(pixels), "height": len(pixels), "sha256": pixels_sha256(pixels)}
        id_ = f"{'test' if number % 2 else 'train'}/{number:05d}"
        rows.append(RawRow(id=id_, image=encode_png(pixels), label=int(label), split=id_.split("/")[0], **facts))
    refused = [Refusal(id="train/09999", reason="not an image", detail="it is <b>text</b>")]
    source = {"set": name, "classes": classes, "source": f"data/sources/{name}", "seed": 0, "warnings": []}
    write_raw(root / f"data/raw/{name}", rows, refused, source)
    ids, truth = [row.id for row in rows if row.split == "test"], labels[1::2]
    said = np.where(draws.random(len(truth)) < 0.8, truth, (truth + 1) % len(classes))
    table = draws.dirichlet(np.ones(len(classes)), len(truth)) / 2
    table[np.arange(len(truth)), said] += 0.5
    predictions = pd.DataFrame({"id": ids, "label": truth, "predicted": table.argmax(1)})
    columns = pd.DataFrame(table, columns=[f"p{number}" for number in range(len(classes))])
    predictions.join(columns).to_parquet(root / f"data/predictions/{name}-test.parquet")
    names = np.array(classes)
    confusion = pd.DataFrame({"actual": names[truth], "predicted": names[table.argmax(1)]})
    write_csv(root / f"data/plots/evaluate-{name}-confusion.csv", confusion)
    curve = {"epoch": [1, 2, 3], "train_loss": [2.0, 1.5, 1.25], "val_loss": [1.75, 1.0, 1.125]}
    pd.DataFrame({**curve, "train_accuracy": [0.25, 0.5, 0.625], "val_accuracy": [0.3, 0.75, 0.7]}).to_csv(
        root / f"data/plots/train-{name}.csv", index=False
    )
    for picture in (f"augment-{name}", f"train-{name}-seen"):
        Image.new("RGB", (40, 20), (20, 90, 160)).save(root / f"data/plots/{picture}.png")
    measured = classification(table, truth, classes)
    metrics(root, f"evaluate-{name}", {**measured, "evaluated_model": "shipped"})
    copies = dict.fromkeys(("same_label", "conflicting_labels", "train_in_test", "near_train_in_test"), 0)
    read = {"images": {"train": 30, "test": 30}, "rows_read": 61, "refused": 1, "duplicates": copies}
    metrics(root, f"ingest-{name}", read)
    metrics(root, f"augment-{name}", {"originals": 30, "copies": 17})
    metrics(root, f"train-{name}", {**TRAINED, "refit_epochs": 0, "resumed_at": 2})
    metrics(root, f"predict-{name}", {"n": 33, "refused": 0})
    looked = {"parameters": 77_786, "multiply_adds": 7_344_000, "receptive_field": 36, "zeros": 0.6541}
    sizes = {"dense_parameters": 240_945_152.0, "convolution_parameters": 71_568}
    gradients = {"first_gradient_relu": 0.28668, "first_gradient_sigmoid": 3.777e-05}
    metrics(root, f"anatomy-{name}", {**looked, **sizes, **gradients})
    layer = {"layer": "blocks.0", "kind": "Conv2d", "output": "16 x 28 x 28", "parameters": 1440}
    layers = pd.DataFrame([{**layer, "multiply_adds": 112_896, "receptive_field": 3}])
    layers.to_csv(root / f"data/predictions/anatomy-{name}.csv", index=False)
    Image.new("RGB", (40, 20)).save(root / f"data/plots/anatomy-{name}-kernels.png")


def _scenes(root: Path) -> None:
    """The detector misses the first digit, takes the second for a 0, and is right on the others."""
    source = numbers_set(root / "data/composed/numbers", TEXTS)
    images, truth, _ = read_annotations(source, "test")
    found = truth.iloc[1:].assign(score=np.linspace(0.3, 0.9, len(truth) - 1), rle=None)
    found.iloc[0, found.columns.get_loc("class_name")] = "0"
    found.iloc[0, found.columns.get_loc("class_id")] = 0
    write_objects(root / "data/predictions/detector-test.parquet", objects_table(found.drop(columns=["source_id"])))
    table = outcomes(images, truth, found, confidence=0.25, least_iou=0.45)
    table[["actual", "predicted"]].to_csv(root / "data/plots/evaluate_detector-detector-confusion.csv", index=False)
    names = sorted(set(truth["class_name"]))
    by_class = {name: 0.5 + 0.04 * int(name) for name in names}
    average = {"map50": 0.9123, "map50_low": 0.9011, "map50_high": 0.9222, "map50_95": 0.6789}
    sizes = {"map50_95_by_size": {"small": 0.512}, "map50_95_by_coco_area": {"small": 0.6, "medium": 0.7}}
    counts = {"objects_by_class": truth["class_name"].value_counts().to_dict(), "ap50": by_class, "ap50_95": by_class}
    about = {"images": len(images), "objects": len(truth), **average, **sizes, **counts, **rates(table)}
    metrics(root, "evaluate_detector-detector", about)
    curve = [(0, 1, "mean"), (0.5, 0.75, "mean"), (0, 1, "7"), (0.5, 0.7, "7")]
    pr = pd.DataFrame(curve, columns=["recall", "precision", "class"])
    pr.to_csv(root / "data/plots/evaluate_detector-detector-pr.csv", index=False)
    losses = {"train_box_loss": [3.5, 2.5], "val_box_loss": [None, 2.25], "mAP50": [0.5, 0.75], "mAP50-95": [0.25, 0.5]}
    pd.DataFrame({"epoch": [1, 2], **losses}).to_csv(root / "data/plots/train_detector-detector.csv", index=False)
    write_json(root / "data/predictions/detector-grid.json", _grid())
    masks = truth.assign(prompted_by="truth", iou=np.linspace(0.4, 0.95, len(truth)), score=0.9)
    write_objects(root / "data/predictions/segmenter-test.parquet", objects_table(masks.drop(columns=["source_id"])))
    read = images[["image_id", "file"]].assign(text=["12", "346", "6", "", "80"], confidence=[0.9, 0.8, 0.7, 1.0, 0.6])
    read["file"] = [str(Path(file).relative_to(root)) for file in read["file"]]
    read.to_csv(root / "data/predictions/digits-read/plates.csv", index=False)


def _grid() -> dict[str, Any]:
    """An image of 16 pixels under 2 x 2 cells; two boxes on one object, of which the better stays, and one unsure."""
    level = {"classes": [[7, 0], [0, 0]], "scores": [[0.9, 0.02], [0.03, 0.1]]}
    boxes = {"boxes": [[1, 1, 9, 9], [2, 1, 9, 9], [8, 8, 15, 15]], "scores": [0.9, 0.6, 0.1], "classes": [7, 7, 0]}
    image = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    kept = {"kept": [True, False, True], "cells": [[0, 0, 0], [0, 0, 1], [0, 1, 1]], "iou": 0.7}
    return {
        "image": image,
        "width": 16,
        "height": 16,
        "names": {"0": "0", "7": "7"},
        "levels": [level],
        **boxes,
        **kept,
    }


def _others(root: Path) -> None:
    metrics(
        root, "compose-numbers", {"counts": {"train": 20, "val": 4, "test": 5}, "objects": {"train": 40, "test": 9}}
    )
    metrics(root, "train_detector-detector", {**TRAINED, "left_out": 0})
    metrics(root, "detect-detector", {"images": 5, "objects": 8, "bad": 0, "engine": "torch"})
    metrics(root, "train_segmenter-segmenter", TRAINED)
    metrics(root, "segment-segmenter", {"images": 5, "objects": 8, "bad": 0, "dropped": 0})
    one = {"mean_iou": 0.8412, "mean_dice": 0.91, "mean_boundary_f": 0.97, "objects": 9}
    known = {"predicted_iou": {"calibration_error": 0.0068, "rank_correlation": 0.61}}
    sizes = {"by_size": {"small": one}, "by_class": {"7": one}, "detector": {"found": 0.97}, **known}
    ends = {"mean_iou_low": 0.8301, "mean_iou_high": 0.8499, "mean_iou_by_detector": 0.8123, "images": 5}
    metrics(root, "evaluate_segmenter-segmenter", {**one, **ends, **sizes})
    way = {"found": 0.95, "read_right": 0.98, "found_and_read": 0.93, "plates_right": 0.8}
    ends = {"found_and_read_low": 0.91, "found_and_read_high": 0.945, "true_digits": 1500}
    metrics(
        root, "read-digits", {"images": 5, "digits": 8, "dropped": 1, **way, **ends, "ways": {"masks": {"cnn": way}}}
    )
    svm = {"accuracy": 0.6, "accuracy_low": 0.5, "accuracy_high": 0.7, "parameters": 7850, "fit_seconds": 1.5}
    cnn = {"accuracy": 0.8, "accuracy_low": 0.71, "accuracy_high": 0.88, "parameters": 77_786}
    timed = {"images": 30, "predict_ms": 0.123}
    metrics(
        root, "baselines-digits", {"test_images": 30, "models": {"SVM": svm | timed, "CNN (digit_cnn)": cnn | timed}}
    )
    metrics(root, "pretrain-scenes", {"val_accuracy": 0.6477, "epochs": 6})
    curve = {"epoch": [1, 2], "train_iou": [0.25, 0.75], "val_iou": [None, 0.8]}
    pd.DataFrame(curve).to_csv(root / "data/plots/train_segmenter-segmenter.csv", index=False)
    known = pd.DataFrame({"predicted": [0.5, 0.9], "actual": [0.45, 0.88], "objects": [3, 6]})
    known.to_csv(root / "data/plots/evaluate_segmenter-segmenter-calibration.csv", index=False)
