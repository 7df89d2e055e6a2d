"""The summary of the report as Markdown: the verdict with its reasons, the headline figures, what was left out.

Like the page it is a pure function of the run's metrics and parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cnn_core.markdown import code, escape
from cnn_core.params import from_mapping, read_yaml
from cnn_core.reporting.headlines import Headline, headlines
from cnn_core.reporting.numbers import STYLES, Numbers, count
from cnn_core.reporting.verdict import Limits, Verdict, judge, left_out

SIGNS = {"good": "✅", "look": "⚠️", "missing": "❌", "open": "❔"}
MAX_REASONS = 12  # the page lists them all


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
    if lines := [*_left_out(numbers, values)]:
        parts += ["", "**Refused or left out**", "", *lines]
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
    """Convert the HTML of a reason to Markdown, without the marks of numbers."""
    parts, inside_code = [], False
    for part in re.split(r"(<[^>]*>)", str(text)):
        if part in ("<strong>", "</strong>"):
            parts.append("**")
        elif part in ("<code>", "</code>"):
            inside_code = part == "<code>"
        elif not part.startswith("<"):
            words = Markup(part).unescape()
            parts.append(code(words) if inside_code else _escaped(words))
    return "".join(parts).strip()


def _escaped(words: str) -> str:
    """Escape a part of a sentence, with the gaps around it."""
    start, end = words[: len(words) - len(words.lstrip())], words[len(words.rstrip()) :]
    return f"{start}{escape(words)}{end}" if words.strip() else words


def _table(figures: list[Headline]) -> list[str]:
    lines = ["| figure | value | 95 % interval | measured on | expected |", "|---|---:|---:|---:|---:|"]
    for headline in figures:
        show = STYLES[headline.style]
        low, high = headline.low, headline.high
        interval = "–" if low is None or high is None else f"{show(low)} to {show(high)}"
        expected = "–"
        if headline.expected is not None:
            expected = f"≥ {show(headline.expected)} {'✓' if headline.value >= headline.expected else '✗'}"
        n = "–" if headline.n is None else count(headline.n)
        lines.append(f"| {headline.label} | **{show(headline.value)}** | {interval} | {n} | {expected} |")
    return lines


def _left_out(numbers: Numbers, values: Mapping[str, Any]) -> Iterator[str]:
    for stage, words, key, total_key in left_out(numbers, values):
        if number := numbers.value(key):
            total = numbers.value(total_key)
            yield f"- `{stage}`: {count(number)} {words}" + (f" (of {count(total)})" if total else "")
