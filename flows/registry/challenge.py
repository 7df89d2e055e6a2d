"""A challenger against the champion: the same held-out images answered by both, and the verdict.

Classifiers by McNemar's test on the images that both know; detectors and segmenters by a paired bootstrap over them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.annotations.tables import Annotations, read_objects
from cnn_core.annotations.truth import read_truth
from cnn_core.comparison.detectors import Gain, compare_detectors, gain_verdict
from cnn_core.comparison.promotion import (
    Comparison,
    PromotionRule,
    as_ids,
    compare,
    shared_ids,
    verdict,
)
from cnn_core.comparison.segmenters import compare_segmenters
from cnn_core.data.raw import read_manifest
from cnn_core.params import read_yaml
from flows.registry.models import Model, Version
from flows.repository.outputs import get, place

FINDERS = {"detector": compare_detectors, "segmenter": compare_segmenters}
CONFUSING = "champion and challenger cannot be compared"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model said of the test part: ``predictions`` (id, label, predicted), of the set's ``rows`` (id, split,
    sha256)."""

    predictions: pd.DataFrame
    rows: pd.DataFrame
    classes: list[str]
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finds:
    """What a detector or a segmenter found in the held-out images, whose ``truth`` is known."""

    model: str
    found: pd.DataFrame
    truth: Annotations
    metrics: dict[str, Any]


def read_answers(root: Path, model: Model) -> Answers | Finds:
    """Of the run that stands in ``root``."""
    if not model.data:
        params = read_yaml(root / "params.yaml")[model.evaluate]
        return Finds(
            model=model.name,
            found=read_objects(root / model.predictions),
            truth=read_truth(root / params["source"], params["split"]),
            metrics=json.loads((root / model.metrics).read_text()),
        )
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


def judge_finders(champion: Finds, challenger: Finds, rule: PromotionRule) -> tuple[bool, str, str]:
    """Whether the challenger is better, the sentence why (not), and a table of the figures. Both looked at the
    challenger's test part: pictures of test images, which the champion has not been trained on either."""
    images, truth, classes = challenger.truth
    try:
        gain = FINDERS[challenger.model](images, truth, champion.found, challenger.found, classes)
    except ValueError as error:
        return False, f"{CONFUSING}: {error}.", ""
    return *gain_verdict(gain, rule), gain_table(gain)


def judge(
    champion: Answers, challenger: Answers, champion_rows: pd.DataFrame, rule: PromotionRule, *, unseen: bool
) -> tuple[bool, str, str]:
    """Whether the challenger is better, the sentence why (not), and a table of the figures.

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
        return False, f"{CONFUSING}: {error}.", ""
    return *verdict(found, rule), table(found)


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


def gain_table(gain: Gain) -> str:
    """The comparison of detectors or segmenters as a table in Markdown."""
    lines = ["| class | objects | champion | challenger | difference |", "|---|---:|---:|---:|---:|"]
    objects = sum(count for count, *_ in gain.classes.values())
    rows = {"all": (objects, gain.champion, gain.challenger), **gain.classes}
    lines += [
        f"| {name} | {count:,} | {before:.4f} | {after:.4f} | {after - before:+.4f} |"
        for name, (count, before, after) in rows.items()
    ]
    told = f"{gain.measure}; 95 % of the difference {gain.low:+.4f} to {gain.high:+.4f}, p = {gain.p_value:.3g}."
    return "\n".join([*lines, "", told])
