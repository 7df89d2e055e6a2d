"""The stage `train_segmenter` as a process that is killed, and goes on."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import yaml

from cnn_core.detection.yolo import quiet
from cnn_core.segmentation.sam.network import load_sam
from tests.helpers.mask_files import CLASSES, MODEL, PARAMS, write_model, write_set
from tests.helpers.stages import finish, kill, start, wait_for, worker_processes

EPOCHS = 8


def begin(folder, environment=None, **changes):
    """The stage as a process, in ``folder``, with the smallest network."""
    params = {**PARAMS, "source": "set", "epochs": EPOCHS, "batch": 2, "points": 0.25, **changes}
    plain = json.loads(json.dumps(params))  # tuples as lists
    (folder / "params.yaml").write_text(yaml.safe_dump({"train_segmenter": {"segmenter": plain}}))
    return start(folder, stage="train_segmenter segmenter", **(environment or {}))


def curve(folder):
    with (folder / "data/plots/train_segmenter-segmenter.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.nightly
def test_a_killed_stage_goes_on_from_its_last_epoch_and_ends_as_if_nothing_had_happened(tmp_path):
    for name in ("whole", "killed"):
        write_set(tmp_path / name / "set", train=60)
    finish(begin(tmp_path / "whole"))
    killed = tmp_path / "killed"
    process = begin(killed)
    wait_for(process, f"epoch 3/{EPOCHS}")
    kill(process)
    output = finish(begin(killed))
    metrics = json.loads((killed / "data/metrics/train_segmenter-segmenter.json").read_text())
    assert 2 <= metrics["resumed_at"] < EPOCHS
    assert f"resuming at epoch {metrics['resumed_at'] + 1} of {EPOCHS}" in output
    assert [row["epoch"] for row in curve(killed)] == [str(number) for number in range(1, EPOCHS + 1)]
    for column in ("train_loss", "val_iou"):
        assert [row[column] for row in curve(killed)] == [row[column] for row in curve(tmp_path / "whole")]
    card = json.loads((killed / "data/models/segmenter/model.json").read_text())
    assert (card["classes"], card["imgsz"], card["architecture"]) == (CLASSES, 64, "small_sam")
    assert card["model"]["widths"] == list(MODEL["widths"])
    one, other = (load_sam(place / "data/models/segmenter") for place in (killed, tmp_path / "whole"))
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert (killed / "data/plots/train_segmenter-segmenter-seen.png").is_file()
    assert list((killed / ".gridflow/state").glob("[!.]*")) == []


@pytest.mark.nightly
def test_two_workers_train_and_a_killed_one_is_replaced(tmp_path):
    write_set(tmp_path / "set", train=60)
    process = begin(tmp_path, {"GRIDFLOW_NUM_WORKERS": "2"}, batch=5)
    assert "training on 2 workers" in wait_for(process, f"epoch 3/{EPOCHS}")
    one, _ = worker_processes(process)
    one.kill()
    output = finish(process)
    assert "a training worker died" in output
    assert "resuming at epoch" in output
    assert [row["epoch"] for row in curve(tmp_path)] == [str(number) for number in range(1, EPOCHS + 1)]
    assert float(curve(tmp_path)[-1]["train_loss"]) < float(curve(tmp_path)[0]["train_loss"])


@pytest.mark.slow
def test_two_workers_fine_tune_a_decoder_on_embeddings_that_they_share(tmp_path):
    write_set(tmp_path / "set", train=5)
    (tmp_path / "set/images/train/p2.png").write_bytes(b"no image")
    quiet(tmp_path)
    write_model(tmp_path / "model")
    output = finish(begin(tmp_path, {"GRIDFLOW_NUM_WORKERS": "2"}, epochs=1, weights="model", imgsz=0))
    assert "embeddings of train: 2 of 2 images of a worker's share" in output
    assert (tmp_path / "data/models/segmenter/model.json").is_file()
    metrics = json.loads((tmp_path / "data/metrics/train_segmenter-segmenter.json").read_text())
    assert [metrics[key] for key in ("listed", "images", "left_out", "unused")] == [7, 6, 1, 0]
    assert "of 7 images 4 are learned from and 2 validate; 1 left out" in output
    assert "p2.png,not an image" in (tmp_path / "data/models/segmenter/left_out.csv").read_text()


@pytest.mark.slow
def test_what_cannot_be_learned_from_is_one_sentence(tmp_path):
    output = finish(begin(tmp_path), code=1)
    assert "the stage compose writes data/composed/numbers" in output
    assert "Traceback" not in output
