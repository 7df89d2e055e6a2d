"""The flow on a small real DVC repository, with a real Prefect server."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

FAILS = "import json, os, pathlib, sys; pathlib.Path(os.environ['GRIDFLOW_RUN_DIR'], 'failure.json').write_text(json.dumps(dict(kind=sys.argv[1], message=sys.argv[2]))); sys.exit(1)"  # noqa: E501


@pytest.fixture
def flow(small: Path, run: Callable, repository: Path, server: str) -> Callable:
    def call(*arguments: str, code: int | None = 0):
        return run("python", "-m", "flows.pipeline", *arguments, cwd=small, code=code,
                   PYTHONPATH=str(repository), PREFECT_API_URL=server)  # fmt: skip

    return call


def task_runs(server: str) -> list[dict]:
    """The newest flow run's task runs, by the server's own word."""
    flow_run = ask(f"{server}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    wanted = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
    return ask(f"{server}/task_runs/filter", wanted)


def ask(url: str, body: dict) -> list[dict]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def make_fail(small: Path, stage: str, kind: str, message: str) -> None:
    (small / "fail.py").write_text(FAILS)
    text = (small / "dvc.yaml").read_text()
    line = next(line for line in text.splitlines() if f"{stage}.txt {stage[0]}" in line)
    (small / "dvc.yaml").write_text(text.replace(line, f'    cmd: python fail.py {kind} "{message}"'))


def test_both_doors_recognise_each_others_work(flow: Callable, small: Path, run: Callable, server: str) -> None:
    done = flow()
    assert "4 stages ran, 0 were up to date" in done.stdout + done.stderr
    assert (small / "last.txt").read_text() == "source1lx"
    assert "up to date" in run("dvc", "status", cwd=small).stdout
    (small / "source.txt").write_text("other")
    run("dvc", "repro", cwd=small)
    flow()
    states = {run["name"]: run["state_name"] for run in task_runs(server)}
    assert states == dict.fromkeys(("first", "left", "right", "last"), "Cached")


def test_a_named_stage_runs_with_what_it_needs_and_no_more(flow: Callable, small: Path) -> None:
    flow("left")
    assert (small / "left.txt").exists()
    assert not (small / "right.txt").exists()


def test_a_failure_is_told_in_its_sentence_and_takes_only_its_downstream(
    flow: Callable, small: Path, server: str
) -> None:
    flow()
    make_fail(small, "right", "user", "the flag is at half mast")
    (small / "source.txt").write_text("new")
    done = flow(code=1)
    assert "right failed (user): the flag is at half mast" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (small / "left.txt").read_text() == "new1l"  # the sibling finished
    assert (small / "right.txt").read_text() == "source1r"  # the former output is back
    assert (small / "last.txt").read_text() == "source1lx"  # downstream did not start
    runs = {run["name"]: run for run in task_runs(server)}
    assert runs["right"]["state"]["message"] == "user: the flag is at half mast"
    assert runs["right"]["run_count"] == 1  # a person has to mend it: no retry
    assert runs["last"]["state_name"] == "NotReady"
    flow_run = ask(f"{server}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    assert flow_run["state"]["message"] == "right failed (user): the flag is at half mast"


def test_what_can_heal_is_tried_again(flow: Callable, small: Path, server: str) -> None:
    make_fail(small, "right", "transient", "the line was cut")
    flow(code=1)
    assert {run["name"]: run["run_count"] for run in task_runs(server)}["right"] == 2  # retries: 1 in dvc.yaml


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_flow_leaves_no_process(
    small: Path, environment: dict[str, str], repository: Path, server: str, number: int
) -> None:
    (small / "sleep.py").write_text(
        "import subprocess, sys, time\n"
        "from tasks import events\n"
        "def main():\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)'], start_new_session=True)\n"
        "    time.sleep(987)\n"
        "events.run_stage(main)\n"
    )
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(
        text.replace("cmd: python append.py source.txt first.txt 1", "cmd: python sleep.py")
    )
    env = {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": server}
    command = [sys.executable, "-m", "flows.pipeline"]
    flow = subprocess.Popen(command, cwd=small, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    family = wait_for_sleepers(flow.pid)
    flow.send_signal(number)
    flow.wait(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=15)
    for process in alive:
        process.kill()
    assert not alive, [process.cmdline() for process in alive]


def wait_for_sleepers(pid: int) -> list[psutil.Process]:
    """The flow's descendants, once the stage and its own child sleep."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        family = psutil.Process(pid).children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):  # one of them has just ended (a zombie is such a one too)
            if sum("987" in " ".join(process.cmdline()) for process in family) == 1:
                return family
        time.sleep(0.2)
    raise AssertionError("the stage did not start")


def test_without_a_server_it_starts_one_for_itself(small: Path, run: Callable, repository: Path) -> None:
    done = run("python", "-m", "flows.pipeline", "first", cwd=small, PYTHONPATH=str(repository))
    assert "temporary server" in done.stdout + done.stderr
    assert (small / "first.txt").exists()
