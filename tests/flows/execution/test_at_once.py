"""Two isolated runs and a `dvc repro` at once, on the digits of the tiny recipe: each ends as it would alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.repository.git import git, resolve

pytestmark = [pytest.mark.xdist_group("at_once"), pytest.mark.nightly, pytest.mark.timeout(3000)]
LAST = "evaluate@digits"
METRICS, ANSWERS = "data/metrics/evaluate-digits.json", "data/predictions/digits-test.parquet"


def test_at_once_each_ends_as_it_would_alone(
    tmp_path: Path, make_tiny: Callable, run: Callable, environment: dict[str, str], server: str
) -> None:
    """From an empty cache, so that all three train; then once more, alone and from the start."""
    root = make_tiny(tmp_path / "tiny")
    before = git(root, "status", "--porcelain")
    env = {**environment, "PREFECT_API_URL": server}
    flow = ["gridflow", "run", "--isolated", LAST, "--name"]
    commands = [[*flow, "one"], [*flow, "two"], [sys.executable, "-m", "dvc", "repro", LAST]]
    started = [
        subprocess.Popen(command, cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in commands
    ]
    said = [process.communicate(timeout=2000)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
    assert git(root, "status", "--porcelain") == before + "?? dvc.lock"
    assert git(root, "worktree", "list").count("\n") == 0
    mine = json.loads((root / METRICS).read_text())
    beside = [metrics(root, run, name) for name in ("one", "two")]
    locks = [git(root, "show", f"{resolve(root, name)}:dvc.lock") for name in ("one", "two")]
    locks.append((root / "dvc.lock").read_text())
    run("dvc", "repro", "--force", LAST, cwd=root)
    alone = json.loads((root / METRICS).read_text())
    assert [without_time(one) for one in (mine, *beside)] == [without_time(alone)] * 3
    assert [answers(lock) for lock in locks] == [answers((root / "dvc.lock").read_text())] * 3
    print(f"three at once: accuracy {[one['accuracy'] for one in (mine, *beside)]}; alone: {alone['accuracy']}")


def metrics(root: Path, run: Callable, experiment: str) -> dict:
    target = root.parent / f"{experiment}.json"
    run("dvc", "get", str(root), METRICS, "--rev", resolve(root, experiment), "-o", str(target), cwd=root)
    return json.loads(target.read_text())


def without_time(told: dict) -> dict:
    return {key: value for key, value in told.items() if "second" not in key and key != "resources"}


def answers(lock: str) -> str:
    """The MD5 of what the network says of each test image: it depends on every image and step before."""
    outs = yaml.safe_load(lock)["stages"][LAST]["outs"]
    return next(out["md5"] for out in outs if out["path"] == ANSWERS)
