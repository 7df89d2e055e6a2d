"""Compare two runs, or a run with the champions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cnn_core.comparison.banners import add_banner, of_differences
from cnn_core.comparison.differences import Differences, differences
from flows.comparison.sides import Side, champions, measured, side
from flows.registry.models import MODELS, STAGE, champion


def compare_runs(root: Path, before: str, after: str, page: Path | None = None) -> Differences:
    """The run ``after`` against the run ``before``, by their names.

    Args:
        page: a file to write the report of ``after`` to, with the comparison on top.

    Raises:
        ValueError: there is no such run, it has no metrics (or no report), or DVC does not have them.
    """
    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        sides = list(_sides(root, (before, after), Path(scratch)))
        found = _compared(*sides)
        if page is not None:
            report = add_banner(sides[1].report(root), of_differences(found))
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(report, encoding="utf-8")
        return found


def against_champions(root: Path, run: Path, name: str, stages: Sequence[str]) -> Differences | None:
    """A run's models against their champions; None where none of those that it measured has one.

    Args:
        root: the checkout.
        run: the folder of the run.
        name: of the run.
        stages: that the run was made of.
    """
    fresh = [model.name for model in MODELS.values() if model.evaluate in stages and (run / model.metrics).is_file()]
    known = [(model, champion(root, model)) for model in fresh]
    judged = [model for model, one in known if one and MODELS[model].metrics in measured(root, one.commit)]
    if not judged:
        return None
    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        return _compared(champions(root, Path(scratch), judged), Side(name=name, root=run))


def _compared(before: Side, after: Side) -> Differences:
    if after.partial and not before.partial:
        raise ValueError(f"{STAGE} stands first: it is what a run is held against")
    names = (before.name, after.name if after.name != before.name else f"{after.name} (2)")
    found = differences(before.root, after.root, names=names, partial=before.partial)
    return replace(found, notes=[*before.notes, *after.notes, *found.notes])


def _sides(root: Path, names: tuple[str, str], scratch: Path) -> Iterator[Side]:
    for number, name in enumerate(names):
        place = scratch / str(number)
        place.mkdir()
        yield side(root, name, place)
