"""Further parts of the page: baselines, the anatomy of the networks, what was refused, time and resources.

A part whose stage was not run is None or empty, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cnn_core.reporting import charts
from cnn_core.reporting.images import figure
from cnn_core.reporting.numbers import Numbers

FIGURES = {
    "kernels": "The first layer's kernels",
    "maps": "The layers' feature maps of one image",
    "fields": "What an output sees: theoretical and effective receptive fields",
    "behaviour": "Gradients with ReLU and sigmoid, sparsity, dropout's thinned networks",
}
# What a stage leaves out: stage, description, and the keys of its count and of the total.
LEFT_OUT = (
    ("ingest-{}", "rows refused", "refused", "rows_read"),
    ("ingest-{}", "copies with the same label", "duplicates/same_label", "rows_read"),
    ("ingest-{}", "copies with different labels", "duplicates/conflicting_labels", "rows_read"),
    ("ingest-{}", "training images that are also in the test part", "duplicates/train_in_test", "rows_read"),
    ("ingest-{}", "training images that nearly equal a test image", "duplicates/near_train_in_test", "rows_read"),
    ("predict-{}", "images that could not be read", "refused", "n"),
    ("train_detector", "images without a usable label", "left_out", "images"),
    ("detect", "files that could not be read", "bad", "images"),
    ("segment", "files that could not be read", "bad", "images"),
    ("segment", "prompts that gave no mask", "dropped", "objects"),
    ("read", "masks that are no separate digit", "dropped", "digits"),
)


def anatomy(root: Path, names: Sequence[str], numbers: Numbers) -> list[dict[str, Any]]:
    """Return the name, the layers with weights and the figures of each network that the stage anatomy took apart."""
    networks = []
    for name in names:
        if numbers.metrics(f"anatomy-{name}") is None:
            continue
        path = root / f"data/predictions/anatomy-{name}.csv"
        layers = pd.read_csv(path) if path.is_file() else pd.DataFrame()
        figures = {text: figure(root / f"data/plots/anatomy-{name}-{kind}.png") for kind, text in FIGURES.items()}
        rows = layers[layers["parameters"] > 0].to_dict("records") if len(layers) else []
        networks.append({"name": name, "layers": rows, "figures": figures})
    return networks


def baselines(numbers: Numbers) -> dict[str, Any]:
    """Return the models' ``names``, the best first, and the ``chart`` of their accuracies."""
    models = numbers.value("baselines:models") or {}
    names = sorted(models, key=lambda name: -models[name]["accuracy"])
    keys = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    rows = [{"name": name, **{field: models[name][key] for field, key in keys.items()}} for name in names]
    return {"names": names, "chart": charts.intervals(rows, y="model", x="accuracy") if rows else None}


def refused(numbers: Numbers, sets: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table of what was left out: stage, description, and the keys of count and total."""
    rows = []
    for pattern, words, count, total in LEFT_OUT:
        for stage in [pattern.format(name) for name in sets] if "{}" in pattern else [pattern]:
            if numbers.value(f"{stage}:{count}") is not None:
                rows.append((stage, words, f"{stage}:{count}", f"{stage}:{total}"))
    return rows


def resources(root: Path, numbers: Numbers) -> dict[str, Any]:
    """Return the ``stages`` with a recorded time, the longest first, its ``chart``, and whether a ``gpu`` was used."""
    names = sorted(path.stem for path in (root / "data/metrics").glob("*.json"))
    seconds = {name: numbers.value(f"{name}:seconds") for name in names}
    stages = sorted((name for name in names if seconds[name] is not None), key=lambda name: -seconds[name])
    rows = [{"name": name, "value": seconds[name]} for name in stages]
    return {
        "stages": stages,
        "chart": charts.bars(rows, x="seconds", y="stage") if rows else None,
        "gpu": any(numbers.value(f"{name}:resources/gpu_peak_memory_bytes") for name in stages),
    }


def what_ran(numbers: Numbers, sets: Sequence[Mapping[str, Any]]) -> Markup:
    """Say in one sentence what was run, without the parts that are missing."""
    trained = []
    for classifier in sets:
        name, network = classifier["name"], classifier["network"]
        if numbers.metrics(f"train-{name}") and numbers.value(f"ingest-{name}:images"):
            counts = numbers(f"ingest-{name}:images", "total"), numbers(f"train-{name}:epochs", "count")
            trained.append(Markup("{} on {} ({} images, {} epochs)").format(network, name, *counts))
    for stage, name in (("train_detector", "a YOLO detector"), ("train_segmenter", "a SAM segmenter")):
        if numbers.metrics(stage):
            trained.append(Markup("{} ({} epochs)").format(name, numbers(f"{stage}:epochs", "count")))
    sentences = []
    if trained:
        sentences.append(Markup("Trained: ") + Markup(", ").join(trained))
    if numbers.metrics("read"):
        text = Markup("The digits in {} pictures were detected, cut out and read")
        sentences.append(text.format(numbers("read:images", "count")))
    return Markup(". ").join(sentences) + "." if sentences else Markup("Nothing was trained or read.")
