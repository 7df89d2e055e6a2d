"""The differences of two runs as tables: for a terminal, as Markdown, as plain values."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cnn_core.comparison.changes import Change
from cnn_core.comparison.differences import Differences

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
    "Accuracies: McNemar's test over the images that both answered, two-sided, at 5 %. Others: the 95 % interval of "
    "the change, from those of both figures. Each is judged by itself: of twenty figures one may seem clear by luck."
)


def metric_rows(found: Differences, *, every: bool = False) -> list[tuple[str, str, str, str, str]]:
    """(figure, before, after, change, what luck says): the headlines, then what changed besides.

    Args:
        every: also what did not change, and the figures of single classes and parts.
    """
    return [
        row_of(change)
        for change in found.metrics
        if every or change.headline or (change.meaning != "same" and "/" not in change.key)
    ]


def row_of(change: Change) -> tuple[str, str, str, str, str]:
    """A figure's row."""
    return (
        change.label,
        " ".join(filter(None, shown(change, "before"))),
        " ".join(filter(None, shown(change, "after"))),
        difference(change),
        MEANINGS[change.meaning] + (f" ({change.why})" if change.why else ""),
    )


def param_rows(params: Mapping[str, tuple[Any, Any]]) -> list[tuple[str, str, str]]:
    """(parameter, before, after)."""
    return [(key, *(ABSENT if one is None else str(one) for one in pair)) for key, pair in params.items()]


def hidden(found: Differences) -> int:
    """How many figures changed that `metric_rows` leaves out."""
    return sum(change.meaning != "same" and not change.headline and "/" in change.key for change in found.metrics)


def text(found: Differences, *, every: bool = False) -> str:
    """For a terminal."""
    parts = [found.verdict, ""]
    if rows := param_rows(found.params):
        parts += _aligned([("parameter", found.before, found.after), *rows])
    else:
        parts += ["No parameter differs."]
    parts += ["", *_aligned([head_row(found), *metric_rows(found, every=every)]), "", *remarks(found, every=every)]
    return "\n".join([*parts, *textwrap.wrap(METHOD, WIDTH)])


def markdown(found: Differences, *, every: bool = False) -> str:
    """For an artifact or a comment."""
    parts = [f"**{_escaped(found.verdict)}**", ""]
    parts += _markdown([head_row(found), *metric_rows(found, every=every)], right=(1, 2, 3))
    if rows := param_rows(found.params):
        parts += ["", *_markdown([("parameter", found.before, found.after), *rows], right=())]
    parts += ["", *(f"- {_escaped(remark)}" for remark in remarks(found, every=every)), "", f"_{METHOD}_"]
    return "\n".join(parts)


def plain(found: Differences) -> dict[str, Any]:
    """As values that JSON knows."""
    return {"verdict": found.verdict, **dataclasses.asdict(found)}


def head_row(found: Differences) -> tuple[str, ...]:
    """The names of `metric_rows`' columns."""
    return "figure", found.before, found.after, "change", "more than luck?"


def remarks(found: Differences, *, every: bool) -> list[str]:
    """What to know when reading the figures, and what is not shown."""
    told = list(found.notes)
    for name, stages in ((found.before, found.only_before), (found.after, found.only_after)):
        if stages:
            told.append(f"Only {name} has {', '.join(stages)}.")
    if not every and (number := hidden(found)):
        told.append(f"{number} figures of single classes and parts changed too (--all shows them).")
    return told


def shown(change: Change, which: Literal["before", "after"]) -> tuple[str, str]:
    """The figure and its interval, ``("99.36 %", "(98.14 to 99.78)")``; the latter may be empty."""
    value, interval = getattr(change, which), getattr(change, f"{which}_interval")
    scale, digits = (100, 2) if change.unit == "%" else (1, 3)
    bounds = "({:.{d}f} to {:.{d}f})".format(*(scale * bound for bound in interval), d=digits) if interval else ""
    if change.unit == "%":
        return f"{scale * value:.2f} %", bounds
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}", bounds


def difference(change: Change) -> str:
    """With its sign; of shares in points."""
    gain = change.after - change.before
    if gain == 0:
        return "0"
    if change.unit == "%":
        return f"{100 * gain:+.2f} points"
    return f"{gain:+,}" if isinstance(gain, int) else f"{gain:+.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _markdown(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    rule = ["---:" if column in right else "---" for column in range(len(rows[0]))]
    cells = [[_escaped(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]


def _escaped(cell: str) -> str:
    """Names and values are a person's own: a bar would end the cell."""
    return cell.replace("|", "\\|").replace("\n", " ")
