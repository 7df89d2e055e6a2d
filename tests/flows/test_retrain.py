"""The scheduled retraining on a small real repository: about two and a half minutes of CPU, starts of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.registry.data_versions import data_version
from flows.registry.models import champion, history
from flows.registry.promotion import promote, rollback
from flows.repository.git import git
from tests.helpers.champion_repository import add_detector, digits, make, set_skill, write_table
from tests.helpers.served import ask

pytestmark = [pytest.mark.xdist_group("retrain"), pytest.mark.slow, pytest.mark.timeout(3000)]
EPOCH = (1_600_000_000, 1_600_000_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, run: Callable, repository: Path) -> Path:
    root = make(tmp_path_factory.mktemp("retrain") / "small", run, repository)
    set_skill(root, 0.8)
    run("dvc", "remote", "add", "near", str(root.parent / "near"), cwd=root)
    run("git", "commit", "-qam", "skill", cwd=root)
    return root


@pytest.fixture(scope="module")
def retrain(root: Path, run: Callable, repository: Path, server: str) -> Callable[..., str]:
    """Call the command line; give its last line."""

    def call(*arguments: str, code: int | None = 0, model: str = "digits", **env: str) -> str:
        done = run("gridflow", "retrain", model, *arguments, cwd=root, code=code, timeout=900,
                   PYTHONPATH=str(repository), PREFECT_API_URL=server, **env)  # fmt: skip
        return done.stdout.splitlines()[-1]

    return call


def skill(root: Path) -> float:
    """Read the champion's skill from its commit."""
    text = git(root, "show", f"{champion(root, 'digits').commit}:params.yaml")
    return float(text.partition("\ntrain:\n")[2].partition("learning_rate: ")[2].split()[0])


