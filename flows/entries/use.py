"""Write an entry that trains nothing: weights that are there, used on pictures. ``gridflow new --weights``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from cnn_core.params import read_yaml
from flows.entries import document
from flows.entries.new import PICTURES, Entries, check_name, filled, needs_quotes, path_in
from flows.entries.once import NOTHING, UNUSED
from flows.registry.models import Task, read_models

SECTION: Mapping[Task, str] = {"classification": "predict", "detection": "detect", "segmentation": "segment"}
TEMPLATE: Mapping[Task, str] = {
    "classification": "image_classifier",
    "detection": "detector",
    "segmentation": "segmenter",
}
ALL_PICTURES = "'*'"


def entry_of_weights(root: Path, name: str, task: Task, weights: str, source: str) -> Entries:
    """The entry of a stage that uses the weights, such as ``detect.photos``; nothing is written.

    Args:
        weights: a model of the checkout by its name, a model folder, or a file of weights.
        source: the pictures, as the stage takes them.

    Raises:
        ValueError: the name is taken or not allowed, or there are no such weights or pictures.
    """
    section = SECTION[task]
    _check_name(root, name)
    model = read_models(root).get(weights)
    if model and model.task != task:
        raise ValueError(f"the model {weights!r} is for {model.task}: use --task {model.task}")
    values = {
        "weights": model.folder if model else path_in(root, weights, "a model, a model folder or a file of weights"),
        "source": path_in(root, source, PICTURES),
    }
    values = {key: json.dumps(value) if needs_quotes(value) else value for key, value in values.items()}
    values |= {"match": ALL_PICTURES, "prompt": "everything", "prompts": NOTHING}
    entry = filled(TEMPLATE[task], UNUSED | {"model": name})[section]
    for key, value in values.items():
        entry = _with_value(entry, key, value)
    params = document.insert((root / "params.yaml").read_text(), (section,), entry)
    graph = (root / "dvc.yaml").read_text()
    return Entries(params=params, graph=graph, added=[f"{section}.{name}"], stages=[f"{section}@{name}"])


def _check_name(root: Path, name: str) -> None:
    """Raises ValueError if the name is not allowed, or if a model or another entry bears it."""
    check_name(name)
    params = read_yaml(root / "params.yaml")
    taken = [section for section in SECTION.values() if name in (params.get(section) or {})]
    if taken or name in read_models(root):
        raise ValueError(f"there is an entry {name!r} already; `gridflow drop {name}` takes it out")


def _with_value(entry: str, key: str, value: str) -> str:
    """The lines of an entry with another value of a key, if it has that; the comment keeps its place."""

    def change(match: re.Match[str]) -> str:
        text = f"{match[1]}{value}"
        return f"{text.ljust(len(match[0]) - 1)} " if match[0].endswith(" ") else text

    return re.sub(rf"(?m)^(    {key}: *)\S+( +(?=#)|$)", change, entry)
