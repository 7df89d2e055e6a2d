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
    "maps": "What the layers make of one image",
    "fields": "What an output sees: theoretical and effective receptive fields",
    "behaviour": "Gradients with ReLU and sigmoid, sparsity, dropout's thinned networks",
}
# What a stage leaves out, and of how many: stage, in words, metrics key, key of the whole.
LEFT_OUT = (
    ("ingest-{}", "rows refused", "refused", "rows_read"),
    ("ingest-{}", "copies with the same label", "duplicates/same_label", "rows_read"),
    ("ingest-{}", "copies with different labels", "duplicates/conflicting_labels", "rows_read"),
    ("ingest-{}", "training images that are in the test part", "duplicates/train_in_test", "rows_read"),
    ("ingest-{}", "training images that nearly equal a test image", "duplicates/near_train_in_test", "rows_read"),
    ("predict-{}", "images that could not be read", "refused", "n"),
    ("train_detector", "images without a usable label", "left_out", "images"),
    ("detect", "files that could not be read", "bad", "images"),
    ("segment", "files that could not be read", "bad", "images"),
    ("segment", "prompts that gave no mask", "dropped", "objects"),
    ("read", "masks that are no digit of their own", "dropped", "digits"),
)


def anatomy(root: Path, names: Sequence[str], numbers: Numbers) -> list[dict[str, Any]]:
    """Of each network that was looked into: its layers with weights and the figures."""
    parts = []
    for name in names:
        if numbers.of(f"anatomy-{name}") is None:
            continue
        path = root / f"data/predictions/anatomy-{name}.csv"
        layers = pd.read_csv(path) if path.is_file() else pd.DataFrame()
        figures = {text: figure(root / f"data/plots/anatomy-{name}-{kind}.png") for kind, text in FIGURES.items()}
        rows = layers[layers["parameters"] > 0].to_dict("records") if len(layers) else []
        parts.append({"name": name, "layers": rows, "figures": figures})
    return parts


def baselines(numbers: Numbers) -> dict[str, Any]:
    """The models' names, the best first, and the chart of their accuracy."""
    models = numbers.value("baselines:models") or {}
    names = sorted(models, key=lambda name: -models[name]["accuracy"])
    keys = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    rows = [{"name": name, **{to: models[name][key] for to, key in keys.items()}} for name in names]
    return {"names": names, "chart": charts.intervals(rows, y="model", x="accuracy") if rows else None}


def refused(numbers: Numbers, sets: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Rows of the table of what was left out: stage, in words, and the keys of how many and of how many."""
    rows = []
    for stage, words, key, of in LEFT_OUT:
        for name in sets if "{}" in stage else [""]:
            whole = stage.format(name)
            if numbers.value(f"{whole}:{key}") is not None:
                rows.append((whole, words, f"{whole}:{key}", f"{whole}:{of}"))
    return rows


def resources(root: Path, numbers: Numbers) -> dict[str, Any]:
    """The stages that tell their time, the longest first, and the chart of it."""
    found = sorted(path.stem for path in (root / "data/metrics").glob("*.json"))
    timed = [name for name in found if numbers.value(f"{name}:seconds") is not None]
    timed.sort(key=lambda name: -numbers.value(f"{name}:seconds"))
    rows = [{"name": name, "value": numbers.value(f"{name}:seconds")} for name in timed]
    return {
        "rows": timed,
        "chart": charts.bars(rows, x="seconds", y="stage") if rows else None,
        "gpu": any(numbers.value(f"{name}:resources/gpu_peak_memory_bytes") for name in timed),
    }


def what_ran(numbers: Numbers, sets: Sequence[Mapping[str, Any]]) -> Markup:
    """What was run, in one sentence; parts that are missing are not in it."""
    trained = []
    for one in sets:
        stage, images = f"train-{one['name']}", f"ingest-{one['name']}:images"
        if numbers.of(stage) and numbers.value(images):
            shown = numbers(images, "total"), numbers(f"{stage}:epochs", "count")
            trained.append(Markup("{} on {} ({} images, {} epochs)").format(one["network"], one["name"], *shown))
    for stage, name in (("train_detector", "a YOLO detector"), ("train_segmenter", "a SAM segmenter")):
        if numbers.of(stage):
            trained.append(Markup("{} ({} epochs)").format(name, numbers(f"{stage}:epochs", "count")))
    parts = []
    if trained:
        parts.append(Markup("Trained: ") + Markup(", ").join(trained))
    if numbers.of("read"):
        text = Markup("The digits in {} pictures were found, cut out and read")
        parts.append(text.format(numbers("read:images", "count")))
    return Markup(". ").join(parts) + "." if parts else Markup("Nothing was trained or read.")
