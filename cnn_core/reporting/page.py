"""The report: one self-contained HTML page on a run, made of its files and parameters and of nothing else.

The page's template, style and scripts stand in ``report_page/``; each part has a module ``report_*.py`` of its own that
gathers what the template shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_core.params import Params, bounded, read_yaml
from cnn_core.reporting import (
    charts,
    classifiers,
    detection,
    parts,
    reading,
)
from cnn_core.reporting import (
    masks as report_masks,
)
from cnn_core.reporting.headlines import Expected, Headline, headlines
from cnn_core.reporting.numbers import Numbers, count, flatten, parameter
from cnn_core.reporting.verdict import Limits, judge

PAGE = Path(__file__).parent / "templates"
SCRIPTS = ("page.js", "answers.js", "scenes.js")
TARGETS = {"evaluate_detector": "detection", "evaluate_segmenter": "segmentation", "read": "reading"}
COUNTED = {"evaluate_detector": "images", "evaluate_segmenter": "images", "read": "digits"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportParams(Params):
    """The section ``report``."""

    title: str
    expected: Expected
    limits: Limits
    answers: int = bounded(0, 5000)  # test images of each classifier
    pictures: int = bounded(0, 1000)  # scenes of the detector, and numbers read
    masks: int = bounded(0, 100)  # images with masks


def write_report(params: ReportParams, *, root: str | Path, output: str | Path) -> None:
    """Write the page to the file ``output``: a pure function of the files below ``root`` that the stage depends on, so
    it bears no date, commit or host name. What depends on the moment goes on top of a copy of it (banners.py).
    """
    root = Path(root)
    values = read_yaml(root / "params.yaml")
    numbers = Numbers(root)
    sets = [classifiers.section(root, name, values, numbers, params.answers) for name in values.get("train", {})]
    figures = headlines(root)
    verdict = judge(figures, numbers, values, params.limits)
    ways = numbers.value("read:ways")
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            title=params.title,
            style=(PAGE / "style.css").read_text(),
            theme=(PAGE / "theme.js").read_text(),
            scripts=[(PAGE / name).read_text() for name in SCRIPTS],
            vega=charts.script(),
            what=parts.what_ran(numbers, sets),
            verdict=verdict,
            absent=[reason for reason in verdict.reasons if reason.level == "missing"],
            cards=[card(figure, numbers) for figure in figures],
            sections=contents([one["name"] for one in sets]),
            numbers=numbers,
            sets=sets,
            detected=any(numbers.of(stage) for stage in ("train_detector", "evaluate_detector", "detect")),
            detection=detection.section(root, values, params.pictures),
            segmented=any(numbers.of(stage) for stage in ("train_segmenter", "evaluate_segmenter", "segment")),
            segmentation=report_masks.section(root, values, params.masks),
            reading=reading.section(root, values, ways, params.pictures),
            baselines=parts.baselines(numbers),
            anatomy=parts.anatomy(root, list(values.get("anatomy", {})), numbers),
            refused=parts.refused(numbers, [one["name"] for one in sets]),
            resources=parts.resources(root, numbers),
            parameters=flatten(values),
            parameter=parameter,
        )
    )
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(page, encoding="utf-8")


def environment() -> Any:
    """Jinja's, with the page's templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"count": count}
    return made


def contents(sets: Sequence[str]) -> list[tuple[str, str]]:
    """``(id, name)`` of the page's sections in their order."""
    return [
        ("data", "Data"),
        ("augmentation", "Augmentation"),
        *((name, name.capitalize()) for name in sets),
        ("detection", "Detection"),
        ("segmentation", "Segmentation"),
        ("reading", "Reading"),
        ("baselines", "Baselines"),
        ("anatomy", "Anatomy"),
        ("refused", "Skipped"),
        ("time", "Time"),
        ("parameters", "Parameters"),
    ]


def card(headline: Headline, numbers: Numbers) -> Mapping[str, Any]:
    """What the template shows of a headline: marked figures, and the places on its scale in percent."""
    style = "percent" if headline.unit == "%" else "three"
    stage, _, metric = headline.key.partition(":")
    has_interval = headline.low is not None and headline.high is not None
    count_key = {"read": "true_digits"}.get(stage, "images" if stage in COUNTED else "n")
    return {
        "headline": headline,
        "target": TARGETS.get(stage, stage.removeprefix("evaluate-")),
        "figure": numbers(headline.key, style),
        "low": numbers(f"{stage}:{metric}_low", style) if has_interval else "",
        "high": numbers(f"{stage}:{metric}_high", style) if has_interval else "",
        "n": numbers(f"{stage}:{count_key}", "count") if headline.n else "",
        "counted": COUNTED.get(stage, "images"),
        "wanted": wanted(headline),
        "met": headline.expected is not None and headline.value >= headline.expected,
        "at": places(headline),
    }


def wanted(headline: Headline) -> str:
    """What is expected, marked with its parameter; empty where nothing is."""
    if headline.expected is None or headline.expected_by is None:
        return ""
    return parameter(headline.expected_by, headline.expected, "percent" if headline.unit == "%" else "three")


def places(headline: Headline) -> dict[str, float | None]:
    """Where value, interval and expectation stand on a scale that ends at 1 and begins below all of them."""
    low, high = headline.low or headline.value, headline.high or headline.value
    least = min(low, headline.value, headline.expected if headline.expected is not None else 1.0)
    start = max(0.0, least - max(0.02, 0.25 * (1 - least)))

    def at(value: float) -> float:
        return round(100 * (value - start) / max(1e-9, 1 - start), 1)

    return {
        "value": at(headline.value),
        "low": at(low),
        "width": round(at(high) - at(low), 1),
        "expected": None if headline.expected is None else at(headline.expected),
    }
