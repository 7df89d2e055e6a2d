"""The headline figures of a run: which they are, their intervals, and what is expected of each.

The page, its Markdown summary and the comparison of two runs all read them here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cnn_core.params import read_yaml
from cnn_core.reporting.former import former_stages

Unit = Literal["%", ""]  # a share, shown in percent; a plain number


# The section ``report.expected``: by model and metric, what a run should reach; null = no expectation.
Expected = Mapping[str, Mapping[str, float | None]]


class Measure(NamedTuple):
    """What sums up the models of a section of ``params.yaml``."""

    section: str
    metric: str
    words: str
    unit: Unit
    n: str  # the key of the sample's size, in the same file
    counted: str  # what the sample is of
    target: str  # the start of the id of the model's section of the page


class HeadlineSpec(NamedTuple):
    """Where a headline lies in the metrics, and what is expected of it."""

    model: str
    measure: Measure

    @property
    def stage(self) -> str:
        return f"{self.measure.section}-{self.model}"

    @property
    def key(self) -> str:
        return f"{self.stage}:{self.measure.metric}"

    @property
    def label(self) -> str:
        return f"{self.model} {self.measure.words}"

    @property
    def target(self) -> str:
        """The id of the section of the page."""
        return f"{self.measure.target}-{self.model}"

    @property
    def parameter(self) -> str:
        """The parameter that says what is expected."""
        return f"report.expected.{self.model}.{self.measure.metric}"


CLASSIFIERS = "evaluate"
MEASURES = (
    Measure(CLASSIFIERS, "accuracy", "recognised", "%", "n", "images", "model"),
    Measure(CLASSIFIERS, "map", "mAP", "", "n", "images", "model"),  # of several labels an image
    Measure("evaluate_detector", "map50", "mAP50", "", "images", "images", "model"),
    Measure("evaluate_segmenter", "mean_iou", "mean IoU", "", "images", "images", "model"),
    Measure("read", "found_and_read", "found and read", "%", "true_digits", "digits", "reading"),
)
METRICS = tuple(measure.metric for measure in MEASURES)


def specs(values: Mapping[str, Any]) -> list[HeadlineSpec]:
    """The headlines that the models of ``params.yaml``, whose content is ``values``, may have."""
    return [
        HeadlineSpec(name, measure)
        for measure in MEASURES
        for name, entry in (values.get(measure.section) or {}).items()
        if measure.section != CLASSIFIERS or (measure.metric == "map") == _has_several_labels(values, name, entry)
    ]


def _has_several_labels(values: Mapping[str, Any], name: str, entry: Mapping[str, Any] | None) -> bool:
    """Whether a classifier is of a set whose images may have several labels."""
    data = (values.get("ingest") or {}).get((entry or {}).get("data", name)) or {}
    return data.get("multilabel") is True


def check_expected(expected: Expected) -> None:
    """Raises ValueError if something else than a share of 1 is expected of a metric that sums a model up."""
    for model, metrics in expected.items():
        for metric, value in metrics.items():
            if metric not in METRICS:
                raise ValueError(f"expected.{model}.{metric} is no figure of a model: they are {', '.join(METRICS)}")
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected.{model}.{metric} must be at least 0 and at most 1, not {value}")


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
        return self.spec.measure.unit

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
    every = (_headline(spec, read_metrics(root, spec.stage), expected, spec.stage in former) for spec in specs(values))
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
    measure = spec.measure
    if metrics is None or metrics.get(measure.metric) is None:  # reading without a truth measures nothing
        return None
    low, high = (metrics.get(f"{measure.metric}_{end}") for end in ("low", "high"))
    return Headline(
        spec=spec,
        value=metrics[measure.metric],
        low=low,
        high=high,
        n=metrics.get(measure.n),
        generated=metrics.get("generated") is True,
        former=former,
        expected=(expected.get(spec.model) or {}).get(measure.metric),
    )
