"""The report in short, as Markdown: the verdict and why, the headline figures, what was left out.

For an artifact of a run and for the comment of a pull request. Like the page it is a pure function of the run's metrics
and parameters.
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
REASONS = 12  # that are told; the page has all
# What a stage took out of its input: the metrics file's key, and what it counts.
LEFT_OUT = {
    "detect": {"bad": "inputs that could not be read"},
    "segment": {"bad": "inputs that could not be read", "dropped": "prompts that gave no mask"},
    "train_detector": {"left_out": "damaged images"},
    "read": {"dropped": "finds not read: too unsure, or found twice"},
}


def summary(root: Path) -> str:
    """Of the run below ``root``.

    Raises:
        ValueError: there is no params.yaml, or no metrics.
    """
    if not any((root / "data/metrics").glob("*.json")):
        raise ValueError(f"{root} holds no metrics in data/metrics: no run has left any there (`make run`)")
    values, numbers, found = read_yaml(root / "params.yaml"), Numbers(root), headlines(root)
    verdict = judge(found, numbers, values, _limits(values))
    parts = [f"## {SIGNS[verdict.level]} {verdict.title}", "", *_reasons(verdict)]
    if found:
        parts += ["", *_table(found)]
    if left_out := list(_left_out(numbers, values)):
        parts += ["", "**Refused or left out**", "", *(f"- {line}" for line in left_out)]
    return "\n".join(parts) + "\n"


def _limits(values: Mapping[str, Any]) -> Limits:
    section = (values.get("report") or {}).get("limits")
    return from_mapping(Limits, section, "report.limits") if section else Limits(refused=1.0, calibration=1.0)


def _reasons(verdict: Verdict) -> list[str]:
    lines = [f"- {markdown(reason.text)}" for reason in verdict.reasons]
    more = [f"- … and {len(lines) - REASONS} more, on the page"] if len(lines) > REASONS else []
    return lines[:REASONS] + more


def markdown(text: Markup) -> str:
    """The little HTML of a reason as Markdown: emphasis and code stay, marks of numbers go."""
    for tag, sign in (("strong", "**"), ("code", "`")):
        text = Markup(re.sub(f"</?{tag}>", sign, str(text)))
    return text.striptags()


def _table(found: list[Headline]) -> list[str]:
    lines = ["| figure | value | 95 % interval | measured on | expected |", "|---|---:|---:|---:|---:|"]
    for one in found:
        show = percent if one.unit == "%" else three
        interval = "–" if one.low is None or one.high is None else f"{show(one.low)} to {show(one.high)}"
        wanted = "–" if one.expected is None else f"≥ {show(one.expected)} {'✓' if one.value >= one.expected else '✗'}"
        measured = "–" if one.n is None else count(one.n)
        lines.append(f"| {one.label} | **{show(one.value)}** | {interval} | {measured} | {wanted} |")
    return lines


def _left_out(numbers: Numbers, values: Mapping[str, Any]) -> Iterator[str]:
    for name in values.get("ingest") or {}:
        metrics = numbers.of(f"ingest-{name}") or {}
        if refused := metrics.get("refused"):
            yield f"`ingest@{name}`: {count(refused)} of {count(metrics['rows_read'])} rows refused"
        copies = {key: number for key, number in (metrics.get("duplicates") or {}).items() if number}
        if copies:
            told = ", ".join(f"{count(number)} {key.replace('_', ' ')}" for key, number in copies.items())
            yield f"`ingest@{name}`: duplicates: {told}"
    for name in values.get("predict") or {}:
        if refused := (numbers.of(f"predict-{name}") or {}).get("refused"):
            yield f"`predict@{name}`: {count(refused)} inputs refused"
    for stage, keys in LEFT_OUT.items():
        for key, words in keys.items():
            if number := (numbers.of(stage) or {}).get(key):
                yield f"`{stage}`: {count(number)} {words}"
