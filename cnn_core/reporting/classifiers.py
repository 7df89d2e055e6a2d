"""The page's part on one classifier: how it learned, what it confuses, and the test images behind every figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.data.raw import read_images, read_manifest, read_raw
from cnn_core.files import read_csv
from cnn_core.reporting import charts
from cnn_core.reporting.images import figure, thumbnail
from cnn_core.reporting.numbers import Numbers

MOST_CONFUSED = 60  # classes of a confusion matrix: more take a page's time and nobody reads them


def section(root: Path, name: str, values: Mapping[str, Any], numbers: Numbers, limit: int) -> dict[str, Any]:
    """Gather what the page shows of one classifier; a part whose files are missing is None."""
    plots, entry = root / "data/plots", (values.get("train") or {}).get(name) or {}
    data, model = str(entry.get("data", name)), entry.get("model", {})
    curves, best_epoch = plots / f"train-{name}.csv", numbers.value(f"train-{name}:best_epoch")
    losses = {"train_loss": "training", "val_loss": "validation"}
    accuracies = {"train_accuracy": "training", "val_accuracy": "validation"}
    several = numbers.value(f"manifest-{data}:multilabel") is True
    if several:
        accuracies = {"val_map": "validation"}
    return {
        "name": name,
        "data": data,
        "several": several,
        "mistakes": figure(plots / f"evaluate-{name}-mistakes.png") if several else None,
        "generated": numbers.value(f"evaluate-{name}:generated") is True,
        "network": str(model.get("builder") or model.get("architecture") or "a network"),
        "loss": charts.learning_chart(curves, losses, "loss", marked=best_epoch),
        "accuracy": charts.learning_chart(curves, accuracies, "mAP" if several else "accuracy", marked=best_epoch),
        "confusion": None if several else confusion(plots / f"evaluate-{name}-confusion.csv"),
        "answers": None if several else answers(root, name, data, limit),
        "seen": figure(plots / f"train-{name}-seen.png"),
    }


def confusion(path: Path, last: str | None = None) -> dict[str, Any] | None:
    """Count the rows of a file ``actual, predicted``: ``{"classes": [...], "rows": [[n, ...], ...], "most": n}``.

    ``most`` is the largest count off the diagonal. The class ``last`` stands after the others. Of many classes those
    with the most mistakes are shown, and ``of`` is the number of all.
    """
    if not path.is_file():
        return None
    table = read_csv(path)
    classes = sorted(set(table["actual"]) | set(table["predicted"]), key=lambda name: (name == last, name))
    counts = pd.crosstab(table["actual"], table["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    every = len(classes)
    if every > MOST_CONFUSED:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * pd.Series(np.diag(counts), index=counts.index)
        kept = set(wrong.sort_values(ascending=False, kind="stable").index[:MOST_CONFUSED])
        classes = [name for name in classes if name in kept]
        counts = counts.loc[classes, classes]
    rows = counts.to_numpy()
    mistakes = [int(n) for i, row in enumerate(rows) for j, n in enumerate(row) if i != j]
    return {"classes": classes, "rows": rows.tolist(), "most": max(mistakes, default=0), "of": every}


def answers(root: Path, name: str, data: str, limit: int) -> dict[str, Any] | None:
    """Return up to ``limit`` test images with the network's answers, for the confusion's cells and the gallery.

    ``rows`` are ``[id, true class, predicted class, its probability, image]``, with classes as numbers.
    """
    path, folder = root / f"data/predictions/{name}-test.parquet", root / "data/raw" / data
    if not path.is_file() or not (folder / "manifest.json").is_file():
        return None
    table = pd.read_parquet(path)
    table = table.assign(confidence=table.filter(regex=r"^p\d+$").max(axis=1))
    shown = select_answers(table[table["id"].isin(read_raw(folder, "test", images=False).ids)], limit)
    images = read_images(folder, set(shown["id"]))  # no others: the test part may be larger than the memory
    columns = (shown[column].tolist() for column in ("id", "label", "predicted", "confidence"))
    rows = [
        [id_, label, predicted, round(confidence, 4), thumbnail(images[id_])]
        for id_, label, predicted, confidence in zip(*columns, strict=True)
    ]
    manifest = read_manifest(folder)
    return {
        "classes": manifest["classes"],
        "dots": manifest.get("mode") == "L",  # small grey images, whose pixels are shown as squares
        "total": len(table),
        "wrong": int((table["label"] != table["predicted"]).sum()),
        "rows": rows,
    }


def select_answers(table: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Select up to ``limit`` rows: the mistakes, the surest first, then right answers, the least sure first.

    The right answers take turns over the classes, so that each class has as many.
    """
    wrong = table["label"] != table["predicted"]
    mistakes = table[wrong].sort_values("confidence", ascending=False, kind="stable").head(limit)
    right = table[~wrong].sort_values("confidence", kind="stable")
    turn = right.groupby("label").cumcount()
    right = right.iloc[np.argsort(turn.to_numpy(), kind="stable")].head(limit - len(mistakes))
    return pd.concat([mistakes, right])
