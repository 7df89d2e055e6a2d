"""What a fault may have cost: lost or damaged results, and things that nobody removed (`bench.chaos`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flows.repository.git import git
from flows.repository.graph import read_graph

OBJECT = re.compile(r"[0-9a-f]{30}(\.dir)?|\.gitignore|CACHEDIR\.TAG")  # names of files in DVC's stores
# Folders that hold what runs leave on purpose: git's own files, the run cache, the events of the last runs, models that
# were brought out of the cache, OpenVINO's compiled ones, and Python's byte code.
KEPT = re.compile(r"\.git(/.*)?|\.dvc/cache/runs|\.gridflow/(runs|outputs|engines|locks-of-dvc|sets)|(.*/)?__pycache__")
# What DVC writes anew in each run, and folders that are empty between runs.
ALSO_KEPT = re.compile(
    r"dvc\.lock|\.dvc/tmp/(lock|rwlock|rwlock\.lock|btime|exps/.*)"
    r"|\.gridflow/(worktrees|state|state/\.locks|cleaning\.lock)"
)


def outputs_of(root: Path, stage: str, commit: str = "") -> list[tuple[str, str]]:
    """The outputs of a stage in the checkout's dvc.lock, or in a commit's: (path, MD5)."""
    text = git(root, "show", f"{commit}:dvc.lock") if commit else (root / "dvc.lock").read_text()
    return [(out["path"], out["md5"]) for out in yaml.safe_load(text)["stages"][stage].get("outs", [])]


def damaged(store: Path, outputs: list[tuple[str, str]]) -> list[str]:
    """The outputs that a store of DVC (cache or remote) does not hold as they were."""
    return [f"{path} in {store.parent.parent.name}" for path, md5 in outputs if not _is_sound(store, md5)]


def _is_sound(store: Path, md5: str) -> bool:
    file = store / md5[:2] / md5[2:]
    if not file.is_file():
        return False
    content = file.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
        return False
    members: list[dict[str, Any]] = json.loads(content) if md5.endswith(".dir") else []
    return all(_is_sound(store, member["md5"]) for member in members)


def lost_stages(root: Path, stage: str) -> list[str]:
    """Stages whose outputs are not as dvc.lock says, and ``stage`` itself if it is stale.

    Others may be stale because what they depend on was made anew.
    """
    return [
        f"{node.name}: {node.reason}"
        for node in read_graph(root)
        if node.stale and (node.name == stage or re.search(r"\bouts: |command", node.reason) or not node.reason)
    ]


def litter(root: Path, temporary: Path) -> set[str]:
    """All files and empty folders of the checkout but those that stay on purpose, and all that is in ``temporary``."""
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"].values()
    results = {out["path"] for stage in stages for out in stage.get("outs", [])}
    paths = {path for path in _files(root, "", results) if not ALSO_KEPT.fullmatch(path)}
    paths |= {f".git/{path.name}" for path in (root / ".git").glob("*.lock")}
    paths |= {f".git/worktrees/{path.name}" for path in (root / ".git/worktrees").glob("*")}
    return paths | {
        f"temporary: {path.name}" for path in temporary.iterdir() if not path.name.startswith("torchinductor_")
    }


def _files(root: Path, inside: str, results: set[str]) -> Iterator[str]:
    for entry in os.scandir(root / inside):
        path = f"{inside}/{entry.name}" if inside else entry.name
        if path in results or KEPT.fullmatch(path):
            continue
        if not entry.is_dir(follow_symlinks=False):
            if not (inside.startswith(".dvc/cache/files/") and OBJECT.fullmatch(entry.name)):
                yield path
        elif any(os.scandir(entry)):
            yield from _files(root, path, results)
        elif not inside.startswith(".dvc/cache"):
            yield path
