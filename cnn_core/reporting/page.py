"""The report: one self-contained HTML page on a run, made of the run's files and parameters alone.

Each section has a module that gathers what its template in ``templates/`` shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_core.params import Params, bounded, flatten, read_yaml
from cnn_core.reporting import charts, classifiers, detection, parts, reading, segmentation, sets
from cnn_core.reporting.headlines import Expected, Headline, check_expected, headlines
from cnn_core.reporting.numbers import Numbers, count, parameter, pointer
from cnn_core.reporting.verdict import Limits, judge, left_out

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("page.js", "answers.js", "scenes.js")
DETECTORS = ("train_detector", "evaluate_detector")  # sections of params.yaml
SEGMENTERS = ("train_segmenter", "evaluate_segmenter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportParams(Params):
    """The section ``report``."""

    title: str
    expected: Expected
    limits: Limits
    answers: int = bounded(0, 5000)  # at most so many test images of each classifier
    pictures: int = bounded(0, 1000)  # at most so many pictures of each detector, and as many numbers read
    masks: int = bounded(0, 100)  # at most so many images with masks

    def __post_init__(self) -> None:
        super().__post_init__()
        check_expected(self.expected)


def write_report(params: ReportParams, *, root: str | Path, output: str | Path) -> None:
    """Write the page on the run below ``root`` to the file ``output``.

    It has no date, commit or host name. `cnn_core.comparison.banners` puts what depends on the moment on top of a
    copy.
    """
    root = Path(root)
    values = read_yaml(root / "params.yaml")
    numbers = Numbers(root)
    models = [classifiers.section(root, name, values, numbers, params.answers) for name in values.get("train") or {}]
    figures = headlines(root)
    verdict = judge(figures, numbers, values, params.limits)
    page = (
        environment()
        .get_template("page.html.j2")
        .render(
            title=params.title,
            style=(TEMPLATES / "style.css").read_text(),
            theme=(TEMPLATES / "theme.js").read_text(),
            scripts=[(TEMPLATES / name).read_text() for name in SCRIPTS],
            vega=charts.script(),
            what=parts.what_ran(numbers, values, models),
            verdict=verdict,
            absent=[reason for reason in verdict.reasons if reason.level == "missing"],
            cards=[card(headline, numbers) for headline in figures],
            sections=contents(values),
            numbers=numbers,
            sets=[sets.section(root, name, values, numbers) for name in values.get("ingest") or {}],
            composed=[sets.composed(root, name) for name in values.get("compose") or {}],
            classifiers=models,
            detectors=[detection.section(root, name, values, params.pictures) for name in names(values, DETECTORS)],
            segmenters=[segmentation.section(root, name, values, params.masks) for name in names(values, SEGMENTERS)],
            uses=parts.uses(root, values, numbers),
            readings=[
                reading.section(root, name, values, numbers, params.pictures) for name in values.get("read") or {}
            ],
            baselines=[parts.baselines(name, numbers) for name in values.get("baselines") or {}],
            anatomy=parts.anatomy(root, list(values.get("anatomy") or {}), numbers),
            refused=left_out(numbers, values),
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


def names(values: Mapping[str, Any], sections: Sequence[str]) -> list[str]:
    """The entries of some sections of ``params.yaml``, each once."""
    return list(dict.fromkeys(name for section in sections for name in values.get(section) or {}))


def contents(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """``(id, name)`` of the page's sections, in their order."""
    models = names(values, ("train", *DETECTORS, *SEGMENTERS, *parts.USES))
    return [
        ("data", "Data"),
        *([("augmentation", "Augmentation")] if names(values, ("train", *DETECTORS, *SEGMENTERS)) else []),
        *((f"model-{name}", name.capitalize()) for name in models),
        *((f"reading-{name}", f"Reading: {name}") for name in values.get("read") or {}),
        *((f"baselines-{name}", f"Baselines: {name}") for name in values.get("baselines") or {}),
        *([("anatomy", "Anatomy")] if values.get("anatomy") else []),
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
        "target": spec.target,
        "figure": numbers(spec.key, style),
        "low": numbers(f"{spec.key}_low", style) if has_interval else "",
        "high": numbers(f"{spec.key}_high", style) if has_interval else "",
        "n": numbers(f"{spec.stage}:{spec.measure.n}", "count") if headline.n else "",
        "counted": spec.measure.counted,
        "expected": parameter(spec.parameter, headline.expected, style) if is_expected else "",
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
