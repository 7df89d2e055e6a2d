"""Runs compared by their names on a small real repository: experiments, revisions, folders, the champion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import binomtest

from cnn_core.comparison.banners import PLACEHOLDER
from flows.comparison.runs import compare_runs
from flows.comparison.sides import REPORT
from flows.registry.promotion import promote
from flows.repository.git import git
from flows.repository.outputs import outputs
from flows.summary import short, write_pdf
from tests.helpers.champion_repository import make, set_skill
from tests.helpers.served import ask

pytestmark = pytest.mark.xdist_group("compare")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, run: Callable, repository: Path) -> Path:
    """A commit `HEAD` with a run of skill 0.8 and a report, the experiments `better` (0.95) and `close` (0.81)."""
    root = make(tmp_path_factory.mktemp("compare") / "small", run, repository)
    env = {"PYTHONPATH": str(repository)}
    (root / REPORT).parent.mkdir(parents=True, exist_ok=True)
    (root / REPORT).write_text(f"<html><body><h1>A report</h1>{PLACEHOLDER}</body></html>")
    set_skill(root, 0.8)
    run("dvc", "repro", "-q", cwd=root, **env)
    run("git", "add", "dvc.lock", "params.yaml", REPORT, cwd=root)
    run("git", "commit", "-qm", "a run", cwd=root)
    for name, skill in (("better", 0.95), ("close", 0.81)):
        set_skill(root, skill)
        run("dvc", "repro", "-q", cwd=root, **env)
        run("dvc", "exp", "save", "-n", name, cwd=root)
    run("git", "checkout", "-q", ".", cwd=root)
    run("dvc", "checkout", "-q", cwd=root)
    return root


@pytest.fixture
def root(ran: Path, tmp_path: Path) -> Path:
    return shutil.copytree(ran, tmp_path / "small", symlinks=True)


def answers(root: Path) -> pd.Series:
    table = pd.read_parquet(root / "data/predictions/digits-test.parquet").set_index("id")
    return table["label"] == table["predicted"]


def test_experiments_and_revisions(root: Path, run: Callable) -> None:
    before = git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")
    compared = compare_runs(root, "HEAD", "better")
    (change,) = compared.headlines
    assert compared.params == {"train.digits.learning_rate": (0.8, 0.95)}
    assert (change.method, change.meaning, change.lost) == ("images", "better", 0)
    assert change.p_value == pytest.approx(binomtest(change.gained, change.gained, 0.5).pvalue)
    right = answers(root)
    run("dvc", "exp", "apply", "better", cwd=root)
    assert change.gained == int((answers(root) & ~right).sum()) > 10
    assert change.shared == len(right)
    assert (change.before, change.after) == (right.mean(), answers(root).mean())
    run("git", "checkout", "-q", ".", cwd=root)
    run("dvc", "checkout", "-q", cwd=root)
    assert (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")) == before

    close = compare_runs(root, "workspace", "close").headlines[0]
    assert close.meaning == "not clear"
    assert close.p_value == pytest.approx(binomtest(close.gained, close.gained + close.lost, 0.5).pvalue)
    assert compare_runs(root, "close", "better").before == "close"
    assert compare_runs(root, git(root, "rev-parse", "HEAD"), "workspace").headlines[0].meaning == "same"


def test_folders_are_compared_and_other_things_are_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(root / "data", folder / "data", symlinks=True)
    shutil.copy(root / "params.yaml", folder)
    compared = compare_runs(root, str(folder), "better")
    assert compared.headlines[0].meaning == "better"
    set_skill(root, 0.7)
    compared = compare_runs(root, str(folder), "workspace")
    assert compared.headlines[0].meaning == "same"
    assert any("params.yaml has changed since the run in train.digits.learning_rate" in note for note in compared.notes)

    with pytest.raises(ValueError, match="'best' is no commit, branch, tag or experiment"):
        compare_runs(root, "best", "workspace")
    with pytest.raises(ValueError, match="HEAD~1 has no metrics: no run was committed there"):
        compare_runs(root, "workspace", "HEAD~1")
    with pytest.raises(ValueError, match="is no folder of a run: it has no data/metrics"):
        compare_runs(root, str(tmp_path), "workspace")
    with pytest.raises(ValueError, match="there is no champion that was measured"):
        compare_runs(root, "champion", "workspace")
    shutil.rmtree(root / "data" / "metrics")
    with pytest.raises(ValueError, match=r"workspace has no metrics, but a dvc\.lock: get them with `dvc checkout`"):
        compare_runs(root, "better", "workspace")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(ValueError, match=r"DVC does not have data/metrics/evaluate-digits.json of better.*`dvc pull`"):
        compare_runs(root, "better", str(folder))


def test_a_run_in_a_remote_alone_is_found(root: Path, run: Callable, tmp_path: Path) -> None:
    run("dvc", "remote", "add", "-d", "near", str(tmp_path / "remote"), cwd=root)
    run("dvc", "push", "-q", "--all-commits", cwd=root)
    shutil.rmtree(root / ".dvc" / "cache")
    assert compare_runs(root, "HEAD", "workspace").headlines[0].method == "images"


def test_the_champion(root: Path) -> None:
    promote(root, "digits", "better", reason="a start")
    compared = compare_runs(root, "champion", "workspace")
    assert compared.headlines[0].meaning == "worse"
    assert compared.params == {"train.digits.learning_rate": (0.95, 0.8)}
    assert compared.notes[0].startswith("champion: digits v1.0.0 (")
    with pytest.raises(ValueError, match="champion must be named first"):
        compare_runs(root, "workspace", "champion")


def test_the_command_line(root: Path, run: Callable, repository: Path) -> None:
    def call(*words: str, code: int = 0):
        return run("gridflow", *words, cwd=root, code=code, PYTHONPATH=str(repository))

    output = call("compare", "HEAD", "better").stdout
    assert output.startswith("better against HEAD, by more than luck: better in digits recognised.\n")
    assert "train.digits.learning_rate  0.8" in output
    assert json.loads(call("compare", "HEAD", "better", "--json").stdout)["metrics"][0]["meaning"] == "better"
    call("compare", "better", "workspace", "--html", "out/page.html")
    page = (root / "out/page.html").read_text()
    assert "<h1>A report</h1>" in page
    assert "workspace against better, by more than luck: worse in digits recognised." in page
    assert "error: 'best' is no commit" in call("compare", "best", code=1).stderr
    summary = call("summary", "--against", "HEAD", "better").stdout
    assert summary.startswith("## ")
    assert "### Against HEAD" in summary
    assert "| digits recognised |" in summary


def test_a_summary_and_a_pdf(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "digits recognised" in short(root, "close")
    if not shutil.which("chromium"):
        pytest.skip("there is no Chromium")
    write_pdf(root, "workspace", tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="a PDF is printed by a Chromium, and none is installed"):
        write_pdf(root, "workspace", tmp_path / "other.pdf")


def test_a_run_of_the_flow_is_compared_with_the_champion(
    root: Path, run: Callable, repository: Path, server: str
) -> None:
    promote(root, "digits", "better", reason="a start")
    set_skill(root, 0.6)
    env = {"PYTHONPATH": str(repository), "PREFECT_API_URL": server}
    done = run("gridflow", "run", "evaluate@digits", cwd=root, **env)
    assert "could not be shown" not in done.stdout + done.stderr
    query = {"artifacts": {"key": {"any_": ["against-the-champion"]}}, "sort": "CREATED_DESC"}
    (newest, *_) = ask(f"{server}/artifacts/filter", query)
    assert "this run against champion, by more than luck: worse in digits recognised." in newest["data"]
    assert "| train.digits.learning\\_rate" in newest["data"] or "| train.digits.learning_rate" in newest["data"]

    md5 = outputs(root, git(root, "rev-parse", "champion/digits"))["data/metrics/evaluate-digits.json"]
    (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()  # the champion's figures are gone, and no more
    set_skill(root, 0.7)
    done = run("gridflow", "run", "evaluate@digits", cwd=root, **env)
    assert "the comparison with the champions could not be shown: DVC does not have" in done.stdout + done.stderr
