"""Promote a model to champion, roll back, fetch, and list the champions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.registry.models import (
    MODELS,
    STAGE,
    Assignment,
    Model,
    Version,
    champion,
    history,
    known,
)
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
from flows.repository.outputs import get, outputs, place


def promote(
    root: Path, model: str, revision: str | None = None, *, reason: str, metrics: Mapping[str, Any] | None = None
) -> Version:
    """Make the model of a run the champion: a commit with its parameters and dvc.lock, two tags and the branch, all of
    them or none. Nothing of the checkout changes.

    Args:
        revision: a commit or a DVC experiment; None takes dvc.lock and parameters as they stand in the checkout.
        metrics: of its evaluation; None reads them from the run.

    Raises:
        ValueError: the run holds no such model, DVC's cache does not have it, or another promotion came between.
    """
    kind, assigned = known(model), history(root, model)
    base = resolve(root, revision or "HEAD")
    tree = tree_of(root, base) if revision else working_tree(root)
    experiment = experiment_of(root, base) if revision else ""
    parents = git(root, "rev-parse", f"{base}^@").split() if experiment else [base]
    version = max((entry.version.number for entry in assigned), default=0) + 1
    commit = commit_tree(root, tree, parents, f"Promote {model} v{version}.0.0\n\n{reason}\n")
    md5s = outputs(root, commit)
    if kind.folder not in md5s:
        raise ValueError(f"{revision or 'dvc.lock'} holds no {kind.folder}: run the stage {kind.train} first")
    get(root, commit, kind.folder, place(root, model, md5s[kind.folder]))  # it has to be there to be promoted
    notes = {
        "reason": reason,
        "metrics": dict(metrics if metrics is not None else _metrics(root, commit, kind, md5s)),
        "experiment": experiment,
        "base": parents[0] if parents else "",
        "model_md5": md5s[kind.folder],
        "data_md5": md5s.get(f"data/raw/{kind.data}", "") if kind.data else "",
        "former": assigned[-1].version.name if assigned else "",
    }
    name = f"v{version}.0.0"
    tag = make_tag(root, f"{model}@{name}", commit, f"{model} {name}\n\n{json.dumps(notes, indent=2)}")
    _assign(root, model, assigned, name, commit, reason, [f"create refs/tags/{model}@{name} {tag}"])
    return history(root, model)[-1].version


def rollback(root: Path, model: str, *, to: str | None = None, reason: str = "") -> Version:
    """Make an earlier version the champion again: the one before the present, or ``to`` (``v2.0.0``).

    Raises:
        ValueError: there is none.
    """
    known(model)
    assigned = history(root, model)
    if not assigned:
        raise ValueError(f"no {model} was ever promoted, so there is nothing to go back to")
    versions = {entry.version.name: entry.version for entry in assigned}
    present = assigned[-1].version
    if to is None:
        earlier = [version for version in versions.values() if version.number < present.number]
        if not earlier:
            raise ValueError(f"{model} {present.name} is the first version: there is none before it")
        target = max(earlier, key=lambda version: version.number)
    elif to in versions:
        target = versions[to]
    else:
        raise ValueError(f"there is no {model} {to}; there are {', '.join(versions)}")
    why = reason or f"rolled back from {present.name}"
    _assign(root, model, assigned, target.name, target.commit, why, [])
    return target


def fetch(root: Path, model: str) -> Path:
    """The champion's model folder, brought out of DVC's cache (or its remote) into ``.gridflow/outputs/``.

    Raises:
        ValueError: nothing was promoted yet, or DVC does not have it any more.
    """
    now = champion(root, model)
    if now is None:
        raise ValueError(f"there is no champion of {model} yet: `gridflow champions promote {model}` makes one")
    return get(root, now.commit, MODELS[model].folder, place(root, model, now.notes["model_md5"]))


def _metrics(root: Path, commit: str, kind: Model, md5s: Mapping[str, str]) -> dict[str, Any]:
    if kind.metrics not in md5s:
        return {}
    target = place(root, f"{kind.name}-metrics", md5s[kind.metrics]).with_suffix(".json")
    return json.loads(get(root, commit, kind.metrics, target).read_text())


def _assign(
    root: Path, model: str, assigned: list[Assignment], name: str, commit: str, reason: str, more: list[str]
) -> None:
    number = assigned[-1].number + 1 if assigned else 1
    tag = make_tag(root, f"{model}#{STAGE}#{number}", commit, f"{name} is the champion of {model}\n\n{reason}")
    branch = move_branch(root, f"{STAGE}/{model}", commit)
    update_refs(root, [*more, f"create refs/tags/{model}#{STAGE}#{number} {tag}", branch])


def listing(root: Path) -> str:
    """One line a kind of model."""
    lines = [f"{'model':<12}{'champion':<10}{'figure':<20}{'since':<27}commit"]
    for model in MODELS:
        assigned = history(root, model)
        if not assigned:
            lines.append(f"{model:<12}none")
            continue
        now = assigned[-1]
        version = now.version
        lines.append(f"{model:<12}{version.name:<10}{version.headline:<20}{now.date:<27}{version.commit[:10]}")
    return "\n".join(lines)


def audit(root: Path, model: str) -> str:
    """Every champion there has been: when, by whom, why, and from what."""
    lines = []
    for entry in history(root, model):
        version = entry.version
        lines += [
            f"{model}#{STAGE}#{entry.number}  {version.name}  {version.headline}  {entry.date}  {entry.who}",
            f"    {entry.reason}",
            f"    commit {version.commit}, from {version.notes['base'][:10]}, run {version.notes['experiment'] or '-'}",
            f"    model {version.notes['model_md5']}, data {version.notes['data_md5'] or '-'}",
        ]
    return "\n".join(lines or [f"no {model} was ever promoted"])


def how_to_use(model: str) -> str:
    """How a person gets the champion into the checkout, which nothing here touches."""
    folder = MODELS[model].folder
    return (
        f"Bring it into your checkout: git restore --source={STAGE}/{model} -- dvc.lock params.yaml && "
        f"dvc checkout --force {folder}"
    )
