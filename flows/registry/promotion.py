"""Promote a model to champion, roll back, fetch the champion's model, and list the champions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.registry.models import STAGE, Assignment, Model, Version, champion, find_model, history, read_models
from flows.registry.origin import origin, trained_by
from flows.repository.former_shape import today
from flows.repository.git import (
    commit_tree,
    experiment_of,
    git,
    make_tag,
    move_branch,
    resolve,
    tree_of,
    update_refs,
    working_tree,
)
from flows.repository.outputs import get_output, output_path, outputs


def promote(
    root: Path, name: str, revision: str | None = None, *, reason: str, metrics: Mapping[str, Any] | None = None
) -> Version:
    """Make the model of a run the champion.

    A commit with dvc.lock, the parameters and the code that made the model, two tags and the branch are made, all of
    them or none. Nothing of the checkout changes; what differs in it stands in the version's notes.

    Args:
        name: of the model.
        revision: a commit or a DVC experiment; None takes dvc.lock and parameters as they stand in the checkout.
        metrics: of the model's evaluation; None reads them from the run.

    Raises:
        ValueError: the run holds no such model, DVC's cache does not have it, or another promotion
            came between.
    """
    model, assignments = find_model(root, name), history(root, name)
    base = resolve(root, revision or "HEAD")
    tree = tree_of(root, base) if revision else working_tree(root)
    experiment = experiment_of(root, base) if revision else ""
    parents = git(root, "rev-parse", f"{base}^@").split() if experiment else [base]
    md5s = outputs(root, candidate := commit_tree(root, tree, parents, "candidate"))
    if model.folder not in md5s:
        raise ValueError(f"{revision or 'dvc.lock'} holds no {model.folder}: run the stage {model.train} first")
    target = output_path(root, name, md5s[model.folder])
    folder = get_output(root, candidate, model.folder, target)  # it has to be there to be promoted
    model_origin = origin(root, tree, base, model, folder, of_checkout=revision is None)
    parents = parents if experiment else [model_origin.commit]
    version = f"v{max((entry.version.number for entry in assignments), default=0) + 1}.0.0"
    commit = commit_tree(root, model_origin.tree, parents, f"Promote {name} {version}\n\n{reason}\n")
    notes = {
        "reason": reason,
        "metrics": dict(metrics if metrics is not None else _read_metrics(root, commit, model, md5s)),
        "experiment": experiment,
        "base": parents[0] if parents else "",
        "model_md5": md5s[model.folder],
        "data_md5": md5s.get(f"data/raw/{model.data}", "") if model.data else "",
        "former": assignments[-1].version.name if assignments else "",
        "trained_by": trained_by(folder),
        "differences": model_origin.differences,
    }
    tag = make_tag(root, f"{name}@{version}", commit, f"{name} {version}\n\n{json.dumps(notes, indent=2)}")
    create = f"create refs/tags/{name}@{version} {tag}"
    _assign(root, name, assignments, version, commit, reason, create)
    return history(root, name)[-1].version


def rollback(root: Path, name: str, *, to: str | None = None, reason: str = "") -> Version:
    """Make the version ``to``, such as ``v2.0.0`` (None: the one before the present), the champion again.

    Raises:
        ValueError: there is no such version.
    """
    assignments = history(root, name)
    if not assignments:
        raise ValueError(f"no {name} was ever promoted, so there is nothing to go back to")
    versions = {entry.version.name: entry.version for entry in assignments}
    present = assignments[-1].version
    if to is None:
        earlier = [version for version in versions.values() if version.number < present.number]
        if not earlier:
            raise ValueError(f"{name} {present.name} is the first version: there is none before it")
        target = max(earlier, key=lambda version: version.number)
    elif to in versions:
        target = versions[to]
    else:
        raise ValueError(f"there is no {name} {to}; there are {', '.join(versions)}")
    _assign(root, name, assignments, target.name, target.commit, reason or f"rolled back from {present.name}")
    return target


def fetch(root: Path, name: str) -> Path:
    """Bring the champion's model folder out of DVC into ``.gridflow/outputs/``.

    Raises:
        ValueError: there is no such model, nothing was promoted yet, or DVC does not have it any more.
    """
    model, current = find_model(root, name), champion(root, name)
    if current is None:
        raise ValueError(f"there is no champion of {name} yet: `gridflow champions promote {name}` makes one")
    return get_output(root, current.commit, model.folder, output_path(root, name, current.notes["model_md5"]))


def listing(root: Path) -> str:
    """The champions, one line a model."""
    names = list(read_models(root))
    wide = 2 + max(map(len, ["model", *names]))
    lines = [f"{'model':<{wide}}{'champion':<10}{'figure':<38}{'since':<27}commit"]
    for name in names:
        assignments = history(root, name)
        if not assignments:
            lines.append(f"{name:<{wide}}none")
            continue
        current = assignments[-1]
        version = current.version
        lines.append(f"{name:<{wide}}{version.name:<10}{version.headline:<38}{current.date:<27}{version.commit[:10]}")
    return "\n".join(lines)


def audit(root: Path, name: str) -> str:
    """Every champion that a model has had: when, by whom, why, and from what."""
    find_model(root, name)
    lines = []
    for entry in history(root, name):
        version, notes = entry.version, entry.version.notes
        lines += [
            f"{name}#{STAGE}#{entry.number}  {version.name}  {version.headline}  {entry.date}  {entry.who}",
            f"    {entry.reason}",
            f"    commit {version.commit}, from {notes['base'][:10]}, run {notes['experiment'] or '-'}, "
            f"trained by {notes.get('trained_by', '')[:10] or '-'}",
            f"    model {notes['model_md5']}, data {notes['data_md5'] or '-'}",
            *(f"    {sentence}" for sentence in notes.get("differences", [])),
        ]
    return "\n".join(lines or [f"no {name} was ever promoted"])


def how_to_use(root: Path, name: str) -> str:
    """The commands that bring the champion into the checkout, which nothing here touches."""
    return (
        f"Bring it into your checkout: git restore --source={STAGE}/{name} -- dvc.lock params.yaml && "
        f"dvc checkout --force {find_model(root, name).folder}"
    )


def _read_metrics(root: Path, commit: str, model: Model, md5s: Mapping[str, str]) -> dict[str, Any]:
    path = next((path for path in md5s if today(path) == model.metrics), None)
    if path is None:
        return {}
    target = output_path(root, f"{model.name}-metrics", md5s[path]).with_suffix(".json")
    return json.loads(get_output(root, commit, path, target).read_text())


def _assign(
    root: Path, name: str, assignments: Sequence[Assignment], version: str, commit: str, reason: str, *more_refs: str
) -> None:
    """Make a version the champion, unless another was promoted since the history was read."""
    tag_name = f"{name}#{STAGE}#{assignments[-1].number + 1 if assignments else 1}"
    tag = make_tag(root, tag_name, commit, f"{version} is the champion of {name}\n\n{reason}")
    branch = move_branch(root, f"{STAGE}/{name}", commit)
    update_refs(root, [*more_refs, f"create refs/tags/{tag_name} {tag}", branch])
