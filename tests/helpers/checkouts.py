"""A copy of this checkout with the tiny recipe, in a repository of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

WRITTEN_BY_RUNS = ("dvc.lock", "study/dvc.yaml", "study/dvc.lock")  # by `make run` and `make study`; not for git


def copy_tiny(root: Path, run: Callable, repository: Path) -> Path:
    """Copy the checkout as it is, committed or not, and commit the copy.

    Args:
        run: runs a command, as the fixture of this name does.
    """
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=repository).stdout
    for name in filter(None, files.split("\0")):
        if (repository / name).is_file() and name not in WRITTEN_BY_RUNS:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, root / name)
    run("git", "init", "-q", cwd=root)
    run("gridflow", "run", "--recipe", "tiny", "--check", cwd=root)
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "tiny", cwd=root)
    return root
