"""The headline figures of a run: which they are, their intervals, and what is expected of each.

The page, its Markdown summary and the comparison of two runs all read them here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cnn_core.params import Params, bounded, read_yaml
from cnn_core.reporting.former import former_stages

Unit = Literal["%", ""]  # a share, shown in percent; a plain number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected(Params):
    """The section ``report.expected``: what a run should reach with these data and epochs; null = no expectation."""

    digits_accuracy: float | None = bounded(0, 1)
    scenes_accuracy: float | None = bounded(0, 1)
    detector_map50: float | None = bounded(0, 1)
    segmenter_mean_iou: float | None = bounded(0, 1)
    found_and_read: float | None = bounded(0, 1)


class HeadlineSpec(NamedTuple):
    """Where a headline lies in the metrics, and what is expected of it."""

    stage: str
    metric: str
    label: str
    unit: Unit
    n: str  # the key of the sample's size, in the same file
    counted: str  # what the sample is of
    section: str  # of the page
    expected: str  # a field of `Expected`

    @property
    def key(self) -> str:
        return f"{self.stage}:{self.metric}"


HEADLINES = (
    HeadlineSpec("evaluate-digits", "accuracy", "digits recognised", "%", "n", "images", "digits", "digits_accuracy"),
    HeadlineSpec("evaluate-scenes", "accuracy", "scenes recognised", "%", "n", "images", "scenes", "scenes_accuracy"),
    HeadlineSpec("evaluate_detector", "map50", "detector, mAP50", "", "images", "images", "detection",
                 "detector_map50"),
    HeadlineSpec("evaluate_segmenter", "mean_iou", "segmenter, mean IoU", "", "images", "images", "segmentation",
                 "segmenter_mean_iou"),
    HeadlineSpec("read", "found_and_read", "digits found and read", "%", "true_digits", "digits", "reading",
                 "found_and_read"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """One figure of a run, as the metrics file of its stage holds it; higher is better."""

    spec: HeadlineSpec
    value: float
    low: float | None  # 95 % interval: Wilson's for a proportion, bootstrapped over the images for the others
    high: float | None
    n: int | None  # the size of the sample that it was measured on
    generated: bool  # whether a program made that sample
    former: bool  # whether the figure is of an earlier run
    expected: float | None

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def label(self) -> str:
        marks = [words for words, of in (("generated images", self.generated), ("earlier run", self.former)) if of]
        return f"{self.spec.label} ({', '.join(marks)})" if marks else self.spec.label

    @property
    def unit(self) -> Unit:
        return self.spec.unit

    @property
    def style(self) -> str:
        """The name of the number format on the page."""
        return "percent" if self.unit == "%" else "three"


def headlines(root: Path) -> list[Headline]:
    """The headlines that the run below ``root`` measured, in the order of the page."""
    path = root / "params.yaml"
    values = read_yaml(path) if path.is_file() else {}
    expected = values.get("report", {}).get("expected") or {}
    former = {stage.replace("@", "-") for stage in former_stages(root, values)}
    every = (_headline(spec, read_metrics(root, spec.stage), expected, spec.stage in former) for spec in HEADLINES)
    return [headline for headline in every if headline is not None]


def read_metrics(root: Path, stage: str) -> dict[str, Any] | None:
    """The content of ``data/metrics/<stage>.json``, or None where the stage was not run."""
    path = root / f"data/metrics/{stage}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def made_at(root: Path, stage: str) -> str:
    """When a stage's figures were measured, such as ``2026-11-30 07:15 UTC``; empty where nothing says so."""
    metrics = read_metrics(root, stage.replace("@", "-")) or {}
    finished = metrics.get("resources", {}).get("finished")
    return f"{finished[:16].replace('T', ' ')} UTC" if isinstance(finished, str) else ""


def _headline(
    spec: HeadlineSpec, metrics: dict[str, Any] | None, expected: Mapping[str, Any], former: bool
) -> Headline | None:
    if metrics is None or metrics.get(spec.metric) is None:  # reading without a truth measures nothing
        return None
    low, high = (metrics.get(f"{spec.metric}_{end}") for end in ("low", "high"))
    return Headline(
        spec=spec,
        value=metrics[spec.metric],
        low=low,
        high=high,
        n=metrics.get(spec.n),
        generated=metrics.get("generated") is True,
        former=former,
        expected=expected.get(spec.expected),
    )
