"""The summary of the report as Markdown: the verdict with its reasons, the headline figures, what was left out.

It is shown as an artifact of a run and in the comment of a pull request. Like the page it is a pure
function of the run's metrics and parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cnn_core.params import from_mapping, read_yaml
from cnn_core.reporting.headlines import Headline, headlines
from cnn_core.reporting.numbers import Numbers, count, percent, three
from cnn_core.reporting.verdict import Limits, Verdict, judge

SIGNS = {"good": "✅", "look": "⚠️", "missing": "❌", "open": "❔"}
MAX_REASONS = 12  # the page lists them all
# What a stage left out of its input: the keys of its metrics file, and what they count.
LEFT_OUT = {
    "detect": {"bad": "inputs that could not be read"},
    "segment": {"bad": "inputs that could not be read", "dropped": "prompts that gave no mask"},
    "train_detector": {"left_out": "damaged images"},
    "read": {"dropped": "detections not read: too unsure, or detected twice"},
}


def summary(root: Path) -> str:
    """Summarise the run below ``root``.

    Raises:
        ValueError: there is no params.yaml, or no metrics.
    """
    if not any((root / "data/metrics").glob("*.json")):
        raise ValueError(f"{root} holds no metrics in data/metrics: no run has left any there (`make run` makes one)")
    values, numbers, figures = read_yaml(root / "params.yaml"), Numbers(root), headlines(root)
    verdict = judge(figures, numbers, values, _limits(values))
    parts = [f"## {SIGNS[verdict.level]} {verdict.title}", "", *_reasons(verdict)]
    if figures:
        parts += ["", *_table(figures)]
    if left_out := list(_left_out(numbers, values)):
        parts += ["", "**Refused or left out**", "", *(f"- {line}" for line in left_out)]
    return "\n".join(parts) + "\n"


def _limits(values: Mapping[str, Any]) -> Limits:
    section = (values.get("report") or {}).get("limits")
    return from_mapping(Limits, section, "report.limits") if section else Limits(refused=1.0, calibration=1.0)


def _reasons(verdict: Verdict) -> list[str]:
    lines = [f"- {markdown(reason.text)}" for reason in verdict.reasons]
    if len(lines) > MAX_REASONS:
        lines[MAX_REASONS:] = [f"- … and {len(lines) - MAX_REASONS} more, on the page"]
    return lines


def markdown(text: Markup) -> str:
    """Convert the HTML of a reason to Markdown: emphasis and code stay, the marks of numbers go."""
    for tag, sign in (("strong", "**"), ("code", "`")):
        text = Markup(re.sub(f"</?{tag}>", sign, str(text)))
    return text.striptags()


def _table(figures: list[Headline]) -> list[str]:
    lines = ["| figure | value | 95 % interval | measured on | expected |", "|---|---:|---:|---:|---:|"]
    for headline in figures:
        show = percent if headline.unit == "%" else three
        low, high = headline.low, headline.high
        interval = "–" if low is None or high is None else f"{show(low)} to {show(high)}"
        expected = "–"
        if headline.expected is not None:
            expected = f"≥ {show(headline.expected)} {'✓' if headline.value >= headline.expected else '✗'}"
        n = "–" if headline.n is None else count(headline.n)
        lines.append(f"| {headline.label} | **{show(headline.value)}** | {interval} | {n} | {expected} |")
    return lines


def _left_out(numbers: Numbers, values: Mapping[str, Any]) -> Iterator[str]:
    for name in values.get("ingest") or {}:
        metrics = numbers.metrics(f"ingest-{name}") or {}
        if refused := metrics.get("refused"):
            yield f"`ingest@{name}`: {count(refused)} of {count(metrics['rows_read'])} rows refused"
        copies = {key: number for key, number in (metrics.get("duplicates") or {}).items() if number}
        if copies:
            counts = ", ".join(f"{count(number)} {key.replace('_', ' ')}" for key, number in copies.items())
            yield f"`ingest@{name}`: duplicates: {counts}"
    for name in values.get("predict") or {}:
        if refused := (numbers.metrics(f"predict-{name}") or {}).get("refused"):
            yield f"`predict@{name}`: {count(refused)} inputs refused"
    for stage, keys in LEFT_OUT.items():
        for key, words in keys.items():
            if number := (numbers.metrics(stage) or {}).get(key):
                yield f"`{stage}`: {count(number)} {words}"
