"""The model card: the ``README.md`` of a model folder, in the convention of Hugging Face's Hub (Mitchell et al., 2019).

The card says what the model is for and what it is not for, what data it was trained on and how, under which licence it
is, and how good it was on the validation part. It holds no figure of the test part: the stage that measures those
depends on the folder of the card, so the graph would be a circle. The card names the file that holds them instead.
The text is in model_card.md.j2. The same model gives the same bytes, so the card has no date.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cnn_core.files import is_none, read_json

CARD = "README.md"
TEMPLATE = "model_card.md.j2"
# Ultralytics' licence binds whoever distributes weights that were trained with its code (README.md, "Licence").
OURS, ULTRALYTICS = "apache-2.0", "agpl-3.0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """What all models of a kind have in common."""

    task: str  # the Hub's name
    licence: str
    library: str
    measured: dict[str, tuple[str, str]]  # keys of model.json's metrics: the Hub's type of the metric, and its name
    metrics_file: str  # of the stage that measures the model; empty where none does


CLASSIFIER = Kind(
    task="image-classification",
    licence=OURS,
    library="gridflow",
    measured={"val_accuracy": ("accuracy", "accuracy"), "val_loss": ("loss", "loss")},
    metrics_file="data/metrics/evaluate-{name}.json",
)
FEATURES = dataclasses.replace(CLASSIFIER, task="image-feature-extraction", metrics_file="")
DETECTOR = Kind(
    task="object-detection",
    licence=ULTRALYTICS,
    library="ultralytics",
    measured={
        "mAP50": ("mean_average_precision", "mAP at IoU 0.5"),
        "mAP50-95": ("mean_average_precision", "mAP at IoU 0.5 to 0.95"),
        "precision": ("precision", "precision"),
        "recall": ("recall", "recall"),
        "mask_mAP50": ("mean_average_precision", "mAP of the masks at IoU 0.5"),
        "mask_mAP50-95": ("mean_average_precision", "mAP of the masks at IoU 0.5 to 0.95"),
    },
    metrics_file="data/metrics/evaluate_{name}.json",
)
SEGMENTER = Kind(
    task="mask-generation",
    licence=ULTRALYTICS,
    library="gridflow",
    measured={"val_iou": ("mean_iou", "mean IoU"), "val_iou_error": ("mae", "mean error of the predicted IoU")},
    metrics_file="data/metrics/evaluate_{name}.json",
)


def classifier_card(model: Mapping[str, Any], dataset: Mapping[str, Any], *, name: str) -> str:
    """Return the card of a classifier.

    Args:
        model: the content of its model.json.
        dataset: dataset.json of the AUGMENTED set that it was trained on. A model with other classes than the set's
            learned its features without labels.
    """
    kind = FEATURES if list(model["classes"]) != list(dataset["classes"]) else CLASSIFIER
    channels, height, width = dataset["shape"]
    data = {
        "set": f"{dataset['set']} (`data/augmented/{dataset['set']}`)",
        "images": f"{width} x {height} pixels, {'colour' if channels == 3 else 'grey'}",
        "training": f"{dataset['originals']:,} images" + _copies(dataset),
        "validation": f"{dataset['counts']['val']:,} images",
        "held out for the test": f"{dataset['counts']['test']:,} images",
    }
    return _render(kind, model, name=name, dataset=dataset["set"], data=data)


def finder_card(
    kind: Kind, model: Mapping[str, Any], counts: Mapping[str, int], *, name: str, generated: bool = False
) -> str:
    """Return the card of a detector or segmenter; ``counts`` are the numbers of images in ``train`` and ``val``."""
    source = model["params"]["source"]
    data = {
        "set": f"`{source}`" + (", composed by a program: digits laid on drawn walls" if generated else ""),
        "training": f"{counts['train']:,} images",
        "validation": f"{counts['val']:,} images",
    }
    dataset = source.rstrip("/").rpartition("/")[2]
    return _render(kind, model, name=name, dataset=dataset, data=data, generated=generated)


def is_composed(source: str | Path) -> bool:
    """Return whether a set's manifest says that a program made its images, as the stage compose does."""
    manifest = Path(source) / "manifest.json"
    return manifest.is_file() and bool(read_json(manifest, made_by="compose").get("generated"))


def _copies(dataset: Mapping[str, Any]) -> str:
    copies = {0: "", 1: ", and a seeded copy of each"}
    return copies.get(dataset["copies"], f", and {dataset['copies']} seeded copies of each")


def _render(
    kind: Kind, model: Mapping[str, Any], *, name: str, dataset: str, data: Mapping[str, str], generated: bool = False
) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cnn_core.model_card", "."),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    figures = {key: round(float(model["metrics"][key]), 6) for key in kind.measured if key in model["metrics"]}
    network = model["model"].get("builder", model["architecture"])
    return environment.get_template(TEMPLATE).render(
        front=_yaml(_front_matter(kind, figures, name=name, network=network, dataset=dataset)),
        kind=kind.task,
        licence=kind.licence,
        name=name,
        model=model,
        network=network,
        data=data,
        generated=generated,
        figures={kind.measured[key][1]: value for key, value in figures.items()},
        metrics_file=kind.metrics_file.format(name=name),
        started="" if is_none(model["params"]["weights"]) else model["params"]["weights"],
        recipe=_yaml(model["params"]),
    )


def _front_matter(kind: Kind, figures: Mapping[str, float], *, name: str, network: str, dataset: str) -> dict[str, Any]:
    """Return the fields of https://github.com/huggingface/hub-docs/blob/main/modelcard.md.

    ``datasets`` names a set of the pipeline, as none of them is on the Hub.
    """
    results = {
        "task": {"type": kind.task},
        "dataset": {"type": dataset, "name": f"{dataset}, validation part", "split": "validation"},
        "metrics": [
            {"type": kind.measured[key][0], "name": f"validation {kind.measured[key][1]}", "value": value}
            for key, value in figures.items()
        ],
    }
    return {
        "license": kind.licence,
        "library_name": kind.library,
        "pipeline_tag": kind.task,
        "tags": ["gridflow", network.removesuffix(".yaml")],
        "datasets": [dataset],
        "metrics": list(dict.fromkeys(kind.measured[key][0] for key in figures)),
        "model-index": [{"name": f"gridflow-{name}", "results": [results]}],
    }


def _yaml(value: Any) -> str:
    plain = json.loads(json.dumps(value))  # lists in the place of tuples, which YAML's safe form does not have
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).rstrip("\n")
