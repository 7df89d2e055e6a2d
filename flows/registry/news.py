"""Whether there is anything new to train from, told in a moment by a fingerprint of all that a run depends on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.registry.inbox import data_version
from flows.repository.git import git
from flows.repository.parameters import recipe_values

KEPT = 20  # retrainings remembered


def fingerprint(root: Path, model: str, commit: str, source: str, chosen: Sequence[Any]) -> str:
    """Of the commit's files, the data and what was chosen for this run. Not of who is the champion, so that a schedule
    does not undo a rollback."""
    version = data_version(root, model)
    tree = git(root, "rev-parse", f"{commit}^{{tree}}")
    parts = [tree, version.commit if version else None, _listing(root / source), *chosen]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def remembered(root: Path, model: str, now: str) -> str | None:
    """How the last retraining from the same fingerprint ended."""
    return next((entry["verdict"] for entry in _entries(root, model) if entry["fingerprint"] == now), None)


def remember(root: Path, model: str, now: str, verdict: str) -> None:
    """Note how a retraining from this fingerprint ended."""
    path = _memory(root, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"fingerprint": now, "verdict": verdict, "time": time.time()}, *_entries(root, model)][:KEPT]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(entries, indent=2))
    partial.replace(path)


def _entries(root: Path, model: str) -> list[dict[str, Any]]:
    """The newest first."""
    try:
        return json.loads(_memory(root, model).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def _memory(root: Path, model: str) -> Path:
    return root / ".gridflow" / "retrain" / f"{model}.json"


def _listing(source: Path) -> Any:
    """A source's content as far as a glance tells: DVC's pointer, or names, sizes and times; None where none is."""
    if (pointer := source.with_name(f"{source.name}.dvc")).is_file():
        return pointer.read_text()
    if source.is_file():
        return [source.stat().st_size, source.stat().st_mtime_ns]
    if not source.is_dir():
        return None
    files = sorted(path for path in source.rglob("*") if path.is_file())
    return [[str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def chosen_source(root: Path, commit: str, model: str, recipe: str | None, overrides: Sequence[str]) -> str:
    """What ``ingest.<model>.source`` will be."""
    key = f"ingest.{model}.source"
    source = yaml.safe_load(git(root, "show", f"{commit}:params.yaml"))["ingest"][model]["source"]
    if recipe:
        source = recipe_values(root, recipe).get(key, source)
    for override in overrides:
        if override.startswith(f"{key}="):
            source = override.partition("=")[2].strip("\"'")
    return source
