"""What champion and challenger gave for the same held-out images, and the decision between them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.annotations.tables import Annotations, read_objects
from cnn_core.annotations.truth import measured_truth
from cnn_core.comparison.classifiers import (
    ClassifierComparison,
    by_hash,
    compare_classifiers,
    has_several_labels,
    read_answers,
    read_rows,
    score_new_classes,
    shared_hashes,
)
from cnn_core.comparison.objects import BootstrapComparison, compare_detectors, compare_segmenters
from cnn_core.comparison.promotion import ClassScores, Decision, KnownClasses, NewClassScores, PromotionRule
from cnn_core.comparison.several_labels import compare_several_labels
from cnn_core.data.raw import read_manifest
from cnn_core.markdown import escape
from cnn_core.params import read_yaml
from flows.registry.models import Model, Task, Version, entry_of
from flows.repository.outputs import get_output, output_path

OBJECT_COMPARISONS: Mapping[Task, Callable[..., BootstrapComparison]] = {
    "detection": compare_detectors,
    "segmentation": compare_segmenters,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierResult:
    """A classifier's answers to the test part of a RAW set, and the rows of that set."""

    answers: pd.DataFrame  # as `read_answers` gives them
    rows: pd.DataFrame  # id, split, sha256
    classes: list[str]
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectResult:
    """The objects that a detector or a segmenter found in the held-out images, and the truth."""

    task: Task
    objects: pd.DataFrame
    truth: Annotations
    metrics: dict[str, Any]


Result = ClassifierResult | ObjectResult


def read_result(root: Path, model: Model) -> Result:
    """Read the result of the run that stands in ``root``.

    Raises:
        ValueError: the set or the truth that the model was measured on is not there.
    """
    metrics = json.loads((root / model.metrics).read_text())
    if not model.data:
        params = entry_of(read_yaml(root / "params.yaml"), model.evaluate)
        left_out = model.predictions.replace("-test.parquet", "-left-out.csv")
        truth = measured_truth(root, params["source"], params["split"], left_out)
        objects = read_objects(root / model.predictions)
        return ObjectResult(task=model.task, objects=objects, truth=truth, metrics=metrics)
    raw = root / "data" / "raw" / model.data
    return ClassifierResult(
        answers=read_answers(root / model.predictions),
        rows=rows_of_set(raw),
        classes=list(read_manifest(raw)["classes"]),
        metrics=metrics,
    )


def rows_of_set(raw: Path) -> pd.DataFrame:
    rows = read_rows(raw)
    if rows is None:
        raise ValueError(f"{raw} holds no RAW set: the stage ingest writes it")
    return rows


def rows_of_champion(root: Path, model: Model, version: Version) -> pd.DataFrame:
    """The rows of the set that a champion was trained and measured on, out of DVC's cache."""
    path = f"data/raw/{model.data}"
    target = output_path(root, f"{model.data}-raw", version.notes["data_md5"])
    return rows_of_set(get_output(root, version.commit, path, target))


