"""Two runs side by side: the parameters that differ, and how each metric changed.

A run is a folder with ``params.yaml`` and ``data/``: a checkout, or what was brought out of DVC's
cache.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.comparison.changes import Change, Interval, measure_change
from cnn_core.comparison.classifiers import (
    ClassifierComparison,
    by_hash,
    compare_classifiers,
    has_several_labels,
    read_answers,
    read_rows,
)
from cnn_core.params import flatten, read_yaml
from cnn_core.reporting.headlines import headlines

METRICS = "data/metrics"
# Figures that say nothing of the result: how long it took, how far an interrupted run had come.
OF_THE_MOMENT = {
    "seconds",
    "training_seconds",
    "images_per_s",
    "images_per_minute",
    "resumed_at",
    "fit_seconds",
    "predict_ms",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Differences:
    """The run ``after`` compared with the run ``before``, both by the names that a person gave."""

    before: str
    after: str
    params: dict[str, tuple[Any, Any]]  # those that differ; None where a run has no such key
    metrics: list[Change]  # of the figures that both runs have, the headlines first
    only_before: list[str]  # metrics files that one run alone has
    only_after: list[str]
    notes: list[str]  # what to know when reading the figures

    @property
    def headlines(self) -> list[Change]:
        return [change for change in self.metrics if change.headline]

    @property
    def verdict(self) -> str:
        """What the headlines come to, in one sentence."""
        if not self.headlines:
            return f"{self.before} and {self.after} have no headline figure in common."
        better, worse = (
            [change.label for change in self.headlines if change.meaning == meaning] for meaning in ("better", "worse")
        )
        clauses = [f"better in {'; '.join(better)}"] if better else []
        clauses += [f"worse in {'; '.join(worse)}"] if worse else []
        if clauses:
            return f"{self.after} against {self.before}, by more than luck: {', '.join(clauses)}."
        if all(change.meaning == "same" for change in self.headlines):
            return f"{self.after} and {self.before} have the same headline figures."
        return f"No headline figure of {self.after} differs from {self.before} by more than luck might."


def differences(before: Path, after: Path, *, names: tuple[str, str], partial: bool = False) -> Differences:
    """Compare the runs in two folders.

    Args:
        names: of both runs, as tables show them.
        partial: ``before`` holds only some models' parts of a run; other parameters and metrics are
            left out.

    Raises:
        ValueError: one of them has no metrics.
    """
    metrics_before, metrics_after = (
        read_all_metrics(folder, name) for folder, name in zip((before, after), names, strict=True)
    )
    headline_of = {headline.key: headline for headline in headlines(after)}
    shared = sorted(set(metrics_before) & set(metrics_after))
    comparisons, notes = compare_answers(before, after, shared)
    changes = []
    for stage in shared:
        figures_before, figures_after = (dict(_numbers(each[stage])) for each in (metrics_before, metrics_after))
        for name in figures_before:
            if name not in figures_after or _is_bound(name, figures_before):
                continue
            key = f"{stage}:{name}"
            pair = [(figures[name], _interval(name, figures)) for figures in (figures_before, figures_after)]
            changes.append(measure_change(key, *pair, headline=headline_of.get(key), comparison=comparisons.get(key)))
    order = list(headline_of)
    changes.sort(key=lambda change: order.index(change.key) if change.headline else len(order))  # stable
    return Differences(
        before=names[0],
        after=names[1],
        params=changed_params(before, after, partial=partial),
        metrics=changes,
        only_before=sorted(set(metrics_before) - set(metrics_after)),
        only_after=[] if partial else sorted(set(metrics_after) - set(metrics_before)),
        notes=notes,
    )


def read_all_metrics(folder: Path, name: str) -> dict[str, Any]:
    """Read the metrics files of the run called ``name``: stage -> content."""
    files = sorted((folder / METRICS).glob("*.json"))
    if not files:
        raise ValueError(f"{name} has no metrics: {folder / METRICS} holds none")
    return {file.stem: json.loads(file.read_text()) for file in files}


def changed_params(before: Path, after: Path, *, partial: bool = False) -> dict[str, tuple[Any, Any]]:
    """List the parameters that differ, by their full names; those of the report are left out."""
    params_before, params_after = (
        dict(flatten(read_yaml(folder / "params.yaml"))) if (folder / "params.yaml").is_file() else {}
        for folder in (before, after)
    )
    if not params_before or not params_after:
        return {}
    keys = list(params_before) if partial else list(params_before | params_after)
    pairs = {key: (params_before.get(key), params_after.get(key)) for key in keys if not key.startswith("report.")}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def compare_answers(before: Path, after: Path, stages: list[str]) -> tuple[dict[str, ClassifierComparison], list[str]]:
    """Compare both runs' classifiers image by image: metric's key -> comparison, and notes on differing test parts."""
    comparisons, notes = {}, []
    for stage in stages:
        kind, _, name = stage.partition("-")
        if kind != "evaluate":
            continue
        files = [folder / f"data/predictions/{name}-test.parquet" for folder in (before, after)]
        if not all(file.is_file() for file in files):
            continue
        answers_before, answers_after = (read_answers(file) for file in files)
        if has_several_labels(answers_before) or has_several_labels(answers_after):
            continue  # whose mAP is compared by its interval
        sets = [folder / "data/raw" / _set_of(folder, name) for folder in (before, after)]
        rows_before, rows_after = map(read_rows, sets)
        if rows_before is not None and rows_after is not None:  # names may have been given anew
            answers_before = by_hash(answers_before, rows_before)
            answers_after = by_hash(answers_after, rows_after)
        former, present = map(_classes_of, sets)
        new = [label for label in present if label not in former]
        if former != present and former and present:
            answers_before = _renumbered(answers_before, former, present)
            notes.append(f"{name}: the classes differ; what both runs have is compared by the classes' names.")
        try:
            comparison = compare_classifiers(answers_before, answers_after, present, new=new if former else ())
        except ValueError as error:
            notes.append(f"{name}: the answers cannot be compared image by image: {error}.")
            continue
        comparisons[f"{stage}:accuracy"] = comparison
        if not len(answers_before) == len(answers_after) == comparison.n:
            notes.append(
                f"{name}: the test parts differ; {comparison.n:,} images are in both, where "
                f"{comparison.champion:.2%} and {comparison.challenger:.2%} are right. "
                "The figures above are each run's own."
            )
    return comparisons, notes


def _set_of(folder: Path, model: str) -> str:
    """The data set that a model was measured on."""
    values = read_yaml(folder / "params.yaml") if (folder / "params.yaml").is_file() else {}
    entry = (values.get("evaluate") or {}).get(model)
    return str(entry.get("data", model)) if isinstance(entry, Mapping) else model


def _classes_of(raw: Path) -> list[str]:
    """The classes of a RAW set; none where they are not here."""
    path = raw / "manifest.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["classes"]) if path.is_file() else []


def _renumbered(answers: pd.DataFrame, former: Sequence[str], present: Sequence[str]) -> pd.DataFrame:
    """Number the classes of answers as ``present`` does; those that it lacks come behind."""
    numbers = [*present, *(name for name in former if name not in present)]
    number_of = {old: numbers.index(name) for old, name in enumerate(former)}
    return answers.assign(
        **{key: answers[key].map(lambda old: number_of.get(old, len(numbers))) for key in ("label", "predicted")}
    )


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in OF_THE_MOMENT:
            yield f"{prefix}{name}", value


def _interval(name: str, figures: Mapping[str, float]) -> Interval | None:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def _is_bound(name: str, figures: Mapping[str, float]) -> bool:
    return name.endswith(("_low", "_high")) and name.rpartition("_")[0] in figures
