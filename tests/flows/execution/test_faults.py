"""Processes killed in mid-run, and locks left behind: the next run (or attempt) goes on without anybody cleaning up."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.repository.git import git
from tests.helpers.served import wait_until
from tests.helpers.trials import Trial, make_trial

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.slow]


@pytest.fixture
def trial(small: Path, environment: dict[str, str], run: Callable, repository: Path, server: str) -> Trial:
    make_trial(small, run, repository)
    return Trial(small, {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": server})


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


# Ray gets no time to start in the first attempt, and its usual time in the next.
RAY_TOO_SLOW = """
import os, pathlib
from tasks.engine import events
from tasks.engine.cluster import ray_cluster
from tasks.engine.runtime import load_runtime

def main():
    attempts = pathlib.Path(os.environ["FAULT_LOG"])
    with attempts.open("a") as log:
        log.write("attempt\\n")
    if attempts.read_text() == "attempt\\n":
        os.environ["RAY_gcs_server_port_wait_time_s"] = "0"
    with ray_cluster(load_runtime()):
        pathlib.Path("model.txt").write_text("trained")

events.run_stage(main)
"""


def test_a_ray_that_is_too_slow_to_start_is_started_again(trial: Trial, run: Callable, faults: Callable) -> None:
    (trial.root / "train.py").write_text(RAY_TOO_SLOW)
    trial.log.unlink(missing_ok=True)
    (trial.root / "dvc.yaml").write_text(
        "stages: {train: {cmd: python train.py, outs: [model.txt], meta: {retries: 1}}}"
    )
    run("git", "commit", "-qam", "Ray", cwd=trial.root)
    output = trial.finish(trial.flow())
    assert "transient: Ray did not start on this machine" in output
    assert trial.starts() == ["attempt", "attempt"]
    assert (trial.root / "model.txt").read_text() == "trained"
    faults("a start of Ray that took too long", "second attempt of the same run", 0)
