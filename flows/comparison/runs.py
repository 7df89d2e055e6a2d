"""Compare two runs, or a run with the champions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cnn_core.comparison.banners import add_banner, difference_banner
from cnn_core.comparison.differences import Differences, differences
from cnn_core.locks import temporary_folder
from flows.comparison.sides import Side, champions, find_side, measured
from flows.registry.models import STAGE, champion, read_models


def compare_runs(root: Path, before: str, after: str, page: Path | None = None) -> Differences:
    """Compare the run ``after`` with the run ``before``; write the report of ``after``, with this on top, to ``page``.

    Raises:
        ValueError: there is no such run, it has no metrics (or no report), or DVC does not have them.
    """
    with temporary_folder() as scratch:
        folders = [scratch / "before", scratch / "after"]
        for folder in folders:
            folder.mkdir()
        first, second = find_side(root, before, folders[0]), find_side(root, after, folders[1])
        compared = compare_sides(first, second)
        if page is not None:
            report = add_banner(second.report(root), difference_banner(compared))
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(report, encoding="utf-8")
        return compared


def compare_with_champions(root: Path, run: Path, name: str, stages: Sequence[str]) -> Differences | None:
    """Compare the models of the run in the folder ``run`` with their champions; None where none can be compared."""
    models = [
        model for model in read_models(root).values() if model.evaluate in stages and (run / model.metrics).is_file()
    ]
    comparable = [
        model.name
        for model in models
        if (version := champion(root, model.name)) and model.metrics in measured(root, version.commit).values()
    ]
    if not comparable:
        return None
    with temporary_folder() as scratch:
        return compare_sides(champions(root, scratch, comparable), Side(name=name, root=run))


def compare_sides(before: Side, after: Side) -> Differences:
    """Compare two sides.

    Raises:
        ValueError: the champions stand second, or a side has no metrics.
    """
    if after.partial and not before.partial:
        raise ValueError(f"{STAGE} must be named first: the second run is compared with the first")
    names = (before.name, after.name if after.name != before.name else f"{after.name} (2)")
    compared = differences(before.root, after.root, names=names, partial=before.partial)
    return replace(compared, notes=[*before.notes, *after.notes, *compared.notes])
