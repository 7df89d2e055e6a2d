from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from cnn_core.classification.augmentation.transforms import Glyph
from cnn_core.classification.inference.model_folder import read_card
from cnn_core.classification.training.learner import weights_of
from cnn_core.classification.training.loop import result_of
from cnn_core.classification.training.params import TrainParams
from cnn_core.params import load_section
from tasks.common.classifier_training import micro_batch_of, save_trained, training_metrics, warn_of_batch_norm
from tests.helpers.learning import PLAIN, ROOT, convolutional, linear, params, stripes, training_setup
from tests.helpers.trained import run, weights_equal


def test_it_learns_and_keeps_the_best_epoch():
    done, checkpoints = run(params(epochs=6), training_setup())
    assert done.best["val_accuracy"] > 0.95
    best = max(done.history, key=lambda r: (r["val_accuracy"], r["epoch"]))
    assert done.best == {key: best[key] for key in ("epoch", "val_loss", "val_accuracy")}
    assert weights_equal(done.shipped, done.evaluated)
    assert weights_equal(done.shipped, weights_of(checkpoints[best["epoch"] - 1]["learner"]))
    assert [record["epoch"] for record in done.history] == list(range(1, 7))


def test_ties_in_accuracy_go_to_the_later_epoch():
    easy = training_setup(val=stripes(4, seed=5))
    done, _ = run(params(epochs=8), easy)
    tied = [r for r in done.history if r["val_accuracy"] == done.best["val_accuracy"]]
    assert len(tied) > 1
    assert done.best["epoch"] == tied[-1]["epoch"]


@pytest.mark.parametrize("select", ["accuracy", "last"])
def test_the_last_epoch_is_kept_on_demand_whatever_its_accuracy(select):
    right = stripes(37, seed=1)
    wrong = dataclasses.replace(right, labels=(right.labels + 1) % 4)  # the more is learned, the worse this goes
    done, checkpoints = run(params(epochs=8, select=select, learning_rate=0.001), training_setup(val=wrong))
    accuracies = [record["val_accuracy"] for record in done.history]
    assert accuracies[-1] < max(accuracies)
    assert (done.best["epoch"] == 8) == (select == "last")
    assert weights_equal(done.shipped, weights_of(checkpoints[int(done.best["epoch"]) - 1]["learner"]))


@pytest.mark.parametrize("refit", ["none", "all"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_going_on_from_any_checkpoint_gives_what_an_uninterrupted_run_gives(refit, stop):
    whole = stripes(150, seed=2)
    settings, problem = params(refit=refit, epochs=3, epoch_images=40), training_setup(refit=whole)
    done, checkpoints = run(settings, problem)
    if stop > len(checkpoints):
        pytest.skip("a single fit has no fourth epoch")
    resumed, later = run(settings, problem, resume=checkpoints[stop - 1])
    assert len(later) == len(checkpoints) - stop
    plain = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in done.history]
    again = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in resumed.history]
    assert again == plain
    assert weights_equal(resumed.shipped, done.shipped)
    assert weights_equal(resumed.evaluated, done.evaluated)


