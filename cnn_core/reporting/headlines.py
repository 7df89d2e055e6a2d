"""The headline figures of a run: which they are, their intervals, and what is expected of each.

The page, its Markdown summary and the comparison of two runs all take them from here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cnn_core.params import Params, bounded, read_yaml

Unit = Literal["%", ""]  # a share, shown in percent; a plain number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected(Params):
    """The section ``report.expected``: what a run of these data and this length should reach; null = no expectation."""

    digits_accuracy: float | None = bounded(0, 1)
    scenes_accuracy: float | None = bounded(0, 1)
    detector_map50: float | None = bounded(0, 1)
    segmenter_mean_iou: float | None = bounded(0, 1)
    found_and_read: float | None = bounded(0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """One figure of a run, as the metrics file of its stage holds it."""

    key: str  # "evaluate-digits:accuracy": the metrics file and the key in it
    label: str
    value: float
    low: float | None  # 95 % interval: Wilson's of a proportion, by drawing the images anew of the others
    high: float | None
    n: int | None  # of what it is measured on
    unit: Unit
    higher_is_better: bool
    expected: float | None
    expected_by: str | None  # the parameter that says so: "report.expected.digits_accuracy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """Where a headline stands in the metrics, and the parameter that says what is expected of it."""

    stage: str
    metric: str
    label: str
    unit: Unit
    n: str  # the key beside it that counts what it is measured on
    expected: str | None  # a field of Expected

    @property
    def key(self) -> str:
        return f"{self.stage}:{self.metric}"


FIGURES = (
    Figure(
        stage="evaluate-digits",
        metric="accuracy",
        label="digits recognised",
        unit="%",
        n="n",
        expected="digits_accuracy",
    ),
    Figure(
        stage="evaluate-scenes",
        metric="accuracy",
        label="scenes recognised",
        unit="%",
        n="n",
        expected="scenes_accuracy",
    ),
    Figure(
        stage="evaluate_detector",
        metric="map50",
        label="detector, mAP50",
        unit="",
        n="images",
        expected="detector_map50",
    ),
    Figure(
        stage="evaluate_segmenter",
        metric="mean_iou",
        label="segmenter, mean IoU",
        unit="",
        n="images",
        expected="segmenter_mean_iou",
    ),
    Figure(
        stage="read",
        metric="found_and_read",
        label="digits found and read",
        unit="%",
        n="true_digits",
        expected="found_and_read",
    ),
)


def headlines(root: Path) -> list[Headline]:
    """The figures whose metrics files are below ``root``, in the order of the page; one that was not measured is left
    out. What is expected of them stands in ``params.yaml``.
    """
    path = root / "params.yaml"
    expected = (read_yaml(path) if path.is_file() else {}).get("report", {}).get("expected") or {}
    found = [_headline(figure, read_metrics(root, figure.stage), expected) for figure in FIGURES]
    return [headline for headline in found if headline is not None]


def read_metrics(root: Path, stage: str) -> dict[str, Any] | None:
    """What ``data/metrics/<stage>.json`` holds, or None where the stage was not run."""
    path = root / f"data/metrics/{stage}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _headline(figure: Figure, metrics: dict[str, Any] | None, expected: Mapping[str, Any]) -> Headline | None:
    if metrics is None or metrics.get(figure.metric) is None:  # reading without a truth measures nothing
        return None
    return Headline(
        key=figure.key,
        label=figure.label,
        value=metrics[figure.metric],
        low=metrics.get(f"{figure.metric}_low"),
        high=metrics.get(f"{figure.metric}_high"),
        n=metrics.get(figure.n),
        unit=figure.unit,
        higher_is_better=True,
        expected=expected.get(figure.expected) if figure.expected else None,
        expected_by=f"report.expected.{figure.expected}" if figure.expected else None,
    )
