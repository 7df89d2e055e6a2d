"""The models of the graph, their versions, and which version is the champion.

A version is an annotated tag ``digits@v3.0.0`` on a commit that holds the parameters and dvc.lock of a run. The newest
tag ``digits#champion#N`` is the champion. This is gto's grammar, so ``gto show`` and ``dvc artifacts get . digits
--stage champion`` read the tags too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cnn_core.params import read_yaml
from flows.repository.git import git

STAGE = "champion"
MODELS_FOLDER, RAW = "data/models/", "data/raw/"

Task = Literal["classification", "detection", "segmentation"]
Role = Literal["train", "evaluate", "predict"]
HEADLINES: Mapping[Task, tuple[str, ...]] = {  # the metric that sums a model up: the first that it has
    "classification": ("accuracy", "map"),  # map of several labels an image
    "detection": ("map50",),
    "segmentation": ("mean_iou",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the graph: an entry of a stage whose ``meta`` has the role ``train``."""

    name: str
    task: Task
    stages: Mapping[Role, str]  # such as train@digits
    folder: str
    data: str  # of a classifier: the set that it learns from; else empty

    @property
    def train(self) -> str:
        return self.stages["train"]

    @property
    def evaluate(self) -> str:
        return self.stages["evaluate"]

    @property
    def weights(self) -> str:
        """The parameter that names the model to measure."""
        return f"{self.evaluate.replace('@', '.')}.weights"

    @property
    def predictions(self) -> str:
        return f"data/predictions/{self.name}-test.parquet"

    @property
    def metrics(self) -> str:
        return f"data/metrics/{self.evaluate.replace('@', '-')}.json"


def read_models(root: Path) -> dict[str, Model]:
    """The models of a checkout by their names, in the order of ``dvc.yaml`` and ``params.yaml``.

    Raises:
        ValueError: there is no dvc.yaml or params.yaml, or one of them is no YAML.
    """
    stages, params = read_yaml(root / "dvc.yaml").get("stages", {}), read_yaml(root / "params.yaml")
    by_task: dict[Task, dict[Role, str]] = {}
    for name, stage in stages.items():
        meta = stage.get("do", stage).get("meta", {})
        if "role" in meta:
            by_task.setdefault(meta["task"], {})[meta["role"]] = name
    models = {}
    for task, sections in by_task.items():
        section = sections["train"]
        for name, folder in _trained(stages[section], params.get(section) or {}):
            entry = name if "foreach" in stages[section] else ""
            models[name] = Model(
                name=name,
                task=task,
                stages={role: f"{stage}@{entry}" if entry else stage for role, stage in sections.items()},
                folder=folder,
                data=str(params[section][name].get("data", name)) if task == "classification" else "",
            )
    return models


