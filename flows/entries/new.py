"""Write the entries of a new data set and of a model on it: ``gridflow new``."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from cnn_core.params import read_yaml
from flows.entries import document
from flows.entries.values import Survey, starting_values
from flows.registry.models import Task, read_models
from flows.repository.graph import read_graph
from flows.repository.parameters import check_params, patch_params
from flows.repository.recipes import recipe_values

TEMPLATES = Path(__file__).parent / "templates"
NAME = re.compile(r"[a-z][a-z0-9-]*")
BOXES = "-boxes"  # ends the name of the detector that a segmenter comes with
RESERVED = ("-data", "-pretrained", "-test", "-read", BOXES)  # endings of names that we give
SECTIONS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("train", "evaluate", "predict"),
    "detection": ("train_detector", "evaluate_detector", "detect"),
    "segmentation": ("train_segmenter", "evaluate_segmenter", "segment"),
}
PATHS = ("data", "source", "weights", "prompts", "match")  # what leads to a model's data and to others' results
PICTURES = "a folder, a file or a .zip"  # that a source may be
TOP_LEVEL = re.compile(r"(?m)^    (\w+): *(\S+)")
NETWORKS = {"yolo": "yolo11n.yaml", "yolo-seg": "yolo11n-seg.yaml"}  # of a detector, by the name of the option
DESCRIPTIONS: Mapping[Task, str] = {
    "classification": "Classifier of {} (safetensors with model.json)",
    "detection": "Detector on {} (a .pt of Ultralytics with model.json)",
    "segmentation": "Promptable segmenter on {} (a SAM with model.json)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks `gridflow new` for.

    Attributes:
        source: a folder, file or .zip; empty where ``data_set`` names a set that is there.
        data_set: the name of the set; empty: that of the model.
        kind: of the source; auto = what its files say.
        like: a model whose parameters are taken over; empty: values chosen for the images.
        network: of a detector or segmenter.
    """

    model: str
    task: Task
    source: str = ""
    data_set: str = ""
    kind: str = "auto"
    like: str = ""
    recipe: str = ""
    network: str = ""

    @property
    def set_name(self) -> str:
        return self.data_set or self.model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entries:
    """The text of params.yaml and dvc.yaml with what was added, and the names of the new entries."""

    params: str
    graph: str
    added: list[str]  # such as train.flowers
    stages: list[str]  # to run, such as evaluate@flowers
    survey: Survey | None = None  # of a new set or model: what its images are


def make(root: Path, request: Request) -> Entries:
    """The new entries; nothing is written.

    Raises:
        ValueError: a name is taken or not allowed, or the source cannot be read or does not fit the task.
    """
    params = read_yaml(root / "params.yaml")
    check_names(root, request, params)
    source = (
        path_in(root, request.source, "a folder, a file or a .zip")
        if request.source
        else params["ingest"][request.data_set]["source"]
    )
    kind = request.kind if request.source else str(params["ingest"][request.data_set]["kind"])
    survey = look(root, source, kind)
    check_task(request, survey)
    models = models_of(request)
    text, graph, added, stages = (root / "params.yaml").read_text(), (root / "dvc.yaml").read_text(), [], []
    fill = {"set": request.set_name, "source": json.dumps(source) if needs_quotes(source) else source}
    parts = [(survey.kind, starting_values(survey, request.task) | fill)] if request.source else []
    for task, name in models:
        values = starting_values(survey, task) | fill | {"model": name, "detector": models[0][1]}
        values["network"] = NETWORKS.get(request.network, NETWORKS["yolo"])
        parts.append((template_of(task, survey), values))
        graph = _in_graph(graph, task, name)
        stages += [f"{section}@{name}" for section in SECTIONS[task]]
    for template, values in parts:
        for section, entry in filled(template, values).items():
            if request.like and entry.startswith(f"  {request.model}:") and section in SECTIONS[request.task]:
                entry = _like(text, section, request, entry)
            text = document.insert(text, (section,), entry)
            added.append(f"{section}.{entry.split(':', 1)[0].strip()}")
    return Entries(params=text, graph=graph, added=added, stages=stages, survey=survey)


def models_of(request: Request) -> list[tuple[Task, str]]:
    """The task and name of each model to make: a segmenter comes with the detector that prompts it."""
    if request.task == "segmentation" and request.network != "yolo-seg":
        return [("detection", f"{request.model}{BOXES}"), ("segmentation", request.model)]
    return [("detection" if request.task == "segmentation" else request.task, request.model)]


def write(root: Path, entries: Entries, recipe: str = "") -> None:
    """Check the new files as a run would, then put them in the place of the old ones; on an error nothing changes.

    Raises:
        ValueError: a value is not allowed, or DVC cannot read the graph.
    """
    before = {name: (root / name).read_bytes() for name in ("params.yaml", "dvc.yaml")}
    try:
        (root / "params.yaml").write_text(entries.params, encoding="utf-8")
        (root / "dvc.yaml").write_text(entries.graph, encoding="utf-8")
        if recipe:
            patch_params(root, None, _of_recipe(root, recipe, entries.added), check=False)
        check_params(root, sections={name.partition(".")[0] for name in entries.added})
        read_graph(root, entries.stages)
    except BaseException:
        for name, content in before.items():
            (root / name).write_bytes(content)
        raise


