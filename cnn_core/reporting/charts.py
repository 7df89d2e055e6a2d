"""The page's charts: Vega-Lite specifications, compiled to Vega when the page is written.

Their colours are the page's CSS variables, so that a chart follows the theme without being drawn again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

Spec = dict[str, Any]  # of Vega-Lite or Vega
Row = Mapping[str, Any]  # of a chart's data
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
    """Compile Vega-Lite to Vega; the chart is as wide as its container on the page."""
    import vl_convert

    return vl_convert.vegalite_to_vega({"width": "container", "height": height, "config": CONFIG, **spec})


@functools.cache
def script() -> str:
    """The JavaScript of Vega and its embedder."""
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the stub does not know the argument's default
    return bundle.replace("</script", "<\\/script")


def series_rows(table: pd.DataFrame, x: str, names: Mapping[str, str]) -> list[Row]:
    """``[{"x", "series", "value"}, …]`` of the columns in ``names`` (column -> series), without empty cells."""
    rows: list[Row] = []
    for column, name in names.items():
        if column in table:
            measured = table[[x, column]].dropna()
            pairs = zip(measured[x].tolist(), measured[column].tolist(), strict=True)
            rows += [{"x": at, "series": name, "value": value} for at, value in pairs]
    return rows


def epoch_curves(rows: Sequence[Row], *, y: str, marked: float | None = None) -> Spec:
    """Draw the curves of `series_rows` over the epochs, with a dashed line at the epoch ``marked``."""
    axis = {"grid": False, "tickMinStep": 1, "format": "d"}
    scale = {"nice": False, "zero": False}
    epoch = {"field": "x", "type": "quantitative", "title": "epoch", "axis": axis, "scale": scale}
    value = {"field": "value", "type": "quantitative", "title": y, "scale": {"zero": False}}
    tooltip = _tooltip(("epoch", "d"), (y, ".4f"))
    layers = _curves(rows, value, tooltip, point={"size": 24, "filled": True}, width={"value": 2})
    if marked is not None:
        layers.insert(0, {"mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"x": {"datum": marked}}})
    return compiled({"data": {"values": list(rows)}, "encoding": {"x": epoch}, "layer": layers})


def learning_chart(
    path: Path, names: Mapping[str, str], y: str, *, marked: float | None = None, least: int = 1
) -> Spec | None:
    """Draw the columns ``names`` of a training's table; None without the file or with fewer than ``least`` values."""
    rows = series_rows(pd.read_csv(path), "epoch", names) if path.is_file() else []
    return epoch_curves(rows, y=y, marked=marked) if len(rows) >= least else None


def precision_recall_curves(rows: Sequence[Row], *, mean: str) -> Spec:
    """Draw rows ``{"x": recall, "series": class, "value": precision}``, the series called ``mean`` as a thick curve."""
    scale = {"nice": False, "zero": True}
    recall = {"field": "x", "type": "quantitative", "title": "recall", "axis": {"grid": False}, "scale": scale}
    precision = {"field": "value", "type": "quantitative", "title": "precision", "scale": {"zero": True}}
    tooltip = _tooltip(("recall", ".2f"), ("precision", ".3f"))
    width = {"condition": {"test": f"datum.series === {json.dumps(mean)}", "value": 3.5}, "value": 1.2}
    layers = _curves(rows, precision, tooltip, point=False, width=width)
    return compiled({"data": {"values": list(rows)}, "encoding": {"x": recall}, "layer": layers})


def _tooltip(x: tuple[str, str], y: tuple[str, str]) -> list[Spec]:
    """What the pointer shows of a curve; ``x`` and ``y`` are the axes' titles and d3 formats."""
    axes = [{"field": field, "title": title, "format": d3} for field, (title, d3) in (("x", x), ("value", y))]
    return [{"field": "series", "title": "curve"}, *axes]


