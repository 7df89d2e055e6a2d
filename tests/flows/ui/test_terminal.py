"""A run that a person starts and stops at a terminal: its temporary server, Ctrl-C to all of its processes, a server
that goes away."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.ui.server import start_server
from flows.ui.terminal import INTERRUPTED
from tests.helpers.served import wait_until

pytestmark = [pytest.mark.xdist_group("terminal"), pytest.mark.slow]
END_S = 10.0
STAGE = """
import subprocess, sys, time
from tasks.engine import events
def main():
    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(986)'], start_new_session=True)
    time.sleep(986)
events.run_stage(main)
"""


class Run:
    """``gridflow run`` as the leader of a process group, as a shell starts it, with a server of its own."""

    def __init__(self, root: Path, environment: dict[str, str], repository: Path) -> None:
        env = {**environment, "PYTHONPATH": str(repository)}
        env.pop("PREFECT_API_URL", None)
        self.output = root.parent / "output"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                ["gridflow", "run"], cwd=root, env=env, stdout=file, stderr=file, start_new_session=True
            )

    def wait_for_the_stage(self) -> list[psutil.Process]:
        """The run's descendants, once its stage's child sleeps."""
        family: list[psutil.Process] = []

        def sleeps() -> bool:
            family[:] = psutil.Process(self.process.pid).children(recursive=True)
            return any("time.sleep(986)" in " ".join(one.cmdline()) for one in family if one.is_running())

        wait_until(sleeps, 200)
        assert any("temporary_server.py" in " ".join(one.cmdline()) for one in family)
        return family


def replace_first(small: Path, command: str) -> None:
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(text.replace("python append.py source.txt first.txt 1", command))


@pytest.fixture
def started(small: Path, environment: dict[str, str], repository: Path) -> Iterator[Run]:
    (small / "sleep.py").write_text(STAGE)
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(
        text.replace("cmd: python append.py source.txt first.txt 1", "cmd: python sleep.py")
    )
    run = Run(small, environment, repository)
    yield run
    run.process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_one_sentence_and_the_end_of_all(started: Run, number: int) -> None:
    family = started.wait_for_the_stage()
    before = started.output.read_text()
    began = time.monotonic()
    os.killpg(started.process.pid, number)
    assert started.process.wait(timeout=60) == 130
    took = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=10)
    output = started.output.read_text().removeprefix(before).strip()
    print(f"ended after {took:.1f} s: {output}")
    assert output == INTERRUPTED
    assert not alive, [process.cmdline() for process in alive]
    assert took < END_S * (3 if os.getloadavg()[0] > 2 * os.cpu_count() else 1)


def test_a_killed_run_takes_its_server_along(started: Run) -> None:
    family = started.wait_for_the_stage()
    started.process.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, [process.cmdline() for process in alive]


def test_a_server_that_goes_away_costs_seconds_and_not_the_table(
    small: Path, environment: dict[str, str], repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small / "wait.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('begun').touch()\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.1)\n"
        "pathlib.Path('first.txt').write_text('1')\n"
    )
    replace_first(small, "python wait.py")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start_server(port=port)
    env = {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    run = subprocess.Popen(
        ["gridflow", "run"], cwd=small, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        wait_until(lambda: (small / "begun").exists(), 200)
        server.kill()
        server.wait()
        began = time.monotonic()
        (small / "go").touch()
        output = run.communicate(timeout=300)[0]
    finally:
        run.kill()
        server.kill()
    took = time.monotonic() - began
    print(f"ended {took:.1f} s after the server went away\n{output[-3000:]}")
    assert run.returncode == 0
    assert "last                    done" in output
    assert "the Prefect server does not answer" in output
    assert (small / "last.txt").exists()
    assert took < 60 * (3 if os.getloadavg()[0] > 2 * os.cpu_count() else 1)
