"""Two runs side by side: the parameters that differ, every metric's change, and whether the change is more than luck.

A run is a folder with ``params.yaml`` and ``data/``: a checkout, or what was brought out of DVC's cache.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.comparison.changes import Change, Interval, changed
from cnn_core.comparison.promotion import Comparison, as_ids, compare
from cnn_core.params import read_yaml
from cnn_core.reporting.headlines import headlines
from cnn_core.reporting.numbers import flatten

METRICS = "data/metrics"
ROWS = ["id", "split", "sha256"]
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
    """Of the run ``after`` against the run ``before`` (both as a person named them).

    ``params``: key -> both values, None where a run has no such key; ``metrics``: the headlines first;
    ``only_before``, ``only_after``: metrics files of one run alone; ``notes``: what to know when reading the figures.
    """

    before: str
    after: str
    params: dict[str, tuple[Any, Any]]
    metrics: list[Change]
    only_before: list[str]
    only_after: list[str]
    notes: list[str]

    @property
    def headlines(self) -> list[Change]:
        return [change for change in self.metrics if change.headline]

    @property
    def verdict(self) -> str:
        """What the headlines come to, in one sentence."""
        better, worse = ([c.label for c in self.headlines if c.meaning == word] for word in ("better", "worse"))
        if not self.headlines:
            return f"{self.before} and {self.after} have no headline figure in common."
        told = [f"better in {'; '.join(better)}"] if better else []
        told += [f"worse in {'; '.join(worse)}"] if worse else []
        if told:
            return f"{self.after} against {self.before}, by more than luck: {', '.join(told)}."
        if all(change.meaning == "same" for change in self.headlines):
            return f"{self.after} and {self.before} have the same headline figures."
        return f"No headline figure of {self.after} differs from {self.before} by more than luck might."


def differences(before: Path, after: Path, *, names: tuple[str, str], partial: bool = False) -> Differences:
    """Compare the run in the folder ``after`` with that in ``before``.

    Args:
        partial: ``before`` holds some models' parts of a run alone; other parameters and metrics are left out.

    Raises:
        ValueError: one of them has no metrics.
    """
    found = [read_metrics(folder, name) for folder, name in zip((before, after), names, strict=True)]
    known = {headline.key: headline for headline in headlines(after)}
    paired, notes = paired_tests(before, after, set(found[0]) & set(found[1]))
    changes = []
    for stage in sorted(set(found[0]) & set(found[1])):
        one, other = (dict(_numbers(metrics[stage])) for metrics in found)
        for name in [name for name in one if name in other and not _is_bound(name, one)]:
            key = f"{stage}:{name}"
            values = [(figures[name], _interval(name, figures)) for figures in (one, other)]
            changes.append(changed(key, *values, headline=known.get(key), test=paired.get(key)))
    order = list(known)
    changes.sort(key=lambda one: order.index(one.key) if one.headline else len(order))  # stable
    return Differences(
        before=names[0],
        after=names[1],
        params=changed_params(before, after, partial=partial),
        metrics=changes,
        only_before=sorted(set(found[0]) - set(found[1])),
        only_after=[] if partial else sorted(set(found[1]) - set(found[0])),
        notes=notes,
    )


def read_metrics(folder: Path, name: str) -> dict[str, Any]:
    """Stage -> content of its metrics file.

    Raises:
        ValueError: there is none; it says what would bring them.
    """
    files = sorted((folder / METRICS).glob("*.json"))
    if not files:
        raise ValueError(f"{name} has no metrics: {folder / METRICS} holds none")
    return {file.stem: json.loads(file.read_text()) for file in files}


def changed_params(before: Path, after: Path, *, partial: bool = False) -> dict[str, tuple[Any, Any]]:
    """The parameters that differ by their full names, but for those of the report."""
    one, other = (
        dict(flatten(read_yaml(folder / "params.yaml"))) if (folder / "params.yaml").is_file() else {}
        for folder in (before, after)
    )
    if not one or not other:
        return {}
    keys = [key for key in [*one, *(key for key in other if key not in one)] if not key.startswith("report.")]
    kept = [key for key in keys if key in one] if partial else keys
    return {key: (one.get(key), other.get(key)) for key in kept if one.get(key) != other.get(key)}


def paired_tests(before: Path, after: Path, stages: set[str]) -> tuple[dict[str, Comparison], list[str]]:
    """Metric's key -> both classifiers' answers to the images of both test parts; and what is to be said of them."""
    tests, notes = {}, []
    for stage in sorted(stages):
        kind, _, name = stage.partition("-")
        files = [folder / f"data/predictions/{name}-test.parquet" for folder in (before, after)]
        if kind != "evaluate" or not all(file.is_file() for file in files):
            continue
        one, other = (pd.read_parquet(file, columns=["id", "label", "predicted"]) for file in files)
        rows = [read_rows(folder / "data/raw" / name) for folder in (before, after)]
        if rows[0] is not None and rows[1] is not None:  # names may have been given anew: known by their pixels
            one, other = (as_ids(t, r.set_index("id")["sha256"]) for t, r in zip((one, other), rows, strict=True))
        try:
            found = compare(one, other, [])
        except ValueError as error:
            notes.append(f"{name}: the answers cannot be compared image by image: {error}.")
            continue
        tests[f"{stage}:accuracy"] = found
        if found.n != len(one) or found.n != len(other):
            notes.append(
                f"{name}: the test parts differ; {found.n:,} images are in both, where {names_of(found)}. "
                "The figures above are each run's own."
            )
    return tests, notes


def read_rows(raw: Path) -> pd.DataFrame | None:
    """id, split and sha256 of the images of a RAW set; None where it is not there."""
    parts = sorted(raw.glob("part-*.parquet"))
    return pd.concat([pd.read_parquet(part, columns=ROWS) for part in parts], ignore_index=True) if parts else None


def names_of(found: Comparison) -> str:
    return f"{found.champion:.2%} and {found.challenger:.2%} are right"


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
