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
MODELS = ("train", "evaluate", "train_detector", "evaluate_detector", "train_segmenter", "evaluate_segmenter")
USES = {"predict": "predicted", "detect": "found", "segment": "found"}  # a stage and its metric of counts by class
USED_PICTURES = 6  # drawn pictures that are shown of weights that are only used


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


def baselines(name: str, numbers: Numbers) -> dict[str, Any]:
    """The models' ``names``, the best first, the ``chart`` of their accuracies, and what they were trained on.

    ``cnn`` names the CNN, ``images`` is the key of the number of images that all baselines were fitted on, and ``same``
    says whether the CNN was trained on as many.
    """
    models = numbers.value(f"baselines-{name}:models") or {}
    names = sorted(models, key=lambda model: -models[model]["accuracy"])
    keys = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
    rows = [{"name": model, **{field: models[model][key] for field, key in keys.items()}} for model in names]
    cnn = next((model for model in names if model.startswith("CNN")), None)
    fitted = next((model for model in names if model != cnn), None)
    return {
        "name": name,
        "names": names,
        "chart": charts.intervals(rows, y="model", x="accuracy") if rows else None,
        "cnn": cnn,
        "images": f"baselines-{name}:models/{fitted}/images" if fitted else None,
        "same": bool(cnn and fitted) and models[cnn].get("images") == models[fitted].get("images"),
    }


def uses(root: Path, values: Mapping[str, Any], numbers: Numbers) -> list[dict[str, Any]]:
    """The entries that train and measure nothing: weights used on pictures, with what was found by class."""
    models = {name for section in MODELS for name in values.get(section) or {}}
    entries = []
    for stage, counts in USES.items():
        for name, entry in (values.get(stage) or {}).items():
            if name not in models:
                by_class = numbers.value(f"{stage}-{name}:{counts}") or {}
                drawn = sorted((root / "data/predictions" / name / "pictures").glob("*"))[:USED_PICTURES]
                entries.append(
                    {
                        "name": name,
                        "stage": stage,
                        "counts": counts,
                        "weights": entry["weights"],
                        "source": entry["source"],
                        "classes": sorted(by_class, key=lambda label: -by_class[label]),
                        "pictures": [picture for path in drawn if (picture := figure(path))],
                    }
                )
    return entries


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


def what_ran(numbers: Numbers, values: Mapping[str, Any], classifiers: Sequence[Mapping[str, Any]]) -> Markup:
    """Say in one sentence what was run, without the parts that are missing."""
    trained = []
    for classifier in classifiers:
        name, network = classifier["name"], classifier["network"]
        if numbers.metrics(f"train-{name}"):
            data, epochs = classifier["data"], numbers(f"train-{name}:epochs", "count")
            images = numbers(f"augment-{data}:originals", "count")
            kind = "generated training images" if classifier["generated"] else "training images"
            trained.append(Markup("{} on {} ({} {}, {} epochs)").format(network, data, images, kind, epochs))
    for section, kind in (("train_detector", "YOLO detector"), ("train_segmenter", "SAM segmenter")):
        for name in values.get(section) or {}:
            if numbers.metrics(f"{section}-{name}"):
                epochs = numbers(f"{section}-{name}:epochs", "count")
                trained.append(Markup("the {} {} ({} epochs)").format(kind, name, epochs))
    sentences = []
    if trained:
        sentences.append(Markup("Trained: ") + Markup(", ").join(trained))
    for name in values.get("read") or {}:
        if numbers.metrics(f"read-{name}"):
            text = Markup("The digits in {} pictures were detected, cut out and read by {}")
            sentences.append(text.format(numbers(f"read-{name}:images", "count"), name))
    return Markup(". ").join(sentences) + "." if sentences else Markup("Nothing was trained or read.")
