"""Charts of the page as Vega-Lite specifications, compiled to Vega when the page is written.

Colours are the page's CSS variables, so that a chart follows the theme without being drawn anew.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

Spec = dict[str, Any]
COLOURS = tuple(f"var(--c{number})" for number in range(1, 13))
INK, QUIET, LINE = "var(--ink)", "var(--quiet)", "var(--line)"
CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": QUIET,
        "titleColor": QUIET,
        "titleFontWeight": "normal",
        "domainColor": LINE,
        "tickColor": LINE,
        "gridColor": LINE,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelFlush": False,
        "labelOverlap": True,
        "tickCount": 8,
    },
    "legend": {"labelColor": INK, "titleColor": QUIET, "labelFontSize": 12, "orient": "top", "title": None},
    "rule": {"color": QUIET},
}


def compiled(spec: Spec, *, height: int = 240) -> Spec:
    """Vega of a Vega-Lite specification, as wide as its place on the page."""
    import vl_convert

    whole = {"width": "container", "height": height, "config": CONFIG, **spec}
    return vl_convert.vegalite_to_vega(whole)


@functools.cache
def script() -> str:
    """Vega and its embedder, to stand in the page: nothing is loaded from anywhere."""
    import vl_convert

    return vl_convert.javascript_bundle().replace("</script", "<\\/script")


def long(table: pd.DataFrame, x: str, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """``[{"x", "series", "value"}, …]`` of the columns named; what was not measured is left out."""
    rows = []
    for column, name in names.items():
        if column in table:
            known = table[[x, column]].dropna()
            pairs = zip(known[x].tolist(), known[column].tolist(), strict=True)
            rows += [{"x": at, "series": name, "value": value} for at, value in pairs]
    return rows


def lines(
    rows: Sequence[Mapping[str, Any]],
    *,
    x: str,
    y: str,
    number: str = ".4f",
    zero: bool = False,
    whole: bool = True,
    marked: float | None = None,
    thick: str | None = None,
    points: bool = True,
) -> Spec:
    """Curves that tell their values under the pointer.

    Args:
        rows: of `long`. x, y: the axes' titles. number: d3's format of a value.
        whole: x counts something, such as epochs.
        marked: an x to draw a line at: the epoch that was kept.
        thick: the series that is drawn strongly.
    """
    series = list(dict.fromkeys(row["series"] for row in rows))
    at = {
        "field": "x",
        "type": "quantitative",
        "title": x,
        "axis": {"grid": False},
        "scale": {"nice": False, "zero": not whole},
    }
    if whole:
        at["axis"] |= {"tickMinStep": 1, "format": "d"}
    value = {"field": "value", "type": "quantitative", "title": y, "scale": {"zero": zero}}
    colour = {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": series, "range": [COLOURS[i % len(COLOURS)] for i in range(len(series))]},
        "legend": {"columns": 2 if sum(map(len, series)) > 10 * len(series) else 6} if len(series) > 1 else None,
    }
    strong = {"condition": {"test": f"datum.series === '{thick}'", "value": 3.5}, "value": 1.2}
    tooltip = [
        {"field": "series", "title": "curve"},
        {"field": "x", "title": x, "format": "d" if whole else ".2f"},
        {"field": "value", "title": y, "format": number},
    ]
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "point": {"size": 24, "filled": True} if points else False},
            "encoding": {"y": value, "color": colour, "strokeWidth": strong if thick else {"value": 2}},
        },
        {
            "params": [
                {
                    "name": "near",
                    "select": {"type": "point", "on": "pointermove", "nearest": True, "clear": "pointerout"},
                }
            ],
            "mark": {"type": "point", "filled": True, "size": 90},
            "encoding": {
                "y": value,
                "color": colour,
                "tooltip": tooltip,
                "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0},
            },
        },
    ]
    if marked is not None:
        rule = {"mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"x": {"datum": marked}}}
        layers.insert(0, rule)
    return compiled({"data": {"values": list(rows)}, "encoding": {"x": at}, "layer": layers})


def intervals(rows: Sequence[Mapping[str, Any]], *, y: str, x: str) -> Spec:
    """Of each row (``name``, ``value``, ``low``, ``high``) a point in its interval; the first is drawn in colour."""
    order = [row["name"] for row in rows]
    first = {"condition": {"test": f"datum.name === {order[0]!r}", "value": COLOURS[0]}, "value": QUIET}
    name = {"field": "name", "type": "nominal", "sort": order, "title": y, "axis": {"labelLimit": 220}}
    tooltip = [{"field": "name", "title": y}] + [
        {"field": key, "title": title, "format": ".2%"}
        for key, title in (("value", x), ("low", "at least"), ("high", "at most"))
    ]
    scale = {"zero": False}
    base = {"y": name, "color": first, "tooltip": tooltip}
    span = {"field": "low", "type": "quantitative", "scale": scale, "title": x, "axis": {"format": ".0%"}}
    spec = {
        "data": {"values": list(rows)},
        "encoding": base,
        "layer": [
            {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": {"x": span, "x2": {"field": "high"}}},
            {
                "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
                "encoding": {"x": {"field": "value", "type": "quantitative", "scale": scale}},
            },
        ],
    }
    return compiled(spec, height=34 * len(rows))


def bars(rows: Sequence[Mapping[str, Any]], *, x: str, y: str, number: str = ".1f") -> Spec:
    """Horizontal bars of ``name`` and ``value``, in the order given."""
    spec = {
        "data": {"values": list(rows)},
        "mark": {"type": "bar", "color": COLOURS[0], "cornerRadiusEnd": 2},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 220}},
            "x": {"field": "value", "type": "quantitative", "title": x},
            "tooltip": [{"field": "name", "title": y}, {"field": "value", "title": x, "format": number}],
        },
    }
    return compiled(spec, height=24 * len(rows))


def calibration(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Rows of ``predicted``, ``actual`` and ``objects``; on the diagonal the first two agree."""
    unit = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    tooltip = [{"field": key, "format": ".3f"} for key in ("predicted", "actual")] + [{"field": "objects"}]
    spec = {
        "data": {"values": list(rows)},
        "layer": [
            {
                "data": {"values": [{"a": 0, "b": 0}, {"a": 1, "b": 1}]},
                "mark": {"type": "line", "color": QUIET, "strokeDash": [4, 4], "strokeWidth": 1},
                "encoding": {"x": {"field": "a", **unit}, "y": {"field": "b", **unit}},
            },
            {
                "mark": {
                    "type": "line",
                    "color": COLOURS[0],
                    "point": {"size": 70, "filled": True, "color": COLOURS[0]},
                },
                "encoding": {
                    "x": {"field": "predicted", "title": "predicted IoU", **unit},
                    "y": {"field": "actual", "title": "IoU that it is", **unit},
                    "tooltip": tooltip,
                },
            },
        ],
    }
    return compiled(spec)
