"""The stage ``train`` as a process: Ray Train around the training loop. Slow: each run starts a Ray."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from cnn_core.classification.inference.model_folder import load_model
from tests.helpers.stages import (
    EPOCHS,
    ROOT,
    curve,
    finish,
    kill,
    plain,
    small_set,
    start,
    wait_for,
    worker_processes,
    write_params,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path):
    """A folder to run the stage in: a small AUGMENTED set and parameters for it."""
    small_set(tmp_path)
    write_params(tmp_path)
    return tmp_path


def assert_same_curve(actual, expected):
    assert [row["epoch"] for row in actual] == [row["epoch"] for row in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-3)


@pytest.mark.parametrize("cut_off", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_killed_stage_goes_on_from_its_last_epoch_and_a_finished_one_starts_anew(workplace, cut_off):
    process = start(workplace)
    wait_for(process, f"epoch 3/{EPOCHS}")
    kill(process)  # with its workers: an orphaned one would train to the end
    assert list((workplace / ".gridflow/state").glob("[!.]*"))
    if cut_off:  # as a kill does that comes while Ray writes it
        (record,) = (workplace / ".gridflow/state").glob("*/*.json")
        record.write_bytes(record.read_bytes()[:30])
    output = finish(start(workplace))
    assert f"of {EPOCHS}: found the finished epochs of an interrupted run in {workplace}" in output
    resumed = json.loads((workplace / "data/metrics/train-digits.json").read_text())["resumed_at"]
    assert 2 <= resumed < EPOCHS
    assert f"resuming at epoch {resumed + 1}" in output
    assert f"epoch {resumed}/{EPOCHS}" not in output
    assert_same_curve(curve(workplace), plain(workplace))
    load_model(workplace / "data/models/digits")
    assert not list((workplace / ".gridflow/state").glob("[!.]*"))
    again = start(workplace)
    assert "resuming" not in wait_for(again, f"epoch 1/{EPOCHS}")
    kill(again)


@pytest.mark.nightly
def test_a_killed_worker_is_replaced_and_goes_on(workplace):
    write_params(workplace, refit="all")
    process = start(workplace)
    wait_for(process, f"epoch 3/{EPOCHS}")
    (worker,) = worker_processes(process)
    worker.kill()
    output = finish(process)
    assert "a training worker died" in output
    assert "resuming at epoch" in output
    assert_same_curve(curve(workplace), plain(workplace))
    assert (workplace / "data/models/digits/evaluated.safetensors").is_file()


def test_workers_run_this_trees_code_and_a_diverged_loss_fails_at_once_with_its_sentence(workplace):
    tree = workplace / "tree"
    for part in ("cnn_core", "tasks"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("runtime.yaml", "dvc.yaml"):
        shutil.copy(ROOT / file, tree)
    module = tree / "cnn_core/optimization.py"
    module.write_text(module.read_text().replace("training has diverged", "training has gone astray"))
    write_params(workplace, learning_rate=1e30, grad_clip=0.0)
    process = start(workplace, tree, GRIDFLOW_NUM_WORKERS="2", GRIDFLOW_RUN_DIR=str(workplace / "run"))
    output = finish(process, code=1)
    failure = json.loads((workplace / "run/failure.json").read_text())
    assert failure["kind"] == "user", output
    assert "of epoch 1: training has gone astray; lower learning_rate" in failure["message"]
    assert "starting again" not in output
    assert "Traceback" not in output
    assert not (workplace / "data/models").exists()


def test_two_workers_train_and_the_state_may_be_a_uri(workplace):
    uri = f"file://{workplace}/remote"
    began = time.monotonic()
    output = finish(
        start(workplace, GRIDFLOW_NUM_WORKERS="2", GRIDFLOW_STATE=uri, GRIDFLOW_RUN_DIR=str(workplace / "run"))
    )
    assert time.monotonic() - began < 200
    metrics = json.loads((workplace / "data/metrics/train-digits.json").read_text())
    assert metrics["val_accuracy"] > 0.9, output
    assert {key: metrics[key] for key in ("listed", "images", "left_out", "unused")} == {
        "listed": 711, "images": 661, "left_out": 0, "unused": 50
    }  # fmt: skip
    assert not list((workplace / "remote").iterdir())
    events = [json.loads(line) for line in (workplace / "run/events.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "progress"][-1]
    assert last["done"] == last["total"] == 600 * EPOCHS
    assert {"loss", "accuracy", "images_per_s"} <= last["numbers"].keys()
