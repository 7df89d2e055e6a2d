"""The study's tables as figures. Drawn with Matplotlib, without its global state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.study.experiments import SHIFTS

_COLOURS = {
    "CNN": "#1f77b4",
    "MLP": "#ff7f0e",
    "linear": "#2ca02c",
    "ReLU": "#1f77b4",
    "tanh": "#ff7f0e",
    "sigmoid": "#d62728",
    "maxout, as many parameters": "#9467bd",
    "maxout, as many units": "#8c564b",
}


def _lines(axes: Axes, table: pd.DataFrame, x: str, y: str, by: str, style: str = "o-", label: str = "{}") -> None:
    """Draw a line for each value of ``by``: the mean over the repeats, in a band from the lowest to the highest."""
    for name, rows in table.groupby(by, sort=False):
        stats = rows.groupby(x)[y].agg(["mean", "min", "max"])
        colour = _COLOURS.get(str(name), "#333333")
        axes.plot(stats.index, stats["mean"], style, color=colour, markersize=4, label=label.format(name))
        axes.fill_between(stats.index, stats["min"], stats["max"], color=colour, alpha=0.15, linewidth=0)


def _panels(count: int, *, across: int = 3, height: float = 3.4) -> tuple[Figure, Sequence[Axes]]:
    rows = -(-count // across)
    figure = Figure(figsize=(4.0 * min(count, across), height * rows), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, min(count, across))).ravel())
    for each in axes:
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
    return figure, axes


def _learning_curves(table: pd.DataFrame) -> Figure:
    figure, panels = _panels(2)
    for axes, (pixels, rows) in zip(panels, table.groupby("pixels", sort=False), strict=True):
        _lines(axes, rows, "images", "accuracy", "model")
        axes.set(xscale="log", ylim=(0, 1), title=f"pixels {pixels}", xlabel="training images", ylabel="accuracy")
        axes.legend(fontsize=8, loc="lower right")
    return figure


def _depth(table: pd.DataFrame) -> Figure:
    figure, (axes,) = _panels(1)
    _lines(axes, table.assign(model="CNN"), "convolutions", "accuracy", "model")
    title = f"about {table['parameters'].mean():,.0f} parameters each"
    axes.set(title=title, xlabel="convolutions", ylabel="accuracy")
    return figure


def _dropout(table: pd.DataFrame) -> Figure:
    figure, (axes,) = _panels(1)
    means = table.groupby("kind", sort=False)[["train_accuracy", "accuracy"]].mean()
    positions = np.arange(len(means))
    for column, aside, colour, label in (
        ("train_accuracy", -0.2, "#cbd5e1", "on the training digits"),
        ("accuracy", 0.2, "#1f77b4", "on unseen digits"),
    ):
        bars = axes.bar(positions + aside, means[column], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="{:.1%}", fontsize=7, padding=2)
    axes.set_xticks(positions, list(means.index), fontsize=8)
    axes.set(ylim=(0, 1.2), yticks=np.linspace(0, 1, 6), ylabel="accuracy")
    axes.legend(fontsize=8, loc="upper left", ncols=2)
    return figure


def _one_panel(table: pd.DataFrame, x: str, y: str, by: str, **settings: Any) -> Figure:
    figure, (axes,) = _panels(1)
    _lines(axes, table, x, y, by)
    axes.set(ylabel=y, **settings)
    axes.legend(fontsize=8)
    return figure


def _activations(table: pd.DataFrame) -> Figure:
    return _one_panel(table, "tenth", "loss", "activation", xlabel="tenths of the training", ylim=(0, None))


def _maxout(table: pd.DataFrame) -> Figure:
    return _one_panel(table, "angle", "accuracy", "kind", xlabel="degrees that the digits are turned by")


def _invariance(table: pd.DataFrame) -> Figure:
    figure, panels = _panels(len(SHIFTS))
    for axes, (change, rows) in zip(panels, table.groupby("change", sort=False), strict=True):
        for augmented, style, label in ((False, "o-", "{}"), (True, "s--", "{}, trained with distortions")):
            _lines(axes, rows[rows["augmented"] == augmented], "strength", "accuracy", "model", style, label)
        axes.set(title=change, xlabel=SHIFTS[str(change)].unit, ylim=(0, 1.02))
        if SHIFTS[str(change)].strengths[0] > SHIFTS[str(change)].strengths[-1]:
            axes.invert_xaxis()
    panels[0].set_ylabel("accuracy")
    panels[0].legend(fontsize=6, loc="lower left")
    return figure


def _series(table: pd.DataFrame) -> Figure:
    figure, (left, right) = _panels(2)
    means = table.groupby("model", sort=False)[["accuracy", "error_periods", "error_of_the_mean"]].mean()
    colours = ["#1f77b4", "#ff7f0e"]
    left.bar(list(means.index), means["accuracy"], 0.5, color=colours)
    left.set(title="which wave: accuracy", ylim=(0, 1))
    right.bar(list(means.index), means["error_periods"], 0.5, color=colours)
    error_of_the_mean = means["error_of_the_mean"].iloc[0]
    right.axhline(error_of_the_mean, color="#6b7280", linestyle="--", label="always predicting the mean")
    right.set(title="how many periods: mean absolute error")
    right.legend(fontsize=8)
    return figure


DRAWN: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "learning_curves": _learning_curves,
    "depth": _depth,
    "dropout": _dropout,
    "activations": _activations,
    "maxout": _maxout,
    "invariance": _invariance,
    "series": _series,
}


def draw(name: str, table: pd.DataFrame, path: str | Path) -> None:
    """Write the experiment's figure as a PNG."""
    figure = DRAWN[name](table)
    FigureCanvasAgg(figure)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_upsampling(path: str | Path, images: Mapping[str, np.ndarray]) -> None:
    """Write a picture of digits, one row for each key of ``images``; the values are float (N, 1, 28, 28) in 0..1."""
    rows = [(255 * each.clip(0, 1)).astype(np.uint8) for each in images.values()]
    captions = [[name] + [""] * (len(row) - 1) for name, row in zip(images, rows, strict=True)]
    contact_sheet(path, rows, title="Digits restored from their spoilt images", captions=captions, side=72)
