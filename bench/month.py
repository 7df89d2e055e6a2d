"""Measure what nightly runs leave behind, before and after `gridflow clean`: ``python -m bench.month``.

A copy of this checkout with the recipe tiny trains a model once, which becomes the champion. Each night augments the
digits with another seed, in a worktree, and ends as an experiment. What a night wrote is dated back to
its day: files by their times, experiments by git's date, runs in Prefect's database. Then `gridflow clean` removes what
is older than a week.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

from bench.chaos_checkout import ROOT, environment
from flows.housekeeping import in_bytes, size_of
from flows.ui import server
from tests.helpers.ageing import DAY, age_files, age_runs
from tests.helpers.checkouts import copy_tiny

KEPT = "7d"
STAGES = ["augment@digits"]


class Month:
    """A checkout with its Prefect server, and what lies where."""

    def __init__(self, folder: Path) -> None:
        self.root, self.home, self.temporary = folder / "checkout", folder / "prefect", folder / "tmp"
        for path in (self.root, self.temporary):
            path.mkdir()
        with socket.create_server((server.HOST, 0)) as free:
            self.port = free.getsockname()[1]
        self.env = {
            **environment(folder),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": f"http://{server.HOST}:{self.port}/api",
        }
        self.database = self.home / "prefect.db"

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd or self.root, env={**self.env, **env}, text=True, check=True, stdout=subprocess.PIPE
        )

    def night(self, number: int, days_ago: float) -> None:
        date, start = f"{int(time.time() - days_ago * DAY)} +0000", time.time()
        runs = self._runs()
        command = ["gridflow", "run", "--isolated", "--name", f"night-{number:02}"]
        settings = ["--set", "augment.digits.copies=1", "--set", f"augment.digits.seed={number}"]
        self.run(*command, *settings, *STAGES, GIT_COMMITTER_DATE=date)
        folders = (self.root / ".dvc" / "cache", self.root / ".gridflow")
        age_files(
            [path for folder in folders for path in folder.rglob("*") if path.lstat().st_ctime >= start], days_ago
        )
        age_runs(self.database, days_ago, names=sorted(self._runs() - runs))

    def _runs(self) -> set[str]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM flow_run")}

    def sizes(self) -> dict[str, int]:
        cache = self.root / ".dvc" / "cache"
        experiments = self.run("git", "for-each-ref", "refs/exps").stdout.splitlines()
        return {
            "DVC's cache: results": size_of(cache / "files"),
            "DVC's cache: notes on runs": size_of(cache / "runs"),
            "experiments": len(experiments),
            ".gridflow": size_of(self.root / ".gridflow"),
            ".git": size_of(self.root / ".git"),
            "Prefect's database": sum(path.stat().st_size for path in self.home.glob("prefect.db*")),
            "the rest of Prefect's folder": size_of(self.home)
            - sum(path.stat().st_size for path in self.home.glob("prefect.db*")),
            "temporary folder": size_of(self.temporary),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.month", description=__doc__)
    parser.add_argument("--nights", type=int, default=30, help="how many [30]")
    nights = parser.parse_args().nights
    folder = Path(tempfile.mkdtemp(prefix="month-"))
    month = Month(folder)
    print(f"The checkout is {month.root}; it stays if something fails.", flush=True)
    copy_tiny(month.root, month.run, ROOT)
    os.environ |= {"PREFECT_HOME": str(month.home), "TMPDIR": str(month.temporary)}
    process = server.start_server(port=month.port)
    try:
        measure(month, nights)
    finally:
        process.terminate()
        process.wait(timeout=30)
    shutil.rmtree(folder)


def measure(month: Month, nights: int) -> None:
    month.run("gridflow", "run", "train@digits")
    month.run("gridflow", "champions", "promote", "digits", "--reason", "the first")
    columns = {"first day": month.sizes()}
    for number in range(1, nights + 1):
        month.night(number, nights - number)
        print(f"night {number} of {nights}", flush=True)
    columns[f"after {nights} nights"] = month.sizes()
    start = time.monotonic()
    print(month.run("gridflow", "clean", "--older-than", KEPT).stdout)
    print(f"gridflow clean --older-than {KEPT}: {time.monotonic() - start:.0f} s")
    columns["after gridflow clean"] = month.sizes()
    print(month.run("gridflow", "champions", "fetch", "digits").stdout)
    month.run("dvc", "checkout", "data/models/digits")
    print("| | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for name in columns["first day"]:
        values = [str(sizes[name]) if name == "experiments" else in_bytes(sizes[name]) for sizes in columns.values()]
        print(f"| {name} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main()
