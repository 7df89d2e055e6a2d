"""What the registry of champions knows: the kinds of models, their versions, and which of them is or was the champion.

A version is an annotated tag ``digits@v3.0.0`` on a commit that holds the parameters and dvc.lock of a run; the
champion is the newest tag ``digits#champion#N``. That is gto's grammar, so ``gto show`` and
``dvc artifacts get . digits --stage champion`` read it too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from flows.repository.git import git

STAGE = "champion"
_VERSION = re.compile(r"v(\d+)\.0\.0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Where a kind of model stands in the pipeline."""

    name: str
    folder: str
    train: str  # the stage that makes it
    evaluate: str  # the stage that measures it
    weights: str  # that stage's parameter for the model to measure
    predictions: str  # what it writes
    metrics: str
    headline: str  # the figure that sums them up
    source: str  # the data set whose source it is made from in the end, and whose inbox it grows by
    data: str = ""  # of a classifier: its data set


def _classifier(name: str) -> Model:
    return Model(
        name=name,
        folder=f"data/models/{name}",
        train=f"train@{name}",
        evaluate=f"evaluate@{name}",
        weights=f"evaluate.{name}.weights",
        predictions=f"data/predictions/{name}-test.parquet",
        metrics=f"data/metrics/evaluate-{name}.json",
        headline="accuracy",
        source=name,
        data=name,
    )


def _finder(name: str, headline: str) -> Model:
    return Model(
        name=name,
        folder=f"data/models/{name}",
        train=f"train_{name}",
        evaluate=f"evaluate_{name}",
        weights=f"evaluate_{name}.weights",
        predictions=f"data/predictions/{name}-test.parquet",
        metrics=f"data/metrics/evaluate_{name}.json",
        headline=headline,
        source="digits",
    )


MODELS = {
    "digits": _classifier("digits"),
    "scenes": _classifier("scenes"),
    "detector": _finder("detector", "map50"),
    "segmenter": _finder("segmenter", "mean_iou"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """A model that was promoted once."""

    model: str
    number: int
    commit: str
    date: str
    who: str
    notes: dict[str, Any]  # reason, metrics, experiment, base commit, MD5s of model folder and data

    @property
    def name(self) -> str:
        return f"v{self.number}.0.0"

    @property
    def headline(self) -> str:
        key = MODELS[self.model].headline
        value = self.notes.get("metrics", {}).get(key)
        return f"{key} {value:.4f}" if isinstance(value, int | float) else "not measured"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assignment:
    """When a version became the champion."""

    number: int
    version: Version
    date: str
    who: str
    reason: str


def history(root: Path, model: str) -> list[Assignment]:
    """Every champion of a model there has been, the present one last.

    Raises:
        ValueError: there is no such kind of model.
    """
    known(model)
    versions: dict[str, Version] = {}
    found: list[tuple[int, str, str, str, str]] = []
    for name, commit, date, who, text in tags(root, f"{model}@v*", f"{model}#{STAGE}#*"):
        if match := re.fullmatch(rf"{model}@{_VERSION.pattern}", name):
            notes = json.loads(text.partition("\n\n")[2] or "{}")
            version = Version(model=model, number=int(match[1]), commit=commit, date=date, who=who, notes=notes)
            versions[version.name] = version
        elif match := re.fullmatch(rf"{model}#{STAGE}#(\d+)", name):
            found.append((int(match[1]), text, date, who, commit))
    return [
        Assignment(
            number=number, version=versions[text.split()[0]], date=date, who=who, reason=text.partition("\n\n")[2]
        )
        for number, text, date, who, _ in sorted(found)
    ]


def champion(root: Path, model: str) -> Version | None:
    """The present champion; None when nothing was promoted yet."""
    assigned = history(root, model)
    return assigned[-1].version if assigned else None


def known(model: str) -> Model:
    if model not in MODELS:
        raise ValueError(f"there is no model {model!r}; there are {', '.join(MODELS)}")
    return MODELS[model]


def tags(root: Path, *patterns: str) -> list[tuple[str, str, str, str, str]]:
    """(name, commit, date, tagger, message) of the annotated tags whose names are like one of ``patterns``."""
    fields = ("refname:strip=2", "*objectname", "taggerdate:iso-strict", "taggername", "contents")
    form = "%00".join(f"%({field})" for field in fields) + "%00%00"
    text = git(root, "for-each-ref", f"--format={form}", *(f"refs/tags/{pattern}" for pattern in patterns))
    entries = [entry.strip("\n").split("\0") for entry in text.split("\0\0")]
    return [tuple(entry) for entry in entries if len(entry) == len(fields)]  # type: ignore[misc]
