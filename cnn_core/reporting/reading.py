"""The page's part on reading: the numbers that were read, beside the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.files import read_csv
from cnn_core.reporting.images import figure, locate, measured_split, scene
from cnn_core.reporting.numbers import Numbers

CROPS = {"masks": "masks cut out", "boxes": "boxes cut out", "true_masks": "the true masks cut out"}
READERS = {"cnn": "the CNN", "detector": "the detector", "product": "both"}


def section(root: Path, name: str, values: Mapping[str, Any], numbers: Numbers, limit: int) -> dict[str, Any]:
    """Gather what the page shows of the numbers that a classifier read."""
    ways = numbers.value(f"read-{name}:ways") or {}  # the figures by what was cut out and by what read it
    return {
        "name": name,
        "ways": [
            (crop, reader, CROPS.get(crop, crop), READERS.get(reader, reader)) for crop in ways for reader in ways[crop]
        ],
        "plates": plates(root, name, (values.get("read") or {}).get(name) or {}, limit),
        "examples": figure(root / f"data/plots/read-{name}-examples.png"),
    }


def plates(root: Path, name: str, params: Mapping[str, Any], limit: int) -> dict[str, Any] | None:
    """Return up to ``limit`` numbers that were read: the misread ones first, and of each the surest first.

    ``rows`` are ``[id, picture, text, true text, confidence]``, the true text None where the truth has none.
    """
    path = root / f"data/predictions/{name}-read/plates.csv"
    if not path.is_file():
        return None
    table = read_csv(path)
    texts = true_texts(root, params, table["file"].tolist())
    wrong = [truth is not None and truth != text for text, truth in zip(table["text"], texts, strict=True)]
    table = table.assign(
        wrong=wrong,
        truth=pd.Series(texts, index=table.index, dtype=object),
        confidence=pd.to_numeric(table["confidence"], errors="coerce").fillna(0.0),
        path=[locate(root, file) for file in table["file"]],
    )
    readable = table[[path.is_file() for path in table["path"]]]
    shown = readable.sort_values(["wrong", "confidence"], ascending=[False, False], kind="stable").head(limit)
    columns = (shown[column] for column in ("image_id", "path", "text", "truth", "confidence"))
    rows = [
        [image_id, scene(path, 200)[0], text, truth, round(float(confidence), 4)]
        for image_id, path, text, truth, confidence in zip(*columns, strict=True)
    ]
    return {"rows": rows, "total": len(table), "wrong": sum(wrong)}


def true_texts(root: Path, params: Mapping[str, Any], files: list[str]) -> list[str | None]:
    """Return the numbers that the stage compose wrote into the images ``files``; None where the truth has no text."""
    split = measured_split(root, {**params, "source": params["truth"]}) if "truth" in params else None
    if split is None or "text" not in split[0]:
        return [None] * len(files)
    texts = {Path(file).resolve(): text for file, text in zip(split[0]["file"], split[0]["text"], strict=True)}
    return [texts.get(locate(root, file).resolve()) for file in files]
