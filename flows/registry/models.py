"""The kinds of models, their versions, and which version is the champion.

A version is an annotated tag ``digits@v3.0.0`` on a commit that holds the parameters and dvc.lock of a run. The newest
tag ``digits#champion#N`` is the champion. This is gto's grammar, so ``gto show`` and ``dvc artifacts get . digits
--stage champion`` read the tags too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from flows.repository.git import git

STAGE = "champion"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A kind of model, and where it stands in the pipeline."""

    name: str
    headline: str  # the metric that sums it up
    source: str  # the data set whose source it is made from in the end, and whose inbox it grows by
    data: str = ""  # of a classifier: its data set

    @property
    def folder(self) -> str:
        return f"data/models/{self.name}"

    @property
    def train(self) -> str:
        return f"train@{self.name}" if self.data else f"train_{self.name}"

    @property
    def evaluate(self) -> str:
        return f"evaluate@{self.name}" if self.data else f"evaluate_{self.name}"

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


MODELS = {
    model.name: model
    for model in (
        Model(name="digits", headline="accuracy", source="digits", data="digits"),
        Model(name="scenes", headline="accuracy", source="scenes", data="scenes"),
        Model(name="detector", headline="map50", source="digits"),
        Model(name="segmenter", headline="mean_iou", source="digits"),
    )
}


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
        key = MODELS[self.model].headline
        value = self.notes.get("metrics", {}).get(key)
        origin = " (generated images)" if self.notes.get("metrics", {}).get("generated") is True else ""
        return f"{key} {value:.4f}{origin}" if isinstance(value, int | float) else "not measured"


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
    """Every champion that a model has had, the present one last.

    Raises:
        ValueError: there is no such kind of model.
    """
    find_model(model)
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


def find_model(name: str) -> Model:
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]


def tags(root: Path, *patterns: str) -> list[Tag]:
    """The annotated tags whose names match one of the patterns, which git expands."""
    fields = ("refname:strip=2", "*objectname", "taggerdate:iso-strict", "taggername", "contents")
    form = "%00".join(f"%({field})" for field in fields) + "%00%00"
    text = git(root, "for-each-ref", f"--format={form}", *(f"refs/tags/{pattern}" for pattern in patterns))
    entries = [entry.strip("\n").split("\0") for entry in text.split("\0\0")]
    return [Tag(*entry) for entry in entries if len(entry) == len(fields)]
