"""A stage's process whose starter, or which itself, is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.paths import ROOT
from tests.helpers.served import wait_until

STAGE = """
import os, pathlib, tempfile, time
from tasks.engine import events

def main():
    pathlib.Path(tempfile.mkdtemp(), "large").write_text("x")
    pathlib.Path("begun").write_text(str(os.getpid()))
    time.sleep(float(os.environ["STAGE_S"]))

events.run_stage(main)
"""
# What DVC does: it starts a shell, which becomes the command or, where more follows, starts it.
STARTER = "import subprocess, sys; subprocess.run(['/bin/sh', '-c', sys.argv[1]])"


def environment(tmp_path: Path, seconds: float, **more: str) -> dict[str, str]:
    (tmp_path / "stage.py").write_text(STAGE)
    temporary = tmp_path / "t"
    temporary.mkdir(exist_ok=True)
    others = {key: value for key, value in os.environ.items() if not key.startswith(("GRIDFLOW", "DVC"))}
    return {**others, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "STAGE_S": str(seconds), **more}


def begun(tmp_path: Path) -> psutil.Process:
    wait_until(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text())
    return psutil.Process(int((tmp_path / "begun").read_text()))


@pytest.mark.parametrize("more", ["", "; true"], ids=["shell replaced", "shell between"])
def test_a_stage_ends_with_the_dvc_that_was_killed(tmp_path: Path, more: str) -> None:
    env = environment(tmp_path, 60, DVC_ROOT=str(tmp_path))
    command = [sys.executable, "-c", STARTER, f"{sys.executable} stage.py{more}"]
    starter = subprocess.Popen(command, cwd=tmp_path, env=env)
    stage = begun(tmp_path)
    try:
        time.sleep(1.5)
        assert stage.is_running()  # while its starter lives
        starter.kill()
        starter.wait()
        psutil.wait_procs([stage], timeout=10)
        assert not stage.is_running()
    finally:
        if stage.is_running():
            stage.kill()


def test_the_temporary_files_of_a_killed_stage_go_with_the_next(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "stage.py"], cwd=tmp_path, env=environment(tmp_path, 60))
    begun(tmp_path)
    process.kill()
    process.wait()
    assert list((tmp_path / "t").rglob("large"))
    subprocess.run([sys.executable, "stage.py"], cwd=tmp_path, env=environment(tmp_path, 0), check=True)
    assert not list((tmp_path / "t").iterdir())
