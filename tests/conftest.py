"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

# A slow example on a busy machine is no fault.
hypothesis.settings.register_profile("gridflow", deadline=None)
hypothesis.settings.load_profile("gridflow")

FAULTS = pytest.StashKey[list[list[Any]]]()


@pytest.fixture(scope="session")
def faults(request: pytest.FixtureRequest) -> Callable[[str, str, int], None]:
    """``faults(what was injected, how the run recovered, results lost)``: shown in a table after the last test."""
    return lambda *row: request.config.stash[FAULTS].append(list(row))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the noted faults from one of several processes to the first."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = session.config.stash[FAULTS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    node.config.stash[FAULTS] += getattr(node, "workeroutput", {}).get("faults", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[FAULTS]
    if not rows:
        return
    terminalreporter.section("faults")
    for fault, recovered, lost in [("fault injected", "recovered by", "lost"), *rows]:
        terminalreporter.line(f"{fault:<58}{recovered:<58}{lost:>4}")
    lost = sum(lost for *_, lost in rows)
    terminalreporter.line(f"{len(rows)} faults injected, {len(rows)} runs recovered, {lost} results lost")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout under test."""
    return ROOT


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For commands under test: this checkout's `gridflow` and this interpreter first, a Prefect home of their own."""
    commands = tmp_path_factory.mktemp("bin")
    (commands / "gridflow").write_text(f"#!{sys.executable}\n{(ROOT / 'flows' / 'launcher.py').read_text()}")
    (commands / "gridflow").chmod(0o755)
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(commands), str(BIN), os.environ["PATH"]]),
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "GIT_AUTHOR_NAME": "Test",
        "GIT_AUTHOR_EMAIL": "test@example.com",
        "GIT_COMMITTER_NAME": "Test",
        "GIT_COMMITTER_EMAIL": "test@example.com",
    }


@pytest.fixture(scope="session")
def run(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run("dvc", "status", cwd=...)``: a command's result with both outputs; ``code=None`` allows any exit code."""

    def call(*command: str, cwd: Path, code: int | None = 0, timeout: float = 500, **env: str):
        done = subprocess.run(
            command, cwd=cwd, env={**environment, **env}, text=True, capture_output=True, timeout=timeout, check=False
        )
        assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call
