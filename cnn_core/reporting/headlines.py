"""The headline figures of a run: which they are, their intervals, and what is expected of each.

The page, its Markdown summary and the comparison of two runs all read them here.
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
    """The section ``report.expected``: what a run should reach with these data and epochs; null = no expectation."""

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
    low: float | None  # 95 % interval: Wilson's for a proportion, bootstrapped over the images for the others
    high: float | None
    n: int | None  # the size of the sample that it was measured on
    unit: Unit
    higher_is_better: bool
    expected: float | None
    expected_by: str | None  # the parameter that says so: "report.expected.digits_accuracy"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadlineSpec:
    """Where a headline lies in the metrics, and the parameter that says what is expected of it."""

    stage: str
    metric: str
    label: str
    unit: Unit
    n: str  # the key of the sample's size, in the same file
    expected: str | None  # a field of `Expected`

    @property
    def key(self) -> str:
        return f"{self.stage}:{self.metric}"


HEADLINES = (
    HeadlineSpec(
        stage="evaluate-digits",
        metric="accuracy",
        label="digits recognised",
        unit="%",
        n="n",
        expected="digits_accuracy",
    ),
    HeadlineSpec(
        stage="evaluate-scenes",
        metric="accuracy",
        label="scenes recognised",
        unit="%",
        n="n",
        expected="scenes_accuracy",
    ),
    HeadlineSpec(
        stage="evaluate_detector",
        metric="map50",
        label="detector, mAP50",
        unit="",
        n="images",
        expected="detector_map50",
    ),
    HeadlineSpec(
        stage="evaluate_segmenter",
        metric="mean_iou",
        label="segmenter, mean IoU",
        unit="",
        n="images",
        expected="segmenter_mean_iou",
    ),
    HeadlineSpec(
        stage="read",
        metric="found_and_read",
        label="digits found and read",
        unit="%",
        n="true_digits",
        expected="found_and_read",
    ),
)


def headlines(root: Path) -> list[Headline]:
    """Return the headlines of the run below ``root`` in the order of the page, without those not measured.

    What is expected of them stands in ``params.yaml``.
    """
    path = root / "params.yaml"
    expected = (read_yaml(path) if path.is_file() else {}).get("report", {}).get("expected") or {}
    every = (_headline(spec, read_metrics(root, spec.stage), expected) for spec in HEADLINES)
    return [headline for headline in every if headline is not None]


def read_metrics(root: Path, stage: str) -> dict[str, Any] | None:
    """Return the content of ``data/metrics/<stage>.json``, or None where the stage was not run."""
    path = root / f"data/metrics/{stage}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _headline(spec: HeadlineSpec, metrics: dict[str, Any] | None, expected: Mapping[str, Any]) -> Headline | None:
    if metrics is None or metrics.get(spec.metric) is None:  # reading without a truth measures nothing
        return None
    return Headline(
        key=spec.key,
        label=spec.label,
        value=metrics[spec.metric],
        low=metrics.get(f"{spec.metric}_low"),
        high=metrics.get(f"{spec.metric}_high"),
        n=metrics.get(spec.n),
        unit=spec.unit,
        higher_is_better=True,
        expected=expected.get(spec.expected) if spec.expected else None,
        expected_by=f"report.expected.{spec.expected}" if spec.expected else None,
    )
