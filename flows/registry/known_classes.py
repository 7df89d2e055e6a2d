"""The classes that a champion and today's set have in common, and the champion's folder with today's names."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnn_core.comparison.promotion import KnownClasses
from cnn_core.data.class_changes import RENAMED, compare_classes, read_labels
from flows.registry.models import Model, Version, source_of
from flows.registry.results import ClassifierResult, Result
from flows.repository.outputs import get_output, output_path, outputs
from flows.repository.workspace import Workspace


def known_classes(
    root: Path, worktree: Workspace, model: Model, champion: Version, folder: Path, challenger: Result
) -> KnownClasses:
    """Compare the classes of the champion, whose model lies in ``folder``, with the challenger's, by name.

    Where some are gone and others new, the images of both versions of the set tell which were renamed.
    """
    today = challenger.classes if isinstance(challenger, ClassifierResult) else challenger.truth[2]
    former = _classes_of(folder)
    if former is None:
        return KnownClasses(both=today)
    gone, new = ([name for name in these if name not in those] for these, those in ((former, today), (today, former)))
    renamed: Mapping[str, str] = {}
    if gone and new:
        renamed = _renamed(root, worktree, model, champion)
        renamed = {name: now for name, now in renamed.items() if name in gone and now in new}
    new = [name for name in new if name not in renamed.values()]
    return KnownClasses(
        both=[name for name in today if name not in new],
        new=new,
        gone=[name for name in gone if name not in renamed],
        renamed=renamed,
    )


def nothing_in_common(known: KnownClasses, model: Model, experiment: str) -> str:
    """A sentence where the champion knows none of today's classes; else an empty text."""
    if known.both:
        return ""
    return (
        f"Champion and challenger cannot be compared: they have no class in common (the champion knows "
        f"{_listed(known.gone)}; the challenger {_listed(known.new)}). To make the challenger the champion all the "
        f"same: gridflow champions promote {model.name} {experiment}."
    )


def with_names_of_today(folder: Path, worktree: Workspace, known: KnownClasses) -> Path:
    """The champion's folder; where classes were renamed, a copy that says so to the stage that measures it."""
    if not known.renamed:
        return folder
    copy = worktree.root / ".gridflow" / "renamed" / folder.name
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    (copy / RENAMED).write_text(json.dumps(dict(known.renamed)), encoding="utf-8")
    return copy


def _classes_of(folder: Path) -> list[str] | None:
    """The classes in model.json; None where it names none."""
    with contextlib.suppress(FileNotFoundError):
        classes = json.loads((folder / "model.json").read_text(encoding="utf-8")).get("classes")
        return list(map(str, classes)) if classes else None
    return None


def _renamed(root: Path, worktree: Workspace, model: Model, champion: Version) -> dict[str, str]:
    """The champion's names of the classes that the set calls otherwise now; none where a version of it is not here."""
    name, _ = source_of(worktree.root, model, origin=True)
    path = f"data/raw/{name}"
    with contextlib.suppress(OSError, KeyError, ValueError):
        md5 = outputs(root, champion.commit)[path]
        raw = get_output(root, champion.commit, path, output_path(root, f"{name}-raw", md5))
        changes = compare_classes(read_labels(raw), read_labels(worktree.root / path))
        return {former: rename.now for former, rename in changes.renamed.items()}
    return {}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
