"""The page's part on reading: the numbers that were read, beside the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.reporting.detection import known_truth
from cnn_core.reporting.images import figure, scene

WAYS = {"masks": "masks cut out", "boxes": "boxes cut out", "true_masks": "the true masks cut out"}
TOLD = {"cnn": "told by the CNN", "detector": "told by the detector", "product": "told by both"}


def section(root: Path, values: Mapping[str, Any], ways: Mapping[str, Any] | None, most: int) -> dict[str, Any]:
    """What the page shows of reading; a part that is missing is None."""
    return {
        "ways": [(way, how, WAYS.get(way, way), TOLD.get(how, how)) for way in ways or {} for how in ways[way]],
        "plates": plates(root, values.get("read", {}), most),
        "examples": figure(root / "data/plots/read-examples.png"),
    }


def plates(root: Path, params: Mapping[str, Any], most: int) -> dict[str, Any] | None:
    """Numbers read, those that are wrong first, the surest first; ``true`` is None where the truth knows no texts."""
    path = root / "data/predictions/read/plates.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype={"image_id": str, "file": str, "text": str}, keep_default_na=False)
    table = table.assign(true=true_texts(root, params, table["file"]))
    table = table.assign(
        wrong=[one.true is not None and one.true != one.text for one in table.itertuples()],
        confidence=pd.to_numeric(table["confidence"], errors="coerce").fillna(0.0),
        whole=[str(path if (path := Path(file)).exists() else root / file) for file in table["file"]],
    )
    there = table[[Path(file).is_file() for file in table["whole"]]]
    shown = there.sort_values(["wrong", "confidence"], ascending=[False, False], kind="stable").head(most)
    rows = [
        [one.image_id, scene(Path(one.whole), 200)[0], one.text, one.true, round(float(one.confidence), 4)]
        for one in shown.itertuples()
    ]
    return {"rows": rows, "total": len(table), "wrong": int(table["wrong"].sum())}


def true_texts(root: Path, params: Mapping[str, Any], files: pd.Series) -> list[str | None]:
    """The numbers that composition wrote into the images, by their files."""
    known = known_truth(root, {**params, "source": params["truth"]}) if "truth" in params else None
    if known is None or "text" not in known[0]:
        return [None] * len(files)
    texts = {str(Path(file).resolve()): text for file, text in zip(known[0]["file"], known[0]["text"], strict=True)}
    return [texts.get(str((path if (path := Path(file)).exists() else root / file).resolve())) for file in files]
