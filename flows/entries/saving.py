"""Commit what `gridflow new` and `drop` have changed, and nothing else: deployed and isolated runs see commits only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.repository.git import git, identity


def may_commit(root: Path, files: Sequence[str]) -> str:
    """Why the edits of these files should not be committed by themselves; empty where nothing is in the way."""
    if git(root, "diff", "--cached", "--name-only"):
        return "other changes are staged"
    if changed := git(root, "diff", "--name-only", "HEAD", "--", *files):
        return f"{changed.splitlines()[0]} had changes before that are not committed"
    return ""


def commit(root: Path, files: Sequence[str], message: str) -> str:
    """Commit these files, as far as git tracks them, and return the commit's short name."""
    tracked = [name for name in files if git(root, "ls-files", "--", name)]
    git(root, "commit", "--quiet", "--message", message, "--", *tracked, env=identity(root))
    return git(root, "rev-parse", "--short", "HEAD")
