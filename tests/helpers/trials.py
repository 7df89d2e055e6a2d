"""A small real repository whose training can be held in mid-run, to kill what works on it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.helpers.served import wait_until

FIRST = """
import os, pathlib
pathlib.Path("first.txt").write_text("1")
open(os.environ["FAULT_LOG"], "a").write("first\\n")
"""
# Trains five epochs, and resumes from a state of its own. It waits after the second while the file `hold` exists.
TRAIN = """
import os, pathlib, time
from tasks.engine import events

def main():
    state, hold = pathlib.Path(os.environ["FAULT_STATE"]), pathlib.Path(os.environ["FAULT_HOLD"])
    done = int(state.read_text()) if state.exists() else 0
    with open(os.environ["FAULT_LOG"], "a") as log:
        log.write(f"train from {done}\\n")
    for epoch in range(done + 1, 6):
        state.write_text(str(epoch))
        while epoch == 2 and hold.exists():
            time.sleep(0.1)
    pathlib.Path("model.txt").write_text(pathlib.Path("first.txt").read_text() + "5")

events.run_stage(main)
"""
DVC_YAML = """
stages:
  first:
    cmd: python first.py
    deps: [first.py]
    outs: [first.txt]
  train:
    cmd: python train.py
    deps: [first.txt]
    outs: [model.txt]
    meta: {retries: 1}
"""


class Trial:
    """A repository whose training can be held in mid-run, to kill what works on it."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root, self.log, self.state, self.hold = root, *(root.parent / name for name in ("log", "state", "hold"))
        self.env = {
            **environment,
            **{f"FAULT_{name.upper()}": str(getattr(self, name)) for name in ("log", "state", "hold")},
        }

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start a flow, whose training is held after its second epoch."""
        self.hold.touch()
        process = self.flow(*arguments)
        self.wait_until_held()
        return process

    def wait_until_held(self) -> None:
        """Wait until the training is held after its second epoch."""
        wait_until(lambda: self.state.exists() and self.state.read_text() == "2" and bool(self.working("train.py")))

    def flow(self, *arguments: str) -> subprocess.Popen:
        """Start ``gridflow run``."""
        command = ["gridflow", "run", *arguments]
        return subprocess.Popen(command, cwd=self.root, env=self.env, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)  # fmt: skip

    def working(self, word: str) -> list[psutil.Process]:
        """The processes of this repository with that word in their command."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if word in process.cmdline() and Path(process.cwd()).is_relative_to(self.root):
                    found.append(process)
        return found

    def finish(self, process: subprocess.Popen) -> str:
        self.hold.unlink(missing_ok=True)
        said = process.communicate(timeout=500)[0]
        assert process.returncode == 0, said
        return said

    def starts(self) -> list[str]:
        return self.log.read_text().splitlines()


def make_trial(small: Path, run: Callable, repository: Path) -> None:
    """Turn the small repository into one of first -> train."""
    (small / "first.py").write_text(FIRST)
    (small / "train.py").write_text(TRAIN)
    (small / "dvc.yaml").write_text(DVC_YAML)
    shutil.copy(repository / "runtime.yaml", small)
    run("git", "add", ".", cwd=small)
    run("git", "commit", "-qm", "train", cwd=small)
