"""Two processes do together what one does alone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

from cnn_core.classification.architectures import registry
from cnn_core.classification.training.loop import train
from cnn_core.gathered import Share, gather_factors, large_layers
from cnn_core.sharded_step import _mapped
from tasks.engine.checkpoints import load_checkpoint, save_checkpoint
from tests.helpers.learning import linear, params, stripes, task, wide
from tests.helpers.paths import ROOT
from tests.helpers.rank import APART, TOGETHER, WIDE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    kept: list[dict] = []
    train(params(**TOGETHER), task(build=wide), on_epoch=lambda _, make: kept.append(copy.deepcopy(make())))
    save_checkpoint(folder / "alone", kept[0])
    command = [sys.executable, "-m", "tests.helpers.rank"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(rank), str(folder)], env=environment) for rank in range(2)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    return folder


@pytest.mark.slow
def test_the_steps_and_the_measurements_are_those_of_one_process(folder):
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    alone = train(params(epochs=2), task(build=linear, val=stripes(37, seed=1)))
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
def test_layers_that_exchange_their_inputs_learn_what_they_learn_alone(folder, name, changes, near):
    """Batches of 14 and 15 images: the ranks have 7 each, or 8 and 7."""
    first, second = (torch.load(folder / f"wide-{name}-{rank}.pt") for rank in range(2))
    alone = train(params(**changes), task(build=wide)).shipped
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, atol=near, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gathered", "sharded"),
    [
        ("wide", ["1.weight", "1.bias", "3.weight", "3.bias"], True),
        ("tokens", ["once.weight", "once.bias"], True),
        ("mixed", [], False),  # one rank in bfloat16, the other not
        ("head", ["1.weight", "1.bias", "2.weight", "2.bias"], True),  # of which the last alone learns
        ("clipped", ["1.weight", "1.bias", "3.weight", "3.bias"], False),
        *((name, ["1.weight", "1.bias", "3.weight", "3.bias"], False) for name in [*APART, "refused"]),
    ],
)
def test_after_a_step_the_ranks_have_the_same_weights(folder, name, gathered, sharded):
    first, second = (torch.load(folder / f"steps-{rank}.pt")[name] for rank in range(2))
    assert first["gathered"] == second["gathered"] == gathered
    assert first["sharded"] == second["sharded"] == sharded
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")
def test_of_a_file_that_only_bears_the_same_path_nothing_is_taken(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"another machine's")
    (tmp_path / "4").symlink_to(other)
    with pytest.raises(OSError, match="is another file than gridflow-12"):
        _mapped(str(tmp_path / "4"), "gridflow-12")
    assert other.read_bytes() == b"another machine's"


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_ranks(folder):
    """From one to two and from two to one: a checkpoint has the whole of what the ranks step in parts."""
    whole = train(params(**TOGETHER), task(build=wide)).shipped
    resumed = [torch.load(folder / f"resumed-{rank}.pt") for rank in range(2)]
    for rank in range(2):
        kept = load_checkpoint(folder / f"kept-{rank}")
        resumed.append(train(params(**TOGETHER), task(build=wide), resume=kept).shipped)
    for shipped in resumed:
        for key, value in whole.items():
            torch.testing.assert_close(shipped[key], value, atol=1e-5, rtol=1e-4)
    assert (folder / "kept-0/checkpoint.pt").stat().st_size < 1.1 * (folder / "alone/checkpoint.pt").stat().st_size


def test_only_layers_with_many_more_weights_than_a_batch_has_numbers_are_gathered():
    image = torch.rand(1, 1, 8, 8)
    assert large_layers(wide(), image, batch_size=16) == ["3"]
    assert large_layers(wide(), image, batch_size=64) == []
    frozen = wide()
    assert gather_factors(frozen, ["3"], Share()) == ["3.weight", "3.bias"]
    frozen[3].requires_grad_(False)
    frozen(torch.rand(2, 1, 8, 8)).sum().backward()  # without a process group: there is nothing to exchange
    assert frozen[1].weight.grad is not None


def test_of_transformers_the_layers_with_many_rows_an_image_are_summed_as_ever():
    network = registry.build({"architecture": "torchvision_model", "builder": "swin_t", "dropout": 0.0}, 6, (3, 64, 64))
    assert large_layers(network, torch.rand(1, 3, 64, 64), batch_size=16) == []


def test_a_batch_smaller_than_the_ranks_is_told(monkeypatch):
    monkeypatch.setattr("cnn_core.classification.training.loop.rank_and_world", lambda: (0, 20))
    with pytest.raises(ValueError, match="batches of 14 images cannot be shared by 20 workers; lower num_workers"):
        train(params(), task())


def test_the_global_batches_and_the_steps_do_not_depend_on_the_number_of_ranks():
    call = {"draws": 0, "batch_size": 16, "seed": 0, "epoch": 1, "device": torch.device("cpu")}
    alone = [labels for _, labels, _ in stripes(100).epoch(**call, rank=0, world=1)]
    for world in (2, 3):
        ranks = [list(stripes(100).epoch(**call, rank=rank, world=world)) for rank in range(world)]
        for labels, shares in zip(alone, zip(*ranks, strict=True), strict=True):
            assert torch.equal(torch.cat([share for _, share, _ in shares]), labels)
            assert {whole for _, _, whole in shares} == {len(labels)}
