"""Further sections of the report: segmentation and reading, the anatomy of the networks, the baselines.

A part whose stage was not run is None or empty, and the page says so or leaves it out.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pandas as pd

WAYS = {"masks": "masks cut out", "boxes": "boxes cut out", "true_masks": "the true masks cut out"}
TOLD = {"cnn": "told by the CNN", "detector": "told by the detector", "product": "told by both"}


def metrics_of(root: Path, *stages: str) -> dict[str, Any]:
    """By stage what ``data/metrics/<stage>.json`` holds, or None."""
    paths = {stage: root / f"data/metrics/{stage}.json" for stage in stages}
    return {stage: json.loads(path.read_text()) if path.is_file() else None for stage, path in paths.items()}


def png(path: Path) -> str | None:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def segmentation(root: Path) -> dict[str, Any] | None:
    """What the page shows of the segmenter and of reading by its masks; None in a run that has neither."""
    metrics = metrics_of(root, "train_segmenter", "evaluate_segmenter", "segment", "read")
    if not any(metrics.values()):
        return None
    plots, read = root / "data/plots", metrics["read"] or {}
    ways = [
        {"way": WAYS[way], "told": TOLD[how], **{key: found[key] for key in ("found", "read_right", "found_and_read")}}
        for way, hows in read.get("ways", {}).items()
        for how, found in hows.items()
    ]
    return {
        "metrics": metrics,
        "ways": ways,
        "examples": png(plots / "evaluate_segmenter-examples.png"),
        "seen": png(plots / "train_segmenter-seen.png"),
        "reading": png(plots / "read-examples.png"),
        "seconds": {stage: found["seconds"] for stage, found in metrics.items() if found and "seconds" in found},
    }


def anatomy(root: Path, names: list[str]) -> list[dict[str, Any]]:
    """Of each network that was looked into: its totals, its layers with weights and the figures."""
    parts = []
    for name in names:
        (metrics,) = metrics_of(root, f"anatomy-{name}").values()
        if metrics is None:
            continue
        path = root / f"data/predictions/anatomy-{name}.csv"
        layers = pd.read_csv(path) if path.is_file() else pd.DataFrame()
        pictures = {
            "kernels": "The first layer's kernels",
            "maps": "What the layers make of one image",
            "fields": "What an output sees: theoretical and effective receptive fields",
            "behaviour": "Gradients with ReLU and sigmoid, sparsity, dropout's thinned networks",
        }
        parts.append(
            {
                "name": name,
                "metrics": metrics,
                "layers": layers[layers["parameters"] > 0].to_dict("records") if len(layers) else [],
                "figures": {
                    text: png(root / f"data/plots/anatomy-{name}-{kind}.png") for kind, text in pictures.items()
                },
            }
        )
    return parts


def baselines(root: Path) -> list[dict[str, Any]]:
    """Rows of the table, the best first; the CNN's time of training is that of its own stage."""
    found = metrics_of(root, "baselines", "train-digits")
    models = (found["baselines"] or {}).get("models", {})
    trained = (found["train-digits"] or {}).get("training_seconds")
    rows = [{"model": name, "fit_seconds": trained, **row} for name, row in models.items()]
    return sorted(rows, key=lambda row: -row["accuracy"])
