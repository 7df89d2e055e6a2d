"""Tests of flows that share a server or a pipeline run in one process: their files name a group of pytest-xdist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT

GROUPED = """
import os, pathlib, pytest
pytestmark = pytest.mark.xdist_group("one")

@pytest.mark.parametrize("number", range(6))
def test_it(number):
    pathlib.Path(f"{number}.pid").write_text(str(os.getpid()))
"""


def test_every_file_of_the_flows_names_its_group() -> None:
    files = sorted((ROOT / "tests/flows").rglob("test_*.py"))
    assert files
    assert [str(path) for path in files if "pytest.mark.xdist_group(" not in path.read_text()] == []


def test_a_group_runs_in_one_process(tmp_path: Path) -> None:
    """pytest-xdist loses groups without a word where it does not know the version of pytest."""
    (tmp_path / "test_grouped.py").write_text(GROUPED)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert len({path.read_text() for path in tmp_path.glob("*.pid")}) == 1
