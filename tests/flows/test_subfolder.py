"""A checkout in a subfolder of a repository: its champions, comparisons and retrainings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.comparison.runs import compare_runs
from flows.registry.models import champion
from flows.registry.promotion import fetch, promote
from flows.repository.git import git
from tests.helpers.champion_repository import make, set_skill

pytestmark = [pytest.mark.xdist_group("subfolder"), pytest.mark.slow, pytest.mark.timeout(2000)]


def test_champions_comparisons_and_retrainings_work_in_a_subfolder(
    tmp_path: Path, run: Callable, repository: Path, server: str
) -> None:
    top = tmp_path / "repository"
    top.mkdir()
    root = make(top / "project", run, repository)
    shutil.rmtree(root / ".git")
    (top / "dvc.lock").write_text("another project's")
    (top / "params.yaml").write_text("another: project's")
    env = {"PYTHONPATH": str(repository), "PREFECT_API_URL": server}
    set_skill(root, 0.8)
    run("git", "init", "-q", cwd=top)
    run("git", "add", ".", cwd=top)
    run("git", "commit", "-qm", "all", cwd=top)
    run("dvc", "repro", "-q", cwd=root, **env)
    set_skill(root, 0.7)  # an edit after the run: the champion keeps the parameters that made it
    first = promote(root, "digits", reason="first")
    files = git(top, "ls-tree", "-r", "--name-only", first.commit).splitlines()
    assert "project/dvc.lock" in files
    assert git(top, "show", f"{first.commit}:dvc.lock") == "another project's"
    assert "learning_rate: 0.8" in git(top, "show", f"{first.commit}:project/params.yaml")
    assert (fetch(root, "digits") / "model.json").is_file()
    set_skill(root, 0.95)
    run("dvc", "repro", "-q", cwd=root, **env)
    compared = run("gridflow", "compare", "champion", "workspace", cwd=root, **env)
    assert "better in digits recognised" in compared.stdout
    assert compare_runs(root, first.commit, "workspace")
    run("git", "commit", "-qam", "better", cwd=top)
    done = run("gridflow", "retrain", "digits", cwd=root, timeout=900, **env)
    assert done.stdout.splitlines()[-1].startswith("promoted: digits v2.0.0"), done.stdout
    assert champion(root, "digits").name == "v2.0.0"
    run("gridflow", "batch", str(root / "data/sources/digits"), "--step", "classify", "--model", "digits", "--out",
        str(tmp_path / "out"), cwd=root, timeout=900, **env)  # fmt: skip
    assert (tmp_path / "out" / "digits" / "predictions.csv").is_file()
