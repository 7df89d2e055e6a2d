"""The tables and arrays of explain.py as pictures, drawn with Matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_DPI = 110
_COLOURS = {"ReLU": "#1f77b4", "sigmoid": "#d62728"}


def kernels_picture(path: str | Path, kernels: np.ndarray, *, title: str) -> None:
    """Draw the first layer's kernels (F, C, h, w), each scaled to its own range; three channels are drawn in colour."""
    count, channels = kernels.shape[:2]
    across = min(16, count)
    figure, axes = _grid(-(-count // across), across, width=0.62, title=title)
    for axis, kernel in zip(axes, kernels, strict=False):
        if channels == 3:
            spread = np.abs(kernel).max() or 1.0
            axis.imshow((kernel.transpose(1, 2, 0) / spread + 1) / 2, interpolation="nearest")
        else:
            spread = np.abs(kernel[0]).max() or 1.0
            axis.imshow(kernel[0], cmap="coolwarm", vmin=-spread, vmax=spread, interpolation="nearest")
    _save(figure, path)


def maps_picture(
    path: str | Path, image: np.ndarray, maps: Mapping[str, np.ndarray], *, title: str, most: int = 12
) -> None:
    """Draw one image's way, uint8 (C, H, W), through the network: for each layer its ``most`` active maps (F, h, w)."""
    figure, axes = _grid(len(maps), most + 1, width=0.85, title=title)
    for row, (name, values) in enumerate(maps.items()):
        left, *others = axes[row * (most + 1) : (row + 1) * (most + 1)]
        if row == 0:
            left.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", interpolation="nearest")
        else:
            left.set_axis_off()
        text = f"{name}\n{' x '.join(map(str, values.shape))}"
        left.text(0, 1.06 if row == 0 else 0.4, text, transform=left.transAxes, fontsize=7)
        order = np.argsort(-np.abs(values).mean((1, 2)))[:most]
        for axis, channel in zip(others, order, strict=False):
            axis.imshow(values[channel], cmap="viridis", interpolation="nearest")
        for axis in others[len(order) :]:
            axis.set_visible(False)
    _save(figure, path)


def fields_picture(path: str | Path, fields: Mapping[str, np.ndarray], sizes: Mapping[str, int], *, title: str) -> None:
    """Draw effective receptive fields (H, W) by layer, and the theoretical ones as squares of ``sizes`` pixels."""
    figure, axes = _grid(1, len(fields), width=1.9, title=title, extra=0.45)
    for axis, (name, field) in zip(axes, fields.items(), strict=True):
        axis.imshow(np.sqrt(field), cmap="magma", interpolation="nearest")
        height, width = field.shape
        side = sizes[name]
        corner = (_start(np.asarray(field.any(0)), side) - 0.5, _start(np.asarray(field.any(1)), side) - 0.5)
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="#4ade80", linewidth=1.4))
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)
        beyond = " (beyond the image)" if side > max(height, width) else ""
        axis.set_title(f"{name}\n{side} pixels{beyond}", fontsize=8)
    _save(figure, path)


def _start(seen: np.ndarray, side: int) -> float:
    """Return where a square of ``side`` begins that shares with the pixels ``seen``, bool (n,), an end in the image."""
    pixels = np.flatnonzero(seen)
    if pixels[0] > 0:
        return float(pixels[0])
    return float(pixels[-1] + 1 - side) if pixels[-1] + 1 < len(seen) else (len(seen) - side) / 2


def behaviour_picture(
    path: str | Path, gradients: pd.DataFrame, silence: pd.DataFrame, thin: pd.DataFrame, *, title: str
) -> None:
    """Draw three panels: gradients through the layers with ReLU and sigmoid, sparsity, thinned networks."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    figure.suptitle(title, fontsize=11)
    left, middle, right = figure.subplots(1, 3)
    for kind, rows in gradients.groupby("activation", sort=False):
        left.semilogy(rows["depth"], rows["gradient"].clip(lower=1e-12), "o-", color=_COLOURS[str(kind)], label=kind)
    left.set_xticks(sorted(gradients["depth"].unique()))
    left.set_xlabel("layer with weights, from the image on")
    left.set_title("Gradient at the start of training\n(root mean square; new weights, no batch norm)", fontsize=9)
    left.legend(fontsize=8)
    positions = np.arange(len(silence))
    middle.barh(positions, silence["zeros"], color="#1f77b4", label="zeros")
    middle.plot(silence["dead"], positions, "o", color="#d62728", label="channels that are 0 for all images")
    middle.set_yticks(positions, silence["layer"], fontsize=7)
    middle.invert_yaxis()
    middle.set_xlim(0, 1)
    middle.set_title("Sparsity: share of activations that are 0", fontsize=9)
    middle.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    _thinned(right, thin)
    for axis in (left, middle, right):
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    _save(figure, path)


def _thinned(axis: Axes, thin: pd.DataFrame) -> None:
    """Draw how sure the complete network (bars) and the thinned ones (dots) are; red dots predict another class."""
    complete, others = thin[thin["network"] == 0], thin[thin["network"] > 0]
    shown = complete["image"].to_numpy()[:12]
    axis.bar(range(len(shown)), complete["p"].to_numpy()[: len(shown)], color="#cbd5e1", label="complete network")
    for agrees, colour, label in ((True, "#1f77b4", "thinned, same answer"), (False, "#d62728", "thinned, another")):
        rows = others[(others["agrees"] == agrees) & others["image"].isin(shown)]
        position = rows["image"].map({image: number for number, image in enumerate(shown)})
        axis.plot(position, rows["p"], ".", color=colour, markersize=4, label=label)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("image")
    share = f"{others['agrees'].mean():.0%} agree with the complete one"
    axis.set_title(f"Thinned by dropout: probability of the answer\n({share})", fontsize=9)
    axis.legend(fontsize=7, loc="lower left")


def _grid(rows: int, columns: int, *, width: float, title: str, extra: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Return a figure of square panels without ticks, and the panels in one list."""
    figure = Figure(figsize=(max(5.0, columns * width), rows * (width + 0.16 + extra) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)  # a class may be called `$x$`
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def _save(figure: Figure, path: str | Path) -> None:
    for axis in figure.axes:  # panels that nothing was drawn in
        if not axis.has_data() and not axis.texts:
            axis.set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=_DPI)
