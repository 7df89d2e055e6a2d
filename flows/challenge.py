"""A challenger against the champion: the same held-out images answered by both, and the verdict."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.comparison import Comparison, PromotionRule, as_ids, compare, shared_ids, verdict
from cnn_core.datasets import read_manifest
from flows.outputs import get, place
from flows.registry import Model, Version

CONFUSING = "champion and challenger cannot be compared"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model said of the test part: ``predictions`` (id, label, predicted), of the set's ``rows`` (id, split,
    sha256)."""

    predictions: pd.DataFrame
    rows: pd.DataFrame
    classes: list[str]
    metrics: dict[str, Any]


def read_answers(root: Path, model: Model) -> Answers:
    """Of the run that stands in ``root``."""
    raw = root / "data" / "raw" / model.data
    return Answers(
        predictions=pd.read_parquet(root / model.predictions, columns=["id", "label", "predicted"]),
        rows=read_rows(raw),
        classes=list(read_manifest(raw)["classes"]),
        metrics=json.loads((root / model.metrics).read_text()),
    )


def read_rows(raw: Path) -> pd.DataFrame:
    """id, split, sha256 of all images of a RAW set, without the images."""
    parts = sorted(raw.glob("part-*.parquet"))
    return pd.concat([pd.read_parquet(part, columns=["id", "split", "sha256"]) for part in parts], ignore_index=True)


def rows_of(root: Path, model: Model, version: Version) -> pd.DataFrame:
    """The images that a champion was trained and measured on, out of DVC's cache."""
    path = f"data/raw/{model.data}"
    target = place(root, f"{model.data}-raw", version.notes["data_md5"])
    return read_rows(get(root, version.commit, path, target))


def judge(
    champion: Answers, challenger: Answers, champion_rows: pd.DataFrame, rule: PromotionRule, *, unseen: bool
) -> tuple[bool, str, Comparison | None]:
    """Whether the challenger is better, the sentence why (not), and the figures.

    Args:
        champion: asked the challenger's test part.
        champion_rows: of the set that the champion was trained on: what of the test part it has not seen.
        unseen: also images that came after the champion; else those in the test parts of both.
    """
    ids = shared_ids(champion_rows, challenger.rows, unseen=unseen)
    hashes = challenger.rows.set_index("id")["sha256"]
    try:
        found = compare(
            as_ids(champion.predictions, hashes), as_ids(challenger.predictions, hashes), challenger.classes, ids
        )
    except ValueError as error:
        return False, f"{CONFUSING}: {error}.", None
    better, why = verdict(found, rule)
    return better, why, found


def table(found: Comparison) -> str:
    """The comparison as a table in Markdown."""
    lines = ["| class | images | champion | challenger | difference |", "|---|---:|---:|---:|---:|"]
    rows = {"all": (found.n, found.champion, found.challenger), **found.classes}
    lines += [
        f"| {name} | {images:,} | {before:.2%} | {after:.2%} | {100 * (after - before):+.2f} |"
        for name, (images, before, after) in rows.items()
    ]
    told = (
        f"Only the challenger right: {found.gained}; only the champion: {found.lost}; McNemar p = {found.p_value:.3g}."
    )
    return "\n".join([*lines, "", told])
