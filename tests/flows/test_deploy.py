"""``make ui``: the deployment is served, a run of it starts from the server, and cancelling it ends every process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
API = "http://127.0.0.1:4287/api"
SLEEP = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)']).wait()"


@pytest.fixture
def served(small: Path, environment: dict[str, str], repository: Path) -> Iterator[Path]:
    """The small repository with its pipeline served; ended by Ctrl-C, as a person does."""
    env = {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": API}
    process = subprocess.Popen([sys.executable, "-m", "flows.deploy", "--port", "4287"], cwd=small, env=env)
    wait_until(lambda: bool(deployments()), 300)
    yield small
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


def test_a_run_from_the_server_works_and_can_be_cancelled(served: Path, run: Callable) -> None:
    parameters = deployments()[0]["parameter_openapi_schema"]["properties"]
    assert {"stages", "recipe", "overrides"} == set(parameters)

    done = start({"stages": ["first"]})
    wait_until(lambda: state(done)["type"] in ("COMPLETED", "FAILED", "CRASHED"), 300)
    assert state(done)["type"] == "COMPLETED", state(done)
    assert (served / "first.txt").exists()

    (served / "append.py").write_text(SLEEP)
    (served / "source.txt").write_text("changed")
    running = start({"stages": ["first"]})
    wait_until(lambda: bool(sleepers()), 300)
    ask(f"flow_runs/{running}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: state(running)["type"] == "CANCELLED", 300)
    wait_until(lambda: not sleepers(), 20)
    assert (served / "first.txt").exists()  # what the earlier run made is back


def sleepers() -> list[psutil.Process]:
    return [
        one for one in psutil.process_iter(["cmdline"]) if "import time; time.sleep(987)" in (one.info["cmdline"] or [])
    ]


def deployments() -> list[dict]:
    try:
        return ask("deployments/filter", {})
    except OSError:
        return []


def start(parameters: dict) -> str:
    deployment = deployments()[0]["id"]
    return ask(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]


def state(flow_run: str) -> dict:
    return ask(f"flow_runs/{flow_run}")["state"]


def ask(path: str, body: dict | None = None) -> list | dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{API}/{path}", data, {"Content-Type": "application/json"})
    for _ in range(10):
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:  # SQLite is busy on a busy machine
            if error.code != 503:
                raise
            time.sleep(1)
    raise AssertionError(f"{path}: the server stays unavailable")


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)