def _curves(rows: Sequence[Row], y: Spec, tooltip: list[Spec], *, point: Spec | bool, width: Spec) -> list[Spec]:
    """Two layers: the curves, and the point nearest to the pointer."""
    colour = _series_colour(list(dict.fromkeys(row["series"] for row in rows)))
    pointer = {"type": "point", "on": "pointermove", "nearest": True, "clear": "pointerout"}
    opacity = {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}
    return [
        {"mark": {"type": "line", "point": point}, "encoding": {"y": y, "color": colour, "strokeWidth": width}},
        {
            "params": [{"name": "near", "select": pointer}],
            "mark": {"type": "point", "filled": True, "size": 90},
            "encoding": {"y": y, "color": colour, "tooltip": tooltip, "opacity": opacity},
        },
    ]


def _series_colour(series: Sequence[str]) -> Spec:
    """A colour for each series, and a legend where there are several."""
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(series))]
    columns = 2 if sum(map(len, series)) > 10 * len(series) else 6
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(series), "range": colours},
        "legend": {"columns": columns} if len(series) > 1 else None,
    }


def intervals(rows: Sequence[Row], *, y: str, x: str) -> Spec:
    """Draw each row (``name``, ``value``, ``low``, ``high``) as a point on its interval, the first row in colour."""
    order = [row["name"] for row in rows]
    colour = {"condition": {"test": f"datum.name === {json.dumps(order[0])}", "value": COLOURS[0]}, "value": QUIET}
    name = {"field": "name", "type": "nominal", "sort": order, "title": y, "axis": {"labelLimit": 220}}
    titles = {"value": x, "low": "at least", "high": "at most"}
    shares = [{"field": field, "title": title, "format": ".2%"} for field, title in titles.items()]
    scale = {"zero": False}
    low = {"field": "low", "type": "quantitative", "scale": scale, "title": x, "axis": {"format": ".0%"}}
    value = {"field": "value", "type": "quantitative", "scale": scale}
    point = {"type": "point", "filled": True, "size": 110, "opacity": 1}
    spec = {
        "data": {"values": list(rows)},
        "encoding": {"y": name, "color": colour, "tooltip": [{"field": "name", "title": y}, *shares]},
        "layer": [
            {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": {"x": low, "x2": {"field": "high"}}},
            {"mark": point, "encoding": {"x": value}},
        ],
    }
    return compiled(spec, height=34 * len(rows))


def bars(rows: Sequence[Row], *, x: str, y: str) -> Spec:
    """Draw a horizontal bar for each row (``name``, ``value``), in the order of the rows."""
    spec = {
        "data": {"values": list(rows)},
        "mark": {"type": "bar", "color": COLOURS[0], "cornerRadiusEnd": 2},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 220}},
            "x": {"field": "value", "type": "quantitative", "title": x},
            "tooltip": [{"field": "name", "title": y}, {"field": "value", "title": x, "format": ".1f"}],
        },
    }
    return compiled(spec, height=24 * len(rows))


def calibration(rows: Sequence[Row]) -> Spec:
    """Draw ``actual`` over ``predicted`` of rows that also count ``objects``; on the diagonal the two agree."""
    unit = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    tooltip = [{"field": field, "format": ".3f"} for field in ("predicted", "actual")] + [{"field": "objects"}]
    point = {"size": 70, "filled": True, "color": COLOURS[0]}
    spec = {
        "data": {"values": list(rows)},
        "layer": [
            {
                "data": {"values": [{"a": 0, "b": 0}, {"a": 1, "b": 1}]},
                "mark": {"type": "line", "color": QUIET, "strokeDash": [4, 4], "strokeWidth": 1},
                "encoding": {"x": {"field": "a", **unit}, "y": {"field": "b", **unit}},
            },
            {
                "mark": {"type": "line", "color": COLOURS[0], "point": point},
                "encoding": {
                    "x": {"field": "predicted", "title": "predicted IoU", **unit},
                    "y": {"field": "actual", "title": "actual IoU", **unit},
                    "tooltip": tooltip,
                },
            },
        ],
    }
    return compiled(spec)
