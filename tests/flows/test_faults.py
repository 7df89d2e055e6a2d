"""Processes killed in mid-run, and locks left behind: the next run (or attempt) goes on without anybody cleaning up."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.git import git

pytestmark = pytest.mark.slow
FIRST = """
import os, pathlib
pathlib.Path("first.txt").write_text("1")
open(os.environ["FAULT_LOG"], "a").write("first\\n")
"""
# Five epochs, gone on with from a state of its own; with the file `hold` there it waits after the second.
TRAIN = """
import os, pathlib, time
from tasks import events

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
        """A flow whose training is held after its second epoch."""
        self.hold.touch()
        process = self.flow(*arguments)
        wait_until(lambda: self.state.exists() and self.state.read_text() == "2" and bool(self.working("train.py")))
        return process

    def flow(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "flows.pipeline", *arguments]
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


@pytest.fixture
def trial(small: Path, environment: dict[str, str], run: Callable, repository: Path, server: str) -> Trial:
    (small / "first.py").write_text(FIRST)
    (small / "train.py").write_text(TRAIN)
    (small / "dvc.yaml").write_text(DVC_YAML)
    shutil.copy(repository / "runtime.yaml", small)
    run("git", "add", ".", cwd=small)
    run("git", "commit", "-qm", "train", cwd=small)
    return Trial(small, {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": server})


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_flow(trial: Trial, faults: Callable) -> None:
    flow = trial.start()
    flow.kill()
    flow.wait()
    wait_until(lambda: not trial.working("train.py"))  # it notices, and ends itself
    trial.finish(trial.flow())
    assert trial.starts() == ["first", "train from 0", "train from 2"]
    assert (trial.root / "model.txt").read_text() == "15"
    faults("kill -9 of the flow", "next run: from the last epoch, finished stage not run", 0)


def test_a_killed_isolated_flow(trial: Trial, faults: Callable) -> None:
    flow = trial.start("--isolated", "--name", "killed")
    orphans = trial.working("dvc")
    flow.kill()
    flow.wait()
    wait_until(lambda: not trial.working("train.py"))
    assert [path.name for path in (trial.root / ".gridflow/worktrees").glob("*/")] == ["killed"]
    trial.finish(trial.flow("--isolated", "--name", "after"))
    assert trial.starts() == ["first", "train from 0", "train from 2"]
    assert not list((trial.root / ".gridflow/worktrees").iterdir())
    assert git(trial.root, "worktree", "list").count("\n") == 0
    assert not [process for process in orphans if process.is_running()]
    assert git(trial.root, "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps") == "after"
    faults("kill -9 of an isolated flow", "next run: worktree swept, stages from the cache", 0)


@pytest.mark.parametrize(("word", "said"), [("dvc", "DVC was ended by SIGKILL"), ("train.py", "process was killed")])
def test_a_killed_process_of_a_stage(trial: Trial, faults: Callable, word: str, said: str) -> None:
    flow = trial.start()
    held = trial.working("train.py")
    for process in trial.working(word):
        if word == "train.py" or "train" in process.cmdline():
            process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(held, timeout=60)
    assert not alive  # the next attempt meets no copy of the stage
    told = trial.finish(flow)
    assert said in told
    assert ("micro-batch of 8" in told) == (word == "train.py")  # a killed stage counts as out of memory
    assert trial.starts() == ["first", "train from 0", "train from 2"]
    assert (trial.root / "model.txt").read_text() == "15"
    faults(f"kill -9 of {'dvc' if word == 'dvc' else 'the stage'} in mid-run", "second attempt of the same run", 0)


def test_a_lock_with_the_number_of_a_living_process(trial: Trial, run: Callable, faults: Callable) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    info = {"pid": stranger.pid, "cmd": "/usr/bin/dvc repro"}
    outputs = [str(trial.root / name) for name in ("first.txt", "model.txt")]
    lock = trial.root / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(json.dumps({"write": dict.fromkeys(outputs, info), "read": {str(trial.root / "first.py"): [info]}}))
    try:
        blocked = run("dvc", "repro", cwd=trial.root, code=None)
        assert "is busy" in blocked.stderr  # DVC alone stays blocked
        said = trial.finish(trial.flow())
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert "a lock that nobody holds any more was removed: /usr/bin/dvc repro" in said
    assert trial.starts() == ["first", "train from 0"]
    faults("DVC's lock of a dead process, its number in use again", "next run: lock removed", 0)
