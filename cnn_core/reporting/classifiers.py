"""The page's part on one classifier: how it learned, what it confuses, and the test images behind every figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.data.raw import read_manifest, read_quarantine, read_raw
from cnn_core.reporting import charts
from cnn_core.reporting.images import figure, thumbnail
from cnn_core.reporting.numbers import Numbers

SAMPLES = {
    "digits": "The images are the sample: 5,000 real handwritten digits of MNIST.",
    "scenes": "The images are the sample: generated, drawn by a program. They are no photographs.",
}
FIRST_REFUSED = 50  # rows of the quarantine that are listed


def section(root: Path, name: str, values: Mapping[str, Any], numbers: Numbers, most: int) -> dict[str, Any]:
    """What the page shows of one data set; a part that is missing is None, and the page says so."""
    plots = root / "data/plots"
    kept = numbers.value(f"train-{name}:best_epoch")
    return {
        "name": name,
        "origin": origin(name, values),
        "manifest": manifest(root, name),
        "quarantine": quarantine(root, name),
        "network": network(values.get("train", {}).get(name, {}).get("model", {})),
        "loss": learning(
            plots / f"train-{name}.csv", {"train_loss": "training", "val_loss": "validation"}, "loss", kept
        ),
        "accuracy": learning(
            plots / f"train-{name}.csv",
            {"train_accuracy": "training", "val_accuracy": "validation"},
            "accuracy",
            kept,
        ),
        "confusion": confusion(plots / f"evaluate-{name}-confusion.csv"),
        "answers": answers(root, name, most),
        "copies": figure(plots / f"augment-{name}.png"),
        "seen": figure(plots / f"train-{name}-seen.png"),
    }


def origin(name: str, values: Mapping[str, Any]) -> str:
    """Where the images come from, in one sentence: a sample is called so."""
    source = values.get("ingest", {}).get(name, {}).get("source", "")
    return SAMPLES.get(name, "") if source == f"data/sources/{name}" else f"The images come from {source}."


def network(model: Mapping[str, Any]) -> str:
    """``alexnet``, or the architecture of our own."""
    return str(model.get("builder") or model.get("architecture") or "a network")


def manifest(root: Path, name: str) -> dict[str, Any] | None:
    """Of the RAW set: its version, and what ingestion warned of."""
    folder = root / "data/raw" / name
    return read_manifest(folder) if (folder / "manifest.json").is_file() else None


def quarantine(root: Path, name: str) -> list[dict[str, str]]:
    """The first rows that were left out, with the reason."""
    folder = root / "data/raw" / name
    return read_quarantine(folder)[:FIRST_REFUSED] if (folder / "quarantine.parquet").is_file() else []


def learning(path: Path, names: Mapping[str, str], y: str, kept: int | None) -> dict[str, Any] | None:
    """Curves over the epochs, the epoch that was kept marked."""
    if not path.is_file():
        return None
    rows = charts.series_rows(pd.read_csv(path), "epoch", names)
    return charts.epoch_curves(rows, y=y, marked=kept) if rows else None


def confusion(path: Path, last: str | None = None) -> dict[str, Any] | None:
    """The counts of ``actual, predicted`` rows: ``{"classes": [...], "rows": [[n, ...], ...], "most": n}``.

    ``most`` is the largest count off the diagonal: what the shade of a mistake is relative to. The class ``last`` comes
    after the others.
    """
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype=str)
    classes = sorted(set(table["actual"]) | set(table["predicted"]), key=lambda name: (name == last, name))
    counts = pd.crosstab(table["actual"], table["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    rows = counts.to_numpy()
    off = [int(n) for i, row in enumerate(rows) for j, n in enumerate(row) if i != j]
    return {"classes": classes, "rows": rows.tolist(), "most": max(off, default=0)}


def answers(root: Path, name: str, most: int) -> dict[str, Any] | None:
    """The test images with what the network said of them, for the confusion's cells and the gallery.

    Returns:
        ``classes``; ``total`` test images, ``wrong`` of them; ``rows``: ``[id, true class, class answered, its
        probability, image]``, classes as numbers: `chosen` ones.
    """
    path, folder = root / f"data/predictions/{name}-test.parquet", root / "data/raw" / name
    if not path.is_file() or not (folder / "manifest.json").is_file():
        return None
    table = pd.read_parquet(path)
    table = table.assign(sure=table.filter(regex=r"^p\d+$").max(axis=1))
    raw = read_raw(folder, "test")
    images = dict(zip(raw.ids, raw.images, strict=True))
    shown = chosen(table[table["id"].isin(images)], most)
    rows = [
        [row.id, int(row.label), int(row.predicted), round(float(row.sure), 4), thumbnail(images[row.id])]
        for row in shown.itertuples()
    ]
    return {
        "classes": read_manifest(folder)["classes"],
        "total": len(table),
        "wrong": int((table["label"] != table["predicted"]).sum()),
        "rows": rows,
    }


def chosen(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most ``most`` rows: the mistakes, the surest first; then right ones, of each class as many, the least sure
    first."""
    wrong = table["label"] != table["predicted"]
    mistakes = table[wrong].sort_values("sure", ascending=False, kind="stable").head(most)
    right = table[~wrong].sort_values("sure", kind="stable")
    turn = right.groupby("label").cumcount()
    right = right.iloc[np.argsort(turn.to_numpy(), kind="stable")].head(most - len(mistakes))
    return pd.concat([mistakes, right])
