"""What DVC's users do beside a plain ``dvc repro`` works as they expect: slow, for each runs the pipeline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.slow]


def test_metrics_plots_and_params_are_shown(checkout: Path, run: Callable) -> None:
    metrics = json.loads(run("dvc", "metrics", "show", "--json", cwd=checkout).stdout)
    assert metrics[""]["data"]["data/metrics/evaluate-digits.json"]["data"]["accuracy"] > 0.5
    page = run("dvc", "plots", "show", cwd=checkout).stdout
    html = Path(page.strip().removeprefix("file://")).read_text()
    titles = (
        "Confusion (digits, test part)",
        "Validation accuracy (digits)",
        "Loss (digits)",
        "evaluate-digits-mistakes",
    )
    assert [title for title in titles if title not in html] == []
    (checkout / "params.yaml").write_text((checkout / "params.yaml").read_text().replace("copies: 0", "copies: 2"))
    diff = run("dvc", "params", "diff", cwd=checkout).stdout
    run("git", "checkout", "params.yaml", cwd=checkout)
    assert "augment.digits.copies" in diff


# A training once, where it has most to go wrong: in another folder, with Ray. Else the shortest stage.
@pytest.mark.parametrize(
    ("where", "parameter", "value"),
    [
        pytest.param([], "evaluate.digits.tta", 2, id="here"),
        pytest.param(["--temp"], "train.digits.epochs", 3, marks=pytest.mark.nightly, id="temp"),
        pytest.param(["--queue"], "evaluate.digits.tta", 3, marks=pytest.mark.nightly, id="queue"),
    ],
)
def test_experiments_run(checkout: Path, run: Callable, where: list[str], parameter: str, value: int) -> None:
    name = f"changed{''.join(where).strip('-')}"
    stage, key = parameter.split(".digits.")
    before = json.loads((checkout / f"data/metrics/{stage}-digits.json").read_text())
    run("git", "add", "dvc.lock", cwd=checkout)
    run("git", "commit", "-qm", "lock", cwd=checkout, code=None)
    run("dvc", "exp", "run", *where, "-n", name, "-S", f"{parameter}={value}", cwd=checkout)
    if where == ["--queue"]:
        run("dvc", "queue", "start", cwd=checkout)
        run("dvc", "queue", "logs", "--follow", name, cwd=checkout, code=None)
        wait_until(lambda: name in run("dvc", "exp", "list", cwd=checkout).stdout)
    table = json.loads(run("dvc", "exp", "show", "--json", cwd=checkout).stdout)
    found = [one for rev in table for one in (rev["experiments"] or []) if one["name"] == name]
    assert found, table
    data = found[0]["revs"][0]["data"]
    assert data["params"]["params.yaml"]["data"][stage]["digits"][key] == value
    measured = data["metrics"][f"data/metrics/{stage}-digits.json"]["data"]
    assert measured.get(key, value) == value
    assert measured != before, "it was run"
    run("git", "checkout", ".", cwd=checkout)
    run("dvc", "checkout", cwd=checkout)


def test_another_clone_pulls_instead_of_computing(
    checkout: Path,
    run: Callable,
    tmp_path: Path,
) -> None:
    remote, clone = tmp_path / "remote", tmp_path / "clone"
    run("git", "add", "dvc.lock", cwd=checkout)
    run("git", "commit", "-qm", "lock", cwd=checkout, code=None)
    run("dvc", "remote", "add", "-d", "--local", "-f", "near", str(remote), cwd=checkout)
    run("dvc", "push", cwd=checkout)
    run("git", "clone", "-q", str(checkout), str(clone), cwd=tmp_path)
    run("dvc", "remote", "add", "-d", "--local", "near", str(remote), cwd=clone)
    done = run("dvc", "repro", "--pull", "--allow-missing", cwd=clone)
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout
    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace("worst: 24", "worst: 3"))
    ran = run("dvc", "repro", "--pull", "--allow-missing", "evaluate@digits", cwd=clone).stdout
    assert [line for line in ran.splitlines() if line.startswith("Running")] == ["Running stage 'evaluate@digits':"]
    before = report_entry(clone)
    refused = run("dvc", "repro", "--pull", "--allow-missing", cwd=clone, code=None)  # no report on a part of the run
    assert refused.returncode
    assert report_entry(clone) == before
    run("dvc", "pull", cwd=clone)
    run("dvc", "repro", cwd=clone)
    assert 'data-param="evaluate.digits.worst"' in (clone / "data/reports/index.html").read_text()


def report_entry(root: Path) -> dict:
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"]["report"]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "door",
    [
        pytest.param(["-m", "flows.pipeline", "train@digits"], id="flow"),
        pytest.param(["-m", "dvc", "repro", "train@digits"], id="dvc"),
    ],
)
def test_a_killed_training_goes_on_where_it_was(
    checkout: Path,
    environment: dict[str, str],
    run: Callable,
    door: list[str],
) -> None:
    seed = len(door)  # its own parameters, so that neither the run cache nor the other door has the result
    run("gridflow", "run", "--set", "train.digits.epochs=6", "--set", f"train.digits.seed={seed}",
        "--check", cwd=checkout)  # fmt: skip
    command = [sys.executable, *door]
    process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 3/6" in line:
            break
    else:
        raise AssertionError("the training ended before it could be killed")
    time.sleep(0.5)
    kill_training(checkout)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run("python", *door, cwd=checkout)
    run("git", "checkout", "params.yaml", cwd=checkout)
    assert "resuming at epoch" in done.stdout + done.stderr
    resumed_at = json.loads((checkout / "data/metrics/train-digits.json").read_text())["resumed_at"]
    assert resumed_at >= 2
    curve = (checkout / "data/plots/train-digits.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curve[1:]] == [str(epoch) for epoch in range(1, 7)]


def kill_training(checkout: Path) -> None:
    """kill -9 for the stage's process and all its descendants."""
    import psutil

    for process in psutil.process_iter(["cmdline", "cwd"]):
        if "tasks.train" in (process.info["cmdline"] or []) and process.info["cwd"] == str(checkout):
            for one in [*process.children(recursive=True), process]:
                one.kill()


def wait_until(true: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(1)