def test_worse_is_kept_out_better_is_promoted_and_rolled_back(root: Path, retrain: Callable, run: Callable) -> None:
    before = git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")
    start = time.monotonic()
    message = retrain(GRIDFLOW_PUSH_TO="near")
    assert message.startswith("promoted: digits v1.0.0. There was no champion of digits yet.")
    md5 = champion(root, "digits").notes["model_md5"].removesuffix(".dir")
    assert list((root.parent / "near").rglob(f"{md5[2:]}*"))  # the challenger is shared
    first = time.monotonic() - start
    start = time.monotonic()
    message = retrain()
    second = time.monotonic() - start
    assert message == "nothing new; the last time: v1.0.0 was promoted"
    print(f"retrain: {first:.1f} s; with nothing new: {second:.1f} s")

    message = retrain("--set", "train.digits.learning_rate=0.7")
    assert message.startswith("kept: The challenger is not better at all: ")
    assert "held-out images that both know (0 gained, " in message
    assert message.endswith("The champion is v1.0.0.")
    message = retrain("--set", "train.digits.learning_rate=0.85", "--margin", "0.2")
    assert message.startswith("kept: The challenger is not better by at least 20.00%: ")
    assert "nothing new; the last time: kept" in retrain("--set", "train.digits.learning_rate=0.7")
    assert champion(root, "digits").name == "v1.0.0"

    message = retrain("--set", "train.digits.learning_rate=0.95")
    assert message.startswith("promoted: digits v2.0.0. The challenger is better: 9")
    assert skill(root) == 0.95
    assert champion(root, "digits").notes["former"] == "v1.0.0"
    assert rollback(root, "digits").name == "v1.0.0"
    assert skill(root) == 0.8
    assert "nothing new" in retrain("--set", "train.digits.learning_rate=0.95")  # the schedule does not undo it
    message = retrain("--set", "train.digits.learning_rate=0.95", "--force")
    assert message == "kept: The challenger is v2.0.0, which was the champion before and was replaced."

    assert (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")) == before
    assert git(root, "worktree", "list").count("\n") == 0
    listed = run("dvc", "exp", "list", "-A", "--name-only", cwd=root).stdout.split()
    assert len([name for name in listed if name.startswith("retrain-digits-")]) == 5


def test_new_data_are_taken_in_once_and_judged_on_what_both_know(root: Path, retrain: Callable) -> None:
    if champion(root, "digits") is None:
        retrain()
    inbox = root / "data" / "inbox" / "digits"
    for name, seed, bright in (("good.csv", 1, 255), ("dark.csv", 2, 60)):
        write_table(inbox / name, *digits(100, seed=seed, bright=bright))
        os.utime(inbox / name, EPOCH)
    message = retrain("--drift", "stop")
    assert message.startswith("kept: The challenger is not better at all: ")
    assert f"on {images_in_test(root)} held-out images that both know (0 gained, 0 lost" in message
    assert (inbox / "done" / "good.csv").exists()
    reason = (inbox / "refused" / "dark.csv.reason.txt").read_text()
    assert reason.startswith("dark.csv differs from the 600 images there are in brightness")
    version = data_version(root, "digits")
    assert (version.number, version.notes["images"]) == (1, 100)
    newest = git(root, "for-each-ref", "--sort=-committerdate", "--count=1", "--format=%(objectname)", "refs/exps")
    assert version.notes["md5"] in git(root, "show", f"{newest}:data/sources/digits-grown.dvc")
    assert "nothing new" in retrain("--drift", "stop")
    assert git(root, "status", "--porcelain") == ""


def test_a_person_is_asked_first(
    root: Path, retrain: Callable, repository: Path, environment: dict, server: str
) -> None:
    if champion(root, "digits") is None:
        retrain()
    command = ["gridflow", "retrain", "digits", "--set", "train.digits.learning_rate=0.99", "--approve"]
    env = {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": server}
    former = champion(root, "digits").name
    waiting = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True)
    try:
        run_id = paused(server, waiting)
        assert champion(root, "digits").name == former
        answer = {"run_input": {"promote": True, "reason": "looks right"}}
        assert ask(f"{server}/flow_runs/{run_id}/resume", answer)["status"] == "ACCEPT"
        message = waiting.communicate(timeout=600)[0].splitlines()[-1]
    finally:
        if waiting.poll() is None:
            waiting.send_signal(signal.SIGKILL)
    assert message.startswith("promoted: digits v")
    assert "Approved by a person: looks right" in history(root, "digits")[-1].reason


@pytest.mark.nightly
def test_detector_and_segmenter_are_judged_by_what_they_find(
    root: Path, retrain: Callable, run: Callable, repository: Path
) -> None:
    """Must be the last test: it adds stages to the repository."""
    add_detector(root, run)
    run("dvc", "repro", "-q", "evaluate_detector@detector", cwd=root, PYTHONPATH=str(repository))
    promote(root, "detector", reason="a start")
    message = retrain("--set", "train_detector.detector.lr0=0.5", model="detector")
    assert message.startswith("promoted: detector v2.0.0. The challenger is better: mAP50 0."), message
    assert "in no class is it worse" in message
    message = retrain("--set", "train_detector.detector.lr0=0.3", model="detector")
    assert message.startswith("kept: The challenger is not better at all: mAP50 0."), message
    assert champion(root, "detector").notes["metrics"]["map50"] > 0.3
    assert retrain("--set", "train_segmenter.segmenter.learning_rate=0.5", model="segmenter").startswith(
        "promoted: segmenter v1.0.0. There"
    )
    message = retrain("--set", "train_segmenter.segmenter.learning_rate=0.6", model="segmenter")
    assert message.startswith("promoted: segmenter v2.0.0. The challenger is better: mean IoU 0."), message
    message = retrain("--set", "train_segmenter.segmenter.learning_rate=0.55", model="segmenter")
    assert message.startswith("kept: The challenger is not better at all: mean IoU 0."), message


def paused(server: str, process: subprocess.Popen, limit_s: float = 900) -> str:
    query = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        if runs := ask(f"{server}/flow_runs/filter", query):
            return runs[0]["id"]
        time.sleep(0.5)
    raise AssertionError("the run did not pause")


def images_in_test(root: Path) -> int:
    import pandas as pd

    from flows.registry.models import find_model
    from flows.registry.results import rows_of_champion

    rows: pd.DataFrame = rows_of_champion(root, find_model(root, "digits"), champion(root, "digits"))
    return int((rows["split"] == "test").sum())
