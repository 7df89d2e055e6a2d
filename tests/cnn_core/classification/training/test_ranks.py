"""Two processes do together what one does alone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

from cnn_core.classification.training.loop import train
from tasks.engine.checkpoints import load_checkpoint, save_checkpoint
from tests.helpers.learning import linear, params, several_stripes, stripes, training_setup, wide
from tests.helpers.paths import ROOT
from tests.helpers.rank import TOGETHER, WIDE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    kept: list[dict] = []
    train(params(**TOGETHER), training_setup(build=wide), on_epoch=lambda _, make: kept.append(copy.deepcopy(make())))
    save_checkpoint(folder / "alone", kept[0])
    command = [sys.executable, "-m", "tests.helpers.rank"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(rank), str(folder)], env=environment) for rank in range(2)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    return folder


@pytest.mark.slow
def test_the_steps_and_the_measurements_are_those_of_one_process(folder):
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    alone = train(params(epochs=2), training_setup(build=linear, val=stripes(37, seed=1)))
    for key, value in alone.shipped.items():
        torch.testing.assert_close(first["weights"][key], value, atol=1e-5, rtol=1e-4)
        assert torch.equal(first["weights"][key], second["weights"][key])
    for one, two, whole in zip(first["history"], second["history"], alone.history, strict=True):
        for key in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            assert one[key] == two[key] == pytest.approx(whole[key], rel=1e-4), key
    assert (first["history"][-1]["val_accuracy"] * 37) == pytest.approx(
        round(first["history"][-1]["val_accuracy"] * 37)
    )


@pytest.mark.slow
def test_several_labels_are_measured_on_the_whole_validation_part(folder):
    first, second = (torch.load(folder / f"several-{rank}.pt") for rank in range(2))
    many = {"train": several_stripes(100), "val": several_stripes(37, seed=1), "multilabel": True}
    alone = train(params(epochs=2), training_setup(build=linear, **many))
    assert first["thresholds"] == second["thresholds"] == pytest.approx(alone.thresholds, abs=1e-4)
    for one, two, whole in zip(first["history"], second["history"], alone.history, strict=True):
        for key in ("train_loss", "val_loss", "val_accuracy", "val_map"):
            assert one[key] == two[key] == pytest.approx(whole[key], rel=1e-4), key


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_ranks_end_with_one_set_of_batch_norm_statistics(folder, decay):
    first, second = (torch.load(folder / f"norm{decay}-{rank}.pt") for rank in range(2))
    assert any("running_mean" in key for key in first)
    for key in first:
        assert torch.equal(first[key], second[key]), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "near"),
    [(name, changes, 0.02 if name == "half" else 1e-5) for name, changes in WIDE.items()],
)
def test_two_ranks_learn_what_one_process_learns(folder, name, changes, near):
    """Batches of 14 and 15 images: the ranks have 7 each, or 8 and 7."""
    first, second = (torch.load(folder / f"wide-{name}-{rank}.pt") for rank in range(2))
    alone = train(params(**changes), training_setup(build=wide)).shipped
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, atol=near, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "wide",
        "tokens",  # a layer called twice, and one whose weights alone are used
        "mixed",  # one rank in bfloat16, the other not
        "head",  # the last layer alone learns
        "clipped",
        "sgd",
    ],
)
def test_after_a_step_the_ranks_have_the_same_weights(folder, name):
    first, second = (torch.load(folder / f"steps-{rank}.pt")[name] for rank in range(2))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_ranks(folder):
    """From one to two and from two to one: a checkpoint does not depend on the number of ranks."""
    whole = train(params(**TOGETHER), training_setup(build=wide)).shipped
    resumed = [torch.load(folder / f"resumed-{rank}.pt") for rank in range(2)]
    for rank in range(2):
        kept = load_checkpoint(folder / f"kept-{rank}")
        resumed.append(train(params(**TOGETHER), training_setup(build=wide), resume=kept).shipped)
    for shipped in resumed:
        for key, value in whole.items():
            torch.testing.assert_close(shipped[key], value, atol=1e-5, rtol=1e-4)
    assert (folder / "kept-0/checkpoint.pt").stat().st_size < 1.1 * (folder / "alone/checkpoint.pt").stat().st_size


def test_a_batch_smaller_than_the_ranks_is_told(monkeypatch):
    monkeypatch.setattr("cnn_core.classification.training.loop.rank_and_world", lambda: (0, 20))
    with pytest.raises(ValueError, match="batches of 14 images cannot be shared by 20 workers; lower num_workers"):
        train(params(), training_setup())


def test_the_global_batches_and_the_steps_do_not_depend_on_the_number_of_ranks():
    call = {"draws": 0, "batch_size": 16, "seed": 0, "epoch": 1, "device": torch.device("cpu")}
    alone = [labels for _, labels, _ in stripes(100).epoch(**call, rank=0, world=1)]
    for world in (2, 3):
        ranks = [list(stripes(100).epoch(**call, rank=rank, world=world)) for rank in range(world)]
        for labels, shares in zip(alone, zip(*ranks, strict=True), strict=True):
            assert torch.equal(torch.cat([share for _, share, _ in shares]), labels)
            assert {whole for _, _, whole in shares} == {len(labels)}
