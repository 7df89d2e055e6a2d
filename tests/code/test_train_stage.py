"""The stage ``train`` as a process: Ray Train around cnn_core.training. Slow: each run starts a Ray."""

from __future__ import annotations

import contextlib
import json
import shutil
import time

import psutil
import pytest
import torch
from stages import EPOCHS, ROOT, curve, finish, small_set, start, wait_for, write_params

from cnn_core.checkpoints import load_model
from cnn_core.params import load_section
from cnn_core.training import TrainParams, train
from tasks.train import load_task

CONFIG = {"start": "none", "micro_batch": 0, "compiled": False, "streamed": False}
pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path):
    """A folder to run the stage in: a small AUGMENTED set and parameters for it."""
    small_set(tmp_path)
    write_params(tmp_path)
    return tmp_path


def plain(folder):
    """The curve of the same training without Ray and without interruption."""
    params = load_section(TrainParams, "train.digits", folder / "params.yaml")
    done = train(params, load_task(params, CONFIG | {"data": folder / "data/augmented/digits"}, torch.device("cpu")))
    keys = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate")
    selected = [record for record in done.history if record["phase"] == "select"]
    return [{key: round(record[key], 6) for key in keys} for record in selected]


def assert_same_curve(found, expected):
    assert [row["epoch"] for row in found] == [row["epoch"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def test_a_killed_stage_goes_on_from_its_last_epoch_and_a_finished_one_starts_anew(workplace):
    process = start(workplace)
    wait_for(process, f"epoch 3/{EPOCHS}")
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everything:  # at once, as when the machine goes down: an orphaned worker would train to the end
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    assert list((workplace / ".gridflow/state").iterdir())
    output = finish(start(workplace))
    assert f"of {EPOCHS}: found the finished epochs of an interrupted run in {workplace}" in output
    resumed = json.loads((workplace / "data/metrics/train-digits.json").read_text())["resumed_at"]
    assert 2 <= resumed < EPOCHS
    assert f"resuming at epoch {resumed + 1}" in output
    assert f"epoch {resumed}/{EPOCHS}" not in output
    assert_same_curve(curve(workplace), plain(workplace))
    load_model(workplace / "data/models/digits")
    assert not list((workplace / ".gridflow/state").iterdir())
    again = finish(start(workplace))
    assert "resuming" not in again
    assert f"epoch 1/{EPOCHS}" in again


def test_a_killed_worker_is_replaced_and_goes_on(workplace):
    write_params(workplace, refit="all")
    process = start(workplace)
    before = wait_for(process, f"epoch 3/{EPOCHS}")
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    ]
    assert len(workers) == 1, before
    workers[0].kill()
    output = finish(process)
    assert "a training worker died" in output
    assert "resuming at epoch" in output
    assert_same_curve(curve(workplace), plain(workplace))
    assert (workplace / "data/models/digits/evaluated.safetensors").is_file()


def test_workers_run_this_trees_code_and_a_diverged_loss_fails_at_once_with_its_sentence(workplace):
    tree = workplace / "tree"
    for part in ("cnn_core", "tasks"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "runtime.yaml", tree)
    code = (tree / "cnn_core/training.py").read_text()
    (tree / "cnn_core/training.py").write_text(code.replace("training has diverged", "training has gone astray"))
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
    assert not list((workplace / "remote").iterdir())
    events = [json.loads(line) for line in (workplace / "run/events.jsonl").read_text().splitlines()]
    last = [event for event in events if event["event"] == "progress"][-1]
    assert last["done"] == last["total"] == 600 * EPOCHS
    assert {"loss", "accuracy", "images_per_s"} <= last["numbers"].keys()
