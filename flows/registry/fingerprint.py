"""Remember retrainings by a fingerprint of all that they depend on, so that the next from the same state is skipped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.registry.data_versions import data_version
from flows.repository.git import git
from flows.repository.recipes import recipe_values

REMEMBERED = 20  # retrainings a model


def fingerprint(root: Path, model: str, commit: str, source: str, settings: Sequence[Any]) -> str:
    """Hash the commit's files, the data and the settings of this retraining.

    The present champion is no part of it, so that a schedule does not undo a rollback.
    """
    version = data_version(root, model)
    tree = git(root, "rev-parse", f"{commit}^{{tree}}")
    parts = [tree, version.commit if version else None, _listing(root / source), *settings]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def former_outcome(root: Path, model: str, state_hash: str) -> str | None:
    """How the last retraining from the same fingerprint ended; None where there was none."""
    return next((entry["verdict"] for entry in _read(root, model) if entry["fingerprint"] == state_hash), None)


def remember(root: Path, model: str, state_hash: str, outcome: str) -> None:
    path = _file(root, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"fingerprint": state_hash, "verdict": outcome, "time": time.time()}, *_read(root, model)][:REMEMBERED]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(entries, indent=2))
    partial.replace(path)


def chosen_source(root: Path, commit: str, model: str, recipe: str | None, overrides: Sequence[str]) -> str:
    """What the parameter ``ingest.<model>.source`` will be in the run."""
    key = f"ingest.{model}.source"
    source = yaml.safe_load(git(root, "show", f"{commit}:./params.yaml"))["ingest"][model]["source"]
    if recipe:
        source = recipe_values(root, recipe).get(key, source)
    for override in overrides:
        if override.startswith(f"{key}="):
            source = override.partition("=")[2].strip("\"'")
    return source


def _read(root: Path, model: str) -> list[dict[str, Any]]:
    try:
        return json.loads(_file(root, model).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def _file(root: Path, model: str) -> Path:
    return root / ".gridflow" / "retrain" / f"{model}.json"


def _listing(source: Path) -> Any:
    """DVC's pointer of a source, or else its files' names, sizes and times; None where there is no source."""
    if (pointer := source.with_name(f"{source.name}.dvc")).is_file():
        return pointer.read_text()
    if not source.exists():
        return None
    files = sorted(path for path in (source, *source.rglob("*")) if path.is_file())
    return [[str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
