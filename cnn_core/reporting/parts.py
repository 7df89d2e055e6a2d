"""Further parts of the page: baselines, the anatomy of the networks, time and resources, what ran."""

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


def anatomy(root: Path, names: Sequence[str], numbers: Numbers) -> list[dict[str, Any]]:
    """The name, the layers with weights and the figures of each network that the stage anatomy took apart."""
    networks = []
    for name in names:
        if numbers.metrics(f"anatomy-{name}") is None:
            continue
        path = root / f"data/predictions/anatomy-{name}.csv"
        layers = pd.read_csv(path, keep_default_na=False, na_values=[""]) if path.is_file() else pd.DataFrame()
        figures = {text: figure(root / f"data/plots/anatomy-{name}-{kind}.png") for kind, text in FIGURES.items()}
        rows = layers[layers["parameters"] > 0].to_dict("records") if len(layers) else []
        networks.append({"name": name, "layers": rows, "figures": figures})
    return networks


def baselines(numbers: Numbers) -> dict[str, Any]:
    """The models' ``names``, the best first, the ``chart`` of their accuracies, and what they were trained on.

    ``cnn`` names the CNN, ``images`` is the key of the number of images that all baselines were fitted on, and ``same``
    says whether the CNN was trained on as many.
    """
    models = numbers.value("baselines:models") or {}
    names = sorted(models, key=lambda name: -models[name]["accuracy"])
    keys = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    rows = [{"name": name, **{field: models[name][key] for field, key in keys.items()}} for name in names]
    cnn = next((name for name in names if name.startswith("CNN")), None)
    fitted = next((name for name in names if name != cnn), None)
    return {
        "names": names,
        "chart": charts.intervals(rows, y="model", x="accuracy") if rows else None,
        "cnn": cnn,
        "images": f"baselines:models/{fitted}/images" if fitted else None,
        "same": bool(cnn and fitted) and models[cnn].get("images") == models[fitted].get("images"),
    }


def resources(root: Path, numbers: Numbers) -> dict[str, Any]:
    """The ``stages`` with a recorded time, the longest first, its ``chart``, and whether a ``gpu`` was used."""
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
        if numbers.metrics(f"train-{name}"):
            counts = numbers(f"augment-{name}:originals", "count"), numbers(f"train-{name}:epochs", "count")
            kind = "generated training images" if classifier["generated"] else "training images"
            trained.append(Markup("{} on {} ({} {}, {} epochs)").format(network, name, counts[0], kind, counts[1]))
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
