"""The differences of two runs as text for a terminal, as Markdown and as plain values."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cnn_core.comparison.changes import Change
from cnn_core.comparison.differences import Differences
from cnn_core.markdown import escape, one_line

ABSENT = "–"
MEANINGS = {
    "same": "the same",
    "better": "better",
    "worse": "worse",
    "clear": "more than luck",
    "not clear": "may be luck",
    "not known": "not known",
}
WIDTH = 110
METHOD = (
    "Accuracies are judged by McNemar's test over the images that both answered, two-sided, at 5 %; others by the 95 % "
    "interval of the change, from those of both figures. Each figure is judged by itself: one in twenty may seem clear "
    "by luck."
)


def metric_rows(differences: Differences, *, every: bool = False) -> list[tuple[str, ...]]:
    """List (figure, before, after, change, significance): the headlines, then what changed besides.

    Args:
        every: include what did not change, and the figures of single classes and parts.
    """
    return [
        metric_row(change)
        for change in differences.metrics
        if every or change.headline or (change.meaning != "same" and "/" not in change.key)
    ]


def metric_row(change: Change) -> tuple[str, ...]:
    return (
        change.label,
        " ".join(filter(None, figure_cells(change, "before"))),
        " ".join(filter(None, figure_cells(change, "after"))),
        difference(change),
        MEANINGS[change.meaning] + (f" ({change.why})" if change.why else ""),
    )


def param_rows(params: Mapping[str, tuple[Any, Any]]) -> list[tuple[str, ...]]:
    """List (parameter, before, after)."""
    return [(key, *(ABSENT if value is None else str(value) for value in pair)) for key, pair in params.items()]


def text(differences: Differences, *, every: bool = False) -> str:
    lines = [differences.verdict, ""]
    if rows := param_rows(differences.params):
        lines += _aligned([("parameter", differences.before, differences.after), *rows])
    else:
        lines += ["No parameter differs."]
    lines += ["", *_aligned([head_row(differences), *metric_rows(differences, every=every)]), ""]
    return "\n".join([*lines, *remarks(differences, every=every), *textwrap.wrap(METHOD, WIDTH)])


def markdown(differences: Differences, *, every: bool = False) -> str:
    lines = [f"**{escape(differences.verdict)}**", ""]
    lines += _markdown([head_row(differences), *metric_rows(differences, every=every)], right=(1, 2, 3))
    if rows := param_rows(differences.params):
        lines += ["", *_markdown([("parameter", differences.before, differences.after), *rows], right=())]
    lines += ["", *(f"- {escape(remark)}" for remark in remarks(differences, every=every)), "", f"_{METHOD}_"]
    return "\n".join(lines)


def plain(differences: Differences) -> dict[str, Any]:
    return {"verdict": differences.verdict, **dataclasses.asdict(differences)}


def head_row(differences: Differences) -> tuple[str, ...]:
    return "figure", differences.before, differences.after, "change", "more than luck?"


def remarks(differences: Differences, *, every: bool) -> list[str]:
    """List what to know when reading the figures, and what is not shown."""
    sentences = list(differences.notes)
    sides = ((differences.before, differences.only_before), (differences.after, differences.only_after))
    sentences += [f"Only {name} has {', '.join(stages)}." for name, stages in sides if stages]
    parts = (change for change in differences.metrics if "/" in change.key)
    number = sum(change.meaning != "same" and not change.headline for change in parts)
    if number and not every:
        sentences.append(f"{number} figures of single classes and parts changed too (--all shows them).")
    return sentences


def figure_cells(change: Change, which: Literal["before", "after"]) -> tuple[str, str]:
    """Give the figure and its interval, which may be empty: ``("99.36 %", "(98.14 to 99.78)")``."""
    value, interval = getattr(change, which), getattr(change, f"{which}_interval")
    scale, digits = (100, 2) if change.unit == "%" else (1, 3)
    bounds = "({:.{d}f} to {:.{d}f})".format(*(scale * bound for bound in interval), d=digits) if interval else ""
    if change.unit == "%":
        return f"{scale * value:.2f} %", bounds
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}", bounds


def difference(change: Change) -> str:
    """Give the change with its sign, of shares in percentage points."""
    gain = change.after - change.before
    if gain == 0:
        return "0"
    if change.unit == "%":
        return f"{100 * gain:+.2f} points"
    return f"{gain:+,}" if isinstance(gain, int) else f"{gain:+.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _markdown(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    rule = ["---:" if column in right else "---" for column in range(len(rows[0]))]
    cells = [[escape(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
