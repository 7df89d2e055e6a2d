"""What may be cleared away after a crash and what must stay; what kind of failure it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from cnn_core.locks import HOLD
from flows.execution.failures import BACK_OFF, kind_of_failure, smaller_batch
from flows.repository.graph import StageNode
from flows.repository.leftovers import KEPT_RUNS, clear_leftovers, end_orphans, end_stage, new_run_folder, sweep_rwlock
from flows.repository.parameters import CANDIDATE

pytestmark = pytest.mark.xdist_group("leftovers")

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def plant(root: Path, *infos: dict) -> Path:
    path = root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"write": {f"/out/{n}": info for n, info in enumerate(infos)}, "read": {"/in": [*infos]}})
    )
    return path


def test_a_lock_of_a_number_borne_by_another_is_removed(tmp_path: Path, sleeper: subprocess.Popen) -> None:
    mine = {"pid": os.getpid(), "cmd": " ".join(psutil.Process().cmdline())}  # sys.argv is not it under xdist
    path = plant(tmp_path, {"pid": sleeper.pid, "cmd": "/env/bin/dvc repro"}, mine)
    assert sweep_rwlock(tmp_path) == [f"/env/bin/dvc repro (process {sleeper.pid})"]
    assert json.loads(path.read_text()) == {"write": {"/out/1": mine}, "read": {"/in": [mine]}}
    assert sweep_rwlock(tmp_path) == []


def test_a_lock_of_a_living_dvc_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)", "dvc", "repro"]
    living = subprocess.Popen(command)
    try:
        info = {"pid": living.pid, "cmd": "/env/lib/dvc/__main__.py time.sleep(600) dvc repro"}
        plant(tmp_path, info)
        assert sweep_rwlock(tmp_path) == []
    finally:
        living.kill()
        living.wait()
    assert len(sweep_rwlock(tmp_path)) == 1


def test_a_clock_that_was_set_frees_no_lock(tmp_path: Path, sleeper: subprocess.Popen) -> None:
    """The file of locks then seems older, or younger, than the process that wrote it."""
    path = plant(tmp_path, {"pid": sleeper.pid, "cmd": "sleep 600"})
    for step in (-400 * 86400, -3600, 3600):
        os.utime(path, (time.time() + step, time.time() + step))
        assert sweep_rwlock(tmp_path) == []


def test_another_dvc_of_that_number_holds_it_only_in_this_repository(tmp_path: Path) -> None:
    (tmp_path / "dvc").write_text("import time; time.sleep(600)")
    (tmp_path / "repository").mkdir()
    for folder, removed in ((tmp_path, 1), (tmp_path / "repository", 0)):
        living = subprocess.Popen([sys.executable, str(tmp_path / "dvc"), "pull"], cwd=folder)
        try:
            time.sleep(0.5)  # until it has become what it is
            path = plant(tmp_path / "repository", {"pid": living.pid, "cmd": "/env/bin/dvc repro"})
            assert len(sweep_rwlock(tmp_path / "repository")) == removed
            path.unlink()
        finally:
            living.kill()
            living.wait()


def test_a_half_written_file_of_locks_is_removed(tmp_path: Path) -> None:
    path = plant(tmp_path)
    path.write_text('{"write": {"/ou')
    assert sweep_rwlock(tmp_path) == ["a file of locks that was not written to its end"]
    assert not path.exists()
    assert sweep_rwlock(tmp_path) == []


def test_orphans_are_ended_and_stages_of_living_flows_are_not(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder = tmp_path / ".gridflow" / "runs" / "one" / "train"

    def start(runner: int, where: Path) -> subprocess.Popen:
        env = {**os.environ, "GRIDFLOW_RUNNER_PID": str(runner), "GRIDFLOW_RUN_DIR": str(where)}
        return subprocess.Popen(SLEEP, env=env, start_new_session=True)

    elsewhere = tmp_path / "other" / ".gridflow" / "runs" / "one" / "train"
    orphan, living, other = start(dead.pid, folder), start(os.getpid(), folder), start(dead.pid, elsewhere)
    time.sleep(0.5)  # until they have become what they are
    try:
        assert [process.pid for process in end_orphans(tmp_path)] == [orphan.pid]
        assert orphan.wait(timeout=20) == -9
        assert (living.poll(), other.poll()) == (None, None)
        assert [process.pid for process in end_stage(folder)] == [living.pid]
        assert other.poll() is None
    finally:
        for process in (orphan, living, other):
            process.kill()
            process.wait()


def test_new_parameters_that_a_killed_run_left_are_removed(tmp_path: Path) -> None:
    left, persons = tmp_path / f"{CANDIDATE}x", tmp_path / f"{CANDIDATE}mine"
    for folder in (left, persons):
        folder.mkdir()
        (folder / "params.yaml").write_text("")
    (left / HOLD).write_text("")
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [persons.name]


@pytest.mark.parametrize(
    ("code", "tail", "kind"),
    [
        (-9, [], "transient"),
        (255, ["ERROR: failed to reproduce 'a': failed to run: python a.py, exited with -9"], "oom"),
        (255, ["ERROR: failed to reproduce 'a': failed to run: sh a.sh, exited with 137"], "oom"),
        (255, ["ERROR: failed to reproduce 'a': failed to run: python a.py, exited with -15"], "transient"),
        (255, ["ERROR: failed to reproduce 'a': failed to run: python a.py, exited with -11"], "bug"),
        (255, ["ERROR: 'a.txt' is busy, it is being blocked by:", "  (PID 7): dvc repro"], "transient"),
        (255, ["ERROR: failed to reproduce 'a': failed to run: python a.py, exited with -7"], "user"),
        (255, ["ERROR: unexpected error - [Errno 28] No space left on device: 'x'"], "user"),
        (255, ["ERROR: unexpected error - database or disk is full"], "user"),
        (255, ["ERROR: unexpected error - 'utf-8' codec can't encode: surrogates not allowed"], "user"),
        (255, ["killed the noise in 12 images", "ERROR: failed to run: python a.py, exited with 1"], "bug"),
    ],
)
def test_kinds_of_failure(tmp_path: Path, code: int, tail: list[str], kind: str) -> None:
    assert kind_of_failure(tmp_path, code, tail)[0] == kind


@pytest.mark.parametrize(("running", "kind"), [(True, "transient"), (False, "bug")])
def test_a_stage_that_vanished_while_it_had_a_ray_is_tried_again(tmp_path: Path, running: bool, kind: str) -> None:
    events = [
        {"event": "ray", "running": True},
        {"event": "progress"},
        *([] if running else [{"event": "ray", "running": False}]),
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    line = "ERROR: failed to reproduce 'a': failed to run: python a.py, exited with 1"
    assert kind_of_failure(tmp_path, 255, [line])[0] == kind


def test_old_run_folders_go_and_what_a_person_put_there_stays(tmp_path: Path) -> None:
    runs = tmp_path / ".gridflow" / "runs"
    for number in range(KEPT_RUNS + 2):
        folder = runs / f"run-{number}"
        folder.mkdir(parents=True)
        (folder / HOLD).write_text("")
        for path in (folder / HOLD, folder):
            os.utime(path, (time.time() - (10 + number) * 86400,) * 2)
    (runs / "mine").mkdir()
    os.utime(runs / "mine", (0, 0))
    assert new_run_folder(tmp_path) == runs / "local"
    assert {path.name for path in runs.iterdir()} == {"mine", "local", *(f"run-{n}" for n in range(KEPT_RUNS - 1))}


def test_what_the_stage_told_goes_first(tmp_path: Path) -> None:
    (tmp_path / "failure.json").write_text(json.dumps({"kind": "user", "message": "no such file"}))
    assert kind_of_failure(tmp_path, 255, ["exited with -9"]) == ("user", "no such file")


def test_a_stage_out_of_memory_gets_half_the_batch(tmp_path: Path, repository: Path, monkeypatch) -> None:
    monkeypatch.delenv("GRIDFLOW_MICRO_BATCH", raising=False)
    runtime = yaml.safe_load((repository / "runtime.yaml").read_text())

    def half(stage: str, last: int | None = None, **changes: object) -> int | None:
        (tmp_path / "runtime.yaml").write_text(yaml.safe_dump(runtime | changes))
        return smaller_batch(tmp_path, node(stage), last)

    (tmp_path / "params.yaml").write_text(
        "train: {digits: {batch_size: 64}}\ntrain_detector: {one: {batch: 32}}\ndetect: {one: {}}\n"
    )
    assert [half("train@digits"), half("train_detector@one"), half("detect@one")] == [32, 16, 8]
    assert [half("train@digits", 32), half("train@digits", 1)] == [16, None]
    assert half("train@digits", micro_batch=10) == 5
    assert half("train@digits", oom_smaller_batch=False) is None
    assert BACK_OFF(3) == [2.0, 4.0, 8.0]


def node(name: str) -> StageNode:
    nothing = dict.fromkeys(("upstream", "inputs", "outputs", "metrics", "foreign"), ())
    return StageNode(name=name, description="", retries=1, cpus=1, stale=True, reason="", **nothing)
