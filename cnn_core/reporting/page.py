"""The report: one self-contained HTML page on a run, made of the run's files and parameters alone.

Each section has a module that gathers what its template in ``templates/`` shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_core.params import Params, bounded, flatten, read_yaml
from cnn_core.reporting import charts, classifiers, detection, parts, reading, segmentation
from cnn_core.reporting.headlines import Expected, Headline, headlines
from cnn_core.reporting.numbers import Numbers, count, parameter, pointer
from cnn_core.reporting.verdict import Limits, judge, left_out

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("page.js", "answers.js", "scenes.js")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportParams(Params):
    """The section ``report``."""

    title: str
    expected: Expected
    limits: Limits
    answers: int = bounded(0, 5000)  # at most so many test images of each classifier
    pictures: int = bounded(0, 1000)  # at most so many scenes of the detector, and as many numbers read
    masks: int = bounded(0, 100)  # at most so many images with masks


def write_report(params: ReportParams, *, root: str | Path, output: str | Path) -> None:
    """Write the page on the run below ``root`` to the file ``output``.

    It has no date, commit or host name. `cnn_core.comparison.banners` puts what depends on the moment on top of a
    copy.
    """
    root = Path(root)
    values = read_yaml(root / "params.yaml")
    numbers = Numbers(root)
    sets = [classifiers.section(root, name, values, numbers, params.answers) for name in values.get("train", {})]
    names = [classifier["name"] for classifier in sets]
    figures = headlines(root)
    verdict = judge(figures, numbers, values, params.limits)
    ways = numbers.value("read:ways") or {}
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            title=params.title,
            style=(TEMPLATES / "style.css").read_text(),
            theme=(TEMPLATES / "theme.js").read_text(),
            scripts=[(TEMPLATES / name).read_text() for name in SCRIPTS],
            vega=charts.script(),
            what=parts.what_ran(numbers, sets),
            verdict=verdict,
            absent=[reason for reason in verdict.reasons if reason.level == "missing"],
            cards=[card(headline, numbers) for headline in figures],
            sections=contents(names),
            numbers=numbers,
            sets=sets,
            detected=numbers.any_of("train_detector", "evaluate_detector", "detect"),
            detection=detection.section(root, values, params.pictures),
            segmented=numbers.any_of("train_segmenter", "evaluate_segmenter", "segment"),
            segmentation=segmentation.section(root, values, params.masks),
            reading=reading.section(root, values, ways, params.pictures),
            baselines=parts.baselines(numbers),
            anatomy=parts.anatomy(root, list(values.get("anatomy", {})), numbers),
            refused=left_out(numbers, names),
            resources=parts.resources(root, numbers),
            parameters=flatten(values),
            parameter=parameter,
        )
    )
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(page, encoding="utf-8")


def environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"count": count, "pointer": pointer}
    return jinja


def contents(sets: Sequence[str]) -> list[tuple[str, str]]:
    """``(id, name)`` of the page's sections, in their order."""
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
    """What the template shows of a headline: marked figures, and positions on its scale in percent."""
    spec, style = headline.spec, headline.style
    has_interval = headline.low is not None and headline.high is not None
    is_expected = headline.expected is not None
    return {
        "headline": headline,
        "target": spec.section,
        "figure": numbers(spec.key, style),
        "low": numbers(f"{spec.key}_low", style) if has_interval else "",
        "high": numbers(f"{spec.key}_high", style) if has_interval else "",
        "n": numbers(f"{spec.stage}:{spec.n}", "count") if headline.n else "",
        "counted": spec.counted,
        "expected": parameter(f"report.expected.{spec.expected}", headline.expected, style) if is_expected else "",
        "met": headline.expected is not None and headline.value >= headline.expected,
        "at": positions(headline),
    }


def positions(headline: Headline) -> dict[str, float | None]:
    """Where value, interval and expectation stand on a scale that starts below them all and ends at 1, in percent."""
    low, high = headline.low or headline.value, headline.high or headline.value
    least = min(low, headline.value, headline.expected if headline.expected is not None else 1.0)
    start = max(0.0, least - max(0.02, 0.25 * (1 - least)))

    def percent(value: float) -> float:
        return round(100 * (value - start) / max(1e-9, 1 - start), 1)

    return {
        "value": percent(headline.value),
        "low": percent(low),
        "width": round(percent(high) - percent(low), 1),
        "expected": None if headline.expected is None else percent(headline.expected),
    }