def _trained(stage: Mapping[str, Any], section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The name and the folder of each model that a stage trains."""
    folder = next(out for out in stage.get("do", stage)["outs"] if out.startswith(MODELS_FOLDER))
    for key in _keys(stage, section):
        yield key or Path(folder).name, _filled(folder, key)


def source_of(root: Path, model: Model, *, origin: bool = False) -> tuple[str, str]:
    """The data set that a model is made from, and the path that leads there.

    The set is empty where the path leads to none of ours.

    Args:
        origin: of a set that is composed of another's images, give that other one, by whose inbox the model grows.
    """
    stages, params = read_yaml(root / "dvc.yaml")["stages"], read_yaml(root / "params.yaml")
    path = f"{RAW}{model.data}" if model.data else str(entry_of(params, model.train)["source"])
    name, at = "", ""
    for _ in range(2 * len(stages)):  # a stage makes another's source at most once
        if path.startswith(RAW):
            name, at = Path(path).relative_to(RAW).parts[0], path
            if not origin:
                break
            path = str((params.get("ingest") or {}).get(name, {}).get("source", ""))
        maker = next((stage for stage, out in _outputs(stages, params) if out == path), None)
        try:
            source = entry_of(params, maker)["source"] if maker else None
        except (KeyError, TypeError):  # a sample, or a person's own stage
            source = None
        if source is None:
            break
        path = str(source)
    return (name, at) if name else ("", path)


def learns_from_set(root: Path, model: Model) -> bool:
    """Whether a model reads one of our sets itself, not what a stage makes of its images."""
    if model.data:
        return True
    reads_raw = str(entry_of(read_yaml(root / "params.yaml"), model.train)["source"]).startswith(RAW)
    return reads_raw and source_of(root, model) == source_of(root, model, origin=True)


def _outputs(stages: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each stage's name with each of its outputs."""
    for section, stage in stages.items():
        for key in _keys(stage, params.get(section) or {}):
            for out in stage.get("do", stage).get("outs", ()):
                if isinstance(out, str):
                    yield f"{section}@{key}" if key else section, _filled(out, key)


def _keys(stage: Mapping[str, Any], section: Mapping[str, Any]) -> list[str]:
    """The keys of a foreach; of another stage one that is empty."""
    if "foreach" not in stage:
        return [""]
    return list(stage["foreach"] if isinstance(stage["foreach"], list) else section)


def _filled(path: str, key: str) -> str:
    return path.replace("${key}", key).replace("${item}", key)


def entry_of(params: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """The parameters of a stage: ``train@digits`` -> ``params["train"]["digits"]``."""
    section, _, key = stage.partition("@")
    return params[section][key] if key else params[section]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """A model that was promoted once."""

    model: str
    number: int
    commit: str
    date: str
    who: str
    notes: dict[str, Any]  # reason, metrics, experiment, base commit, MD5s of model and data

    @property
    def name(self) -> str:
        return f"v{self.number}.0.0"

    @property
    def headline(self) -> str:
        metrics = self.notes.get("metrics", {})
        keys = (key for of in HEADLINES.values() for key in of)
        key = next((key for key in keys if isinstance(metrics.get(key), int | float)), None)
        origin = " (generated images)" if metrics.get("generated") is True else ""
        return f"{key} {metrics[key]:.4f}{origin}" if key else "not measured"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """A version became the champion."""

    number: int
    version: Version
    date: str
    who: str
    reason: str


class Tag(NamedTuple):
    """An annotated tag."""

    name: str
    commit: str
    date: str
    tagger: str
    message: str

    @property
    def body(self) -> str:
        """The message without its title."""
        return self.message.partition("\n\n")[2]


def history(root: Path, model: str) -> list[Assignment]:
    """Every champion that a model has had, the present one last."""
    versions: dict[str, Version] = {}
    assignments: list[tuple[int, Tag]] = []
    for tag in tags(root, f"{model}@v*", f"{model}#{STAGE}#*"):
        if match := re.fullmatch(rf"{model}@v(\d+)\.0\.0", tag.name):
            number, notes = int(match[1]), json.loads(tag.body or "{}")
            version = Version(model=model, number=number, commit=tag.commit, date=tag.date, who=tag.tagger, notes=notes)
            versions[version.name] = version
        elif match := re.fullmatch(rf"{model}#{STAGE}#(\d+)", tag.name):
            assignments.append((int(match[1]), tag))
    return [
        Assignment(
            number=number, version=versions[tag.message.split()[0]], date=tag.date, who=tag.tagger, reason=tag.body
        )
        for number, tag in sorted(assignments)
    ]


def champion(root: Path, model: str) -> Version | None:
    """The present champion; None when nothing was promoted yet."""
    assignments = history(root, model)
    return assignments[-1].version if assignments else None


def names_with_champion(root: Path) -> list[str]:
    """The names of all models that ever had a champion, also of those that the graph no longer has."""
    return sorted({tag.name.partition("#")[0] for tag in tags(root, f"*#{STAGE}#*")})


def find_model(root: Path, name: str) -> Model:
    """Raises ValueError if the checkout has no model of that name."""
    models = read_models(root)
    if name not in models:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(models)}")
    return models[name]


def tags(root: Path, *patterns: str) -> list[Tag]:
    """The annotated tags whose names match one of the patterns, which git expands."""
    fields = ("refname:strip=2", "*objectname", "taggerdate:iso-strict", "taggername", "contents")
    form = "%00".join(f"%({field})" for field in fields) + "%00%00"
    text = git(root, "for-each-ref", f"--format={form}", *(f"refs/tags/{pattern}" for pattern in patterns))
    entries = [entry.strip("\n").split("\0") for entry in text.split("\0\0")]
    return [Tag(*entry) for entry in entries if len(entry) == len(fields)]