def check_name(name: str) -> None:
    """Raises ValueError if an entry cannot bear this name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for an entry: small letters, digits and dashes, a letter first")
    if name.endswith(RESERVED):
        raise ValueError(f"{name!r} ends in {next(end for end in RESERVED if name.endswith(end))}, which is ours")


def check_names(root: Path, request: Request, params: Mapping[str, Any]) -> None:
    """Raises ValueError if a name is not allowed or taken, or if the set that is to be used is not there."""
    for name in {request.model, request.set_name}:
        check_name(name)
    models, sets = read_models(root), _sets(params)
    for _, name in models_of(request):
        if name in models:
            raise ValueError(f"there is a model {name!r} already; `gridflow drop {name}` takes it out")
    if request.source and request.set_name in sets:
        raise ValueError(
            f"there is a data set {request.set_name!r} already: name another one with --set-name, or use it with "
            f"--set {request.set_name} and no --source"
        )
    if not request.source and request.data_set not in (params.get("ingest") or {}):
        raise ValueError(
            f"there is no data set {request.data_set!r}; there are {', '.join(params.get('ingest') or {})}"
        )
    if request.like and (request.like not in models or models[request.like].task != request.task):
        names = [name for name, model in models.items() if model.task == request.task]
        raise ValueError(
            f"there is no model {request.like!r} for {request.task}; there are {', '.join(names) or 'none'}"
        )
    if request.network and request.task == "classification":
        raise ValueError("--network is for detection and segmentation; train.<model>.model holds a classifier's")


def check_task(request: Request, survey: Survey) -> None:
    """Raises ValueError if the task cannot be learned from what was found."""
    fits = survey.kind == "objects" if request.task != "classification" else survey.kind != "objects"
    if not fits:
        wanted = "images with classes" if request.task == "classification" else "boxes or masks (docs/data.md)"
        raise ValueError(f"{survey.source} holds {survey.kind}, and {request.task} needs {wanted}")
    if request.task == "segmentation" and not survey.masks:
        raise ValueError(f"{survey.source} has boxes only, and segmentation needs masks; use --task detection")
    if len(survey.classes) < 2 and request.task == "classification" and not survey.multilabel:
        raise ValueError(f"{survey.source} has one class, {survey.classes[0]}: a classifier needs two or more")


def look(root: Path, source: str, kind: str) -> Survey:
    """Read and check a source as the stage ingest would, in a process of its own; nothing is kept.

    Raises:
        ValueError: it cannot be read.
    """
    command = [sys.executable, "-m", "tasks.look", source, kind]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 3:
        raise ValueError(done.stdout.strip())
    if done.returncode:
        raise RuntimeError(f"looking at {source} broke")
    return Survey(source=source, manifest=json.loads(done.stdout.splitlines()[-1]))


def template_of(task: Task, survey: Survey) -> str:
    if task == "classification":
        return "pixel_classifier" if survey.kind == "pixels" else "image_classifier"
    return "detector" if task == "detection" else "segmenter"


def filled(template: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The entries of a template, filled: section -> lines."""
    text = Template((TEMPLATES / f"{template}.yaml").read_text()).substitute(values)
    sections = re.split(r"(?m)^(?=[a-z_]+:)", text)
    return {part.partition(":")[0]: part.partition("\n")[2] for part in sections if part.strip()}


def _in_graph(graph: str, task: Task, name: str) -> str:
    """dvc.yaml with the model among its artifacts, and a classifier's curve among its plots."""
    entry = {"path": f"data/models/{name}", "type": "model", "desc": DESCRIPTIONS[task].format(name)}
    lines = "".join(f"    {key}: {value}\n" for key, value in entry.items())
    graph = document.insert(graph, ("artifacts",), f"  {name}:\n{lines}")
    if task == "classification":
        plot = (
            f"- {name}-loss:\n    template: linear\n    x: epoch\n    y:\n"
            f"      data/plots/train-{name}.csv: [train_loss, val_loss]\n    title: Loss ({name})\n"
        )
        head, there, rest = graph.partition("\nplots:\n")
        graph = f"{head}\nplots:\n{plot}{rest}" if there else f"{graph.rstrip()}\nplots:\n{plot}"
    return graph


def _like(text: str, section: str, request: Request, entry: str) -> str:
    """The lines of another model's entry under the new name; what leads to data and models is that of ``entry``."""
    lines = document.block(text, (section, request.like)).splitlines(keepends=True)[1:]
    kept = {match[1]: match[2] for match in TOP_LEVEL.finditer(entry) if match[1] in PATHS}
    for number, line in enumerate(lines):
        match = TOP_LEVEL.match(line)
        if match and match[1] in kept and not match[2].startswith("data/weights/"):
            lines[number] = line.replace(match[2], kept[match[1]], 1)
    return f"  {request.model}:\n{''.join(lines)}"


def _of_recipe(root: Path, recipe: str, added: list[str]) -> list[str]:
    """What a recipe sets of the new entries, as overrides."""
    values = recipe_values(root, recipe).items()
    return [
        f"{key}={json.dumps(value)}" for key, value in values if key.startswith(tuple(f"{name}." for name in added))
    ]


def _sets(params: Mapping[str, Any]) -> set[str]:
    return {name for section in ("ingest", "compose", "sample") for name in params.get(section) or {}}


def path_in(root: Path, named: str, kinds: str) -> str:
    """A path of a person's as params.yaml names it: below the checkout relative to it, else absolute."""
    path = Path(named).expanduser()
    path = path if path.is_absolute() else Path.cwd() / path
    if not path.exists():
        raise ValueError(f"{named} does not exist: name {kinds}")
    if "${" in str(path):
        raise ValueError(f"{named}: a path cannot hold ${{, as DVC would put a variable in its place; rename it")
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def needs_quotes(text: str) -> bool:
    try:
        return yaml.safe_load(f"x: {text}  # x") != {"x": text}
    except yaml.YAMLError:
        return True