def decide_between(
    champion: Result,
    challenger: Result,
    rule: PromotionRule,
    *,
    champion_rows: pd.DataFrame | None,
    unseen: bool,
    known: KnownClasses,
) -> tuple[Decision, str]:
    """Decide whether the challenger is promoted, and give a table of the figures in Markdown.

    Both answered the challenger's test part. A detector's pictures are made of test images, which the champion has not
    been trained on either.

    Args:
        champion_rows: of the set that a classifier's champion was trained on; None: it is the challenger's set.
        unseen: count also images that came after the champion, not only those in the test parts of both.
        known: the classes to compare them on; the others stand apart and decide nothing.
    """
    try:
        if isinstance(champion, ClassifierResult) and isinstance(challenger, ClassifierResult):
            rows = challenger.rows
            hashes = shared_hashes(rows if champion_rows is None else champion_rows, rows, unseen=unseen)
            answers = by_hash(challenger.answers, rows)
            if has_several_labels(champion.answers) or has_several_labels(answers):
                before = by_hash(champion.answers, rows)
                gain = compare_several_labels(before, answers, challenger.classes, hashes, new=known.new)
                decision, table = gain.decide(rule), object_table(gain)
                return with_new_classes(
                    decision, table, known, gain.new, measure="AP", number_format=".4f", unit="images"
                )
            comparison = compare_classifiers(
                by_hash(champion.answers, rows), answers, challenger.classes, hashes, new=known.new
            )
            scores = score_new_classes(answers, challenger.classes, known.new)
            decision, table = comparison.decide(rule), classifier_table(comparison)
            return with_new_classes(
                decision, table, known, scores, measure="recall", number_format=".2%", unit="images"
            )
        assert isinstance(champion, ObjectResult)
        assert isinstance(challenger, ObjectResult)
        images, truth, classes = challenger.truth
        compare = OBJECT_COMPARISONS[challenger.task]
        gain = compare(images, truth, champion.objects, challenger.objects, classes, new=known.new)
        measure = "AP50" if challenger.task == "detection" else gain.measure
        return with_new_classes(
            gain.decide(rule), object_table(gain), known, gain.new, measure=measure, number_format=".4f", unit="objects"
        )
    except ValueError as error:
        return Decision(False, f"Champion and challenger cannot be compared: {error}."), ""


def with_new_classes(
    decision: Decision,
    table: str,
    known: KnownClasses,
    scores: Mapping[str, NewClassScores],
    *,
    measure: str,
    number_format: str,
    unit: str,
) -> tuple[Decision, str]:
    """Add to the verdict and the page what both know, and the figures of new classes."""
    if not known.differ:
        return decision, table
    reason = " ".join(
        [decision.reason, *known.sentences(scores, measure=measure, number_format=number_format, unit=unit)]
    )
    if not scores:
        return decision._replace(reason=reason), table
    lines = [
        f"| class that is new | {unit} | {measure} of the challenger | images of other classes called so |",
        "|---|---:|---:|---:|",
    ]
    for name, (n, score, called, others) in scores.items():
        cells = [
            "–" if score is None else f"{score:{number_format}}",
            "–" if called is None else f"{called:,} of {others:,}",
        ]
        lines.append(f"| {escape(name)} | {n:,} | {' | '.join(cells)} |")
    return decision._replace(reason=reason), "\n\n".join([table, "\n".join(lines)])


def classifier_table(comparison: ClassifierComparison) -> str:
    total = ClassScores(comparison.n, comparison.champion, comparison.challenger)
    return _table("images", {"all": total, **comparison.classes}, "{:.2%}", "{:+.2f}", scale=100) + (
        f"\n\nOnly the challenger right: {comparison.gained}; only the champion: {comparison.lost}; "
        f"McNemar p = {comparison.p_value:.3g}."
    )


def object_table(comparison: BootstrapComparison) -> str:
    count = comparison.n if comparison.unit == "images" else sum(scores.n for scores in comparison.classes.values())
    total = ClassScores(count, comparison.champion, comparison.challenger)
    return _table(comparison.unit, {"all": total, **comparison.classes}, "{:.4f}", "{:+.4f}") + (
        f"\n\n{comparison.measure}; 95 % of the difference {comparison.low:+.4f} to {comparison.high:+.4f}, "
        f"p = {comparison.p_value:.3g}."
    )


def _table(unit: str, rows: Mapping[str, ClassScores], score: str, difference: str, *, scale: int = 1) -> str:
    lines = [f"| class | {unit} | champion | challenger | difference |", "|---|---:|---:|---:|---:|"]
    for name, (count, champion, challenger) in rows.items():
        cells = [score.format(champion), score.format(challenger), difference.format(scale * (challenger - champion))]
        lines.append(f"| {escape(name)} | {count:,} | {' | '.join(cells)} |")
    return "\n".join(lines)
