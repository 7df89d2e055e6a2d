"""A small real DVC repository with stages of one line, to try the flow in seconds."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent

import pytest
import yaml

from flows.ui import server as prefect_server
from tests.helpers.checkouts import copy_tiny

APPEND = (
    "import sys, pathlib; pathlib.Path(sys.argv[2]).write_text(pathlib.Path(sys.argv[1]).read_text() + sys.argv[3])"
)
DVC_YAML = """
stages:
  first:
    cmd: python append.py source.txt first.txt 1
    deps: [source.txt]
    outs: [first.txt]
  left:
    cmd: python append.py first.txt left.txt l
    deps: [first.txt]
    outs: [left.txt]
  right:
    cmd: python append.py first.txt right.txt r
    deps: [first.txt, right.flag]
    outs: [right.txt]
    meta: {retries: 1}
  last:
    cmd: python append.py left.txt last.txt x
    deps: [left.txt, right.txt]
    outs: [last.txt]
"""


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Let the processes that tests start hear Ctrl-C.

    A shell's background jobs ignore it, and so would the children of tests that run in the background.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small(tmp_path: Path, make_small: Callable[[Path], Path]) -> Path:
    """A committed repository with the stages first -> (left, right) -> last."""
    return make_small(tmp_path / "small")


@pytest.fixture(scope="session")
def make_small(run: Callable, repository: Path) -> Callable[[Path], Path]:
    """Make such a repository."""

    def make(root: Path) -> Path:
        root.mkdir(exist_ok=True)
        run("git", "init", "-q", cwd=root)
        run("dvc", "init", "-q", cwd=root)
        for package in ("tasks", "cnn_core"):
            (root / package).symlink_to(repository / package)
        (root / "append.py").write_text(APPEND)
        (root / "dvc.yaml").write_text(DVC_YAML)
        report = yaml.safe_load((repository / "params.yaml").read_text())["report"]  # checked as any stage's section
        more = yaml.safe_dump({key: value for key, value in report.items() if key != "title"}, indent=2)
        (root / "params.yaml").write_text("report:\n  title: small  # a comment that stays\n" + indent(more, "  "))
        (root / "source.txt").write_text("source")
        (root / "right.flag").write_text("")
        (root / ".gitignore").write_text("/tasks\n/cnn_core\n/.gridflow\n")
        run("git", "add", ".", cwd=root)
        run("git", "commit", "-qm", "small", cwd=root)
        return root

    return make


@pytest.fixture(scope="session")
def make_tiny(run: Callable, repository: Path) -> Callable[[Path], Path]:
    """Make a copy of this checkout as it is, with the tiny recipe, committed in a repository of its own."""

    return lambda root: copy_tiny(root, run, repository)


@pytest.fixture(scope="session")
def checkout(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run: Callable, make_tiny: Callable
) -> Path:
    """Such a copy, after a ``dvc repro``.

    The slow and nightly tests, called alone, let DVC take from its cache the results of the tests before them.
    """
    root = make_tiny(tmp_path_factory.mktemp("two") / "doors")
    cache = request.config.cache.mkdir("tiny-recipe")
    if not request.config.option.markexpr.startswith(("slow", "nightly")):
        shutil.rmtree(cache)
    run("dvc", "cache", "dir", "--local", str(cache), cwd=root)
    run("dvc", "repro", cwd=root, timeout=1500)
    return root


@pytest.fixture(scope="session")
def server(environment: dict[str, str]) -> Iterator[str]:
    """The API address of a real Prefect server with a home of its own, or of the one that $GRIDFLOW_TEST_API names."""
    if running := os.environ.get("GRIDFLOW_TEST_API"):
        yield running
        return
    os.environ["PREFECT_HOME"] = environment["PREFECT_HOME"]
    prefect_server.START_S = 400.0  # a busy machine
    with socket.create_server(("127.0.0.1", 0)) as free:  # two sessions of tests may run at once
        port = free.getsockname()[1]
    process = prefect_server.start_server(port=port)
    yield f"http://127.0.0.1:{port}/api"
    process.terminate()
    process.wait(timeout=30)