class Cramped(nn.Sequential):
    """A network with batch norm on a device whose memory is full with more than eight images in training."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(images)


def test_a_smaller_micro_batch_after_a_full_memory_is_recorded_and_told(tmp_path, capsys):
    problem = training_setup(build=lambda: Cramped(*convolutional()))
    with pytest.raises(torch.OutOfMemoryError):
        run(params(epochs=1), problem)
    whole, checkpoints = run(params(epochs=2), training_setup())
    assert not any("micro_batch" in record for record in whole.history)
    # the first epoch went well, in the second the memory was full: tried again from there with half of 16
    done, _ = run(params(epochs=2), dataclasses.replace(problem, micro_batch=8), resume=checkpoints[0])
    assert [record.get("micro_batch") for record in done.history] == [None, 8]
    assert not weights_equal(done.shipped, whole.shipped)
    assert (micro_batch_of(whole), micro_batch_of(done)) == (None, 8)
    assert training_metrics(done, convolutional(), 1)["micro_batch"] == 8
    warn_of_batch_norm(whole, convolutional(), 16)
    warn_of_batch_norm(done, linear(), 16)
    assert "warning" not in " ".join(capsys.readouterr())
    warn_of_batch_norm(done, convolutional(), 16)
    assert "the network took 8 images at a time, not batch_size 16" in " ".join(capsys.readouterr())
    dataset = {"shape": [1, 8, 8], "mean": [0.2], "std": [0.3], "content_sha256": "0"}
    dataset |= {
        "set": "x",
        "classes": list("0123"),
        "originals": 100,
        "copies": 0,
        "counts": {"train": 100, "val": 37, "test": 0},
    }
    save_trained(tmp_path / "model", params(), dataset, done, classes=list("0123"))
    assert read_card(tmp_path / "model").micro_batch == 8


def test_the_same_seed_trains_the_same_weights_and_another_seed_others():
    assert weights_equal(run(params(), training_setup())[0].shipped, run(params(), training_setup())[0].shipped)
    assert not weights_equal(
        run(params(), training_setup())[0].shipped, run(params(seed=1), training_setup())[0].shipped
    )


def test_refit_trains_a_second_network_on_everything_for_the_chosen_epochs():
    seen = []

    class Counting(Glyph):
        def training(self, images, labels, **more):
            seen.append(len(images))
            return super().training(images, labels, **more)

    counting = Counting(params=PLAIN.params)
    done, checkpoints = run(params(refit="all"), training_setup(refit=stripes(150, seed=2), transform=counting))
    refit = [record for record in done.history if record["phase"] == "refit"]
    assert len(refit) == done.best["epoch"]
    assert all("val_accuracy" not in record for record in refit)
    assert sum(seen) == 3 * 100 + 150 * len(refit)
    assert not weights_equal(done.shipped, done.evaluated)
    assert weights_equal(done.shipped, weights_of(checkpoints[-1]["learner"]))
    assert weights_equal(
        result_of(checkpoints[-1]).evaluated, weights_of(checkpoints[done.best["epoch"] - 1]["learner"])
    )


def test_patience_stops_when_accuracy_stops_rising():
    done, _ = run(params(epochs=40, patience=2), training_setup(val=stripes(6, seed=5)))
    assert len(done.history) < 40
    first_best = next(r["epoch"] for r in done.history if r["val_accuracy"] == done.best["val_accuracy"])
    assert len(done.history) == first_best + 2


def test_without_a_validation_part_the_last_epoch_is_taken():
    done, _ = run(params(patience=1), training_setup(val=stripes(0)))
    assert done.best == {"epoch": 3}


class _Diverges(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.inner, self.left = linear(), after

    def forward(self, images):
        self.left -= self.training
        return self.inner(images) * (math.nan if self.left < 0 else 1)


def test_a_loss_that_is_no_number_stops_with_the_epoch_the_step_and_what_to_lower():
    with pytest.raises(ValueError, match=r"loss is nan at step 3 of epoch 2.*lower learning_rate \(now 0\.01\)"):
        run(params(), training_setup(build=lambda: _Diverges(7 + 2)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"model": {"architecture": "vgg"}},
            "train.digits.model.architecture must be one of digit_cnn, torchvision_model, not 'vgg'",
        ),
        ({"epochs": 0}, "train.digits.epochs must be at least 1, not 0"),
        ({"optimizer": "adam"}, "train.digits.optimizer must be one of adamw, sgd, not 'adam'"),
        ({"learning_rate": 0}, "train.digits.learning_rate must be greater than 0, not 0"),
        ({"warmup_fraction": 1.0}, "train.digits.warmup_fraction must be at least 0 and at most 0.9"),
    ],
)
def test_bad_parameters_are_refused_by_their_full_name(tmp_path, change, sentence):
    import yaml

    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["train"]["digits"] |= change
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        load_section(TrainParams, "train.digits", tmp_path / "params.yaml")


def test_an_unknown_key_of_the_model_is_refused_by_its_full_name():
    settings = params()
    with pytest.raises(ValueError, match=r"model\.widht is not a parameter; did you mean model\.width"):
        dataclasses.replace(settings, model={**settings.model, "widht": 3})
