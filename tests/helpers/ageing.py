"""Make what runs wrote look as old as if they had been days ago: files, experiments, runs in Prefect's database."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

DAY = 86400.0


def age_files(files: Iterable[Path], days: float) -> None:
    moment = time.time() - days * DAY
    for path in files:
        os.utime(path, (moment, moment), follow_symlinks=False)


def age_experiment(root: Path, name: str, days: float) -> None:
    """Give an experiment another commit, of the same content, that was made days ago."""

    def git(*command: str, **env: str) -> str:
        environment = {**os.environ, **env}
        done = subprocess.run(
            ["git", "-C", str(root), *command], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    ref = next(
        one for one in git("for-each-ref", "--format=%(refname)", "refs/exps").split() if one.endswith(f"/{name}")
    )
    who = {f"GIT_{role}_{key}": "t@example.com" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    date = {f"GIT_{role}_DATE": f"{int(time.time() - days * DAY)} +0000" for role in ("AUTHOR", "COMMITTER")}
    commit = git("commit-tree", f"{ref}^{{tree}}", "-p", f"{ref}^", "-m", name, **who, **date)
    git("update-ref", ref, commit)


def age_runs(database: Path, days: float, *, names: Sequence[str]) -> None:
    """Let the runs of these names in Prefect's database end days ago."""
    end = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.executemany("UPDATE flow_run SET end_time = ? WHERE name = ?", [(end, name) for name in names])
