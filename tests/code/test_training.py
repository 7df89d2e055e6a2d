from __future__ import annotations

import dataclasses
import io
import math

import pytest
import torch
from learning import CPU, PLAIN, ROOT, linear, params, stripes, task
from torch import nn

from cnn_core import devices
from cnn_core.learner import Learner, weights_of
from cnn_core.params import load_section
from cnn_core.training import TrainParams, outcome, train
from cnn_core.transforms import Glyph


def weights_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def run(params_, task_, **more):
    """The outcome, and the checkpoint of each epoch as it comes back from a file."""
    checkpoints = []

    def keep(record, make):
        buffer = io.BytesIO()
        torch.save(make(), buffer)
        buffer.seek(0)
        checkpoints.append(torch.load(buffer, weights_only=True))

    return train(params_, task_, on_epoch=keep, **more), checkpoints


def test_it_learns_and_keeps_the_best_epoch():
    done, checkpoints = run(params(epochs=6), task())
    assert done.best["val_accuracy"] > 0.95
    best = max(done.history, key=lambda r: (r["val_accuracy"], r["epoch"]))
    assert done.best == {key: best[key] for key in ("epoch", "val_loss", "val_accuracy")}
    assert weights_equal(done.shipped, done.evaluated)
    assert weights_equal(done.shipped, weights_of(checkpoints[best["epoch"] - 1]["learner"]))
    assert [record["epoch"] for record in done.history] == list(range(1, 7))


def test_ties_in_accuracy_go_to_the_later_epoch():
    easy = task(val=stripes(4, seed=5))
    done, _ = run(params(epochs=8), easy)
    tied = [r for r in done.history if r["val_accuracy"] == done.best["val_accuracy"]]
    assert len(tied) > 1
    assert done.best["epoch"] == tied[-1]["epoch"]


@pytest.mark.parametrize("select", ["accuracy", "last"])
def test_the_last_epoch_is_kept_on_demand_whatever_its_accuracy(select):
    right = stripes(37, seed=1)
    wrong = dataclasses.replace(right, labels=(right.labels + 1) % 4)  # the more is learned, the worse this goes
    done, checkpoints = run(params(epochs=8, select=select, learning_rate=0.001), task(val=wrong))
    accuracies = [record["val_accuracy"] for record in done.history]
    assert accuracies[-1] < max(accuracies)
    assert (done.best["epoch"] == 8) == (select == "last")
    assert weights_equal(done.shipped, weights_of(checkpoints[int(done.best["epoch"]) - 1]["learner"]))


@pytest.mark.parametrize("refit", ["none", "all"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_going_on_from_any_checkpoint_gives_what_an_uninterrupted_run_gives(refit, stop):
    whole = stripes(150, seed=2)
    settings, problem = params(refit=refit, epochs=3, epoch_images=40), task(refit=whole)
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


def test_the_same_seed_trains_the_same_weights_and_another_seed_others():
    assert weights_equal(run(params(), task())[0].shipped, run(params(), task())[0].shipped)
    assert not weights_equal(run(params(), task())[0].shipped, run(params(seed=1), task())[0].shipped)


def test_refit_trains_a_second_network_on_everything_for_the_chosen_epochs():
    seen = []

    class Counting(Glyph):
        def training(self, images, labels, **more):
            seen.append(len(images))
            return super().training(images, labels, **more)

    counting = Counting(params=PLAIN.params)
    done, checkpoints = run(params(refit="all"), task(refit=stripes(150, seed=2), transform=counting))
    refit = [record for record in done.history if record["phase"] == "refit"]
    assert len(refit) == done.best["epoch"]
    assert all("val_accuracy" not in record for record in refit)
    assert sum(seen) == 3 * 100 + 150 * len(refit)
    assert not weights_equal(done.shipped, done.evaluated)
    assert weights_equal(done.shipped, weights_of(checkpoints[-1]["learner"]))
    assert weights_equal(outcome(checkpoints[-1]).evaluated, weights_of(checkpoints[done.best["epoch"] - 1]["learner"]))


def test_patience_stops_when_accuracy_stops_rising():
    done, _ = run(params(epochs=40, patience=2), task(val=stripes(6, seed=5)))
    assert len(done.history) < 40
    first_best = next(r["epoch"] for r in done.history if r["val_accuracy"] == done.best["val_accuracy"])
    assert len(done.history) == first_best + 2


def test_without_a_validation_part_the_last_epoch_is_taken():
    done, _ = run(params(patience=1), task(val=stripes(0)))
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
        run(params(), task(build=lambda: _Diverges(7 + 2)))


def test_micro_batches_add_up_to_the_same_step():
    whole, _ = run(params(), task(build=linear))
    parts, _ = run(params(), task(build=linear, micro_batch=5))
    for key in whole.shipped:
        torch.testing.assert_close(parts.shipped[key], whole.shipped[key], atol=1e-5, rtol=1e-4)


def test_weight_decay_spares_biases_and_batch_norm():
    learner = learner_of(params(weight_decay=0.1))
    decayed, spared = learner.optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert all(p.ndim > 1 for p in decayed["params"])
    assert spared["weight_decay"] == 0
    assert all(p.ndim == 1 for p in spared["params"])


def test_layers_far_from_the_head_learn_more_slowly():
    learner = learner_of(params(layer_decay=0.5, learning_rate=0.1))
    peaks = {id(p): group["max_lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    first, *_, head = (peaks[id(module.weight)] for module in learner.network if hasattr(module, "weight"))
    assert head == pytest.approx(0.1)
    assert first == pytest.approx(0.1 * 0.5 ** (learner.groups - 1))


def test_a_warm_up_of_one_step_is_a_warm_up():
    learner = learner_of(params(warmup_fraction=0.2, learning_rate=0.1), steps=4)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 25)
    learner.step(PLAIN.view(stripes(8).images), stripes(8).labels, whole=8)
    assert learner.optimizer.param_groups[0]["lr"] > 0.08


def test_frozen_groups_stay_as_they_are_their_batch_norm_too():
    split = stripes(32)
    learner = learner_of(params(ema_decay=0))
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}
    learner.freeze(learner.groups - 1)
    learner.step(PLAIN.view(split.images), split.labels, whole=32)
    changed = {key for key, value in learner.network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"6.weight", "6.bias"}
    learner.freeze(0)
    learner.step(PLAIN.view(split.images), split.labels, whole=32)
    changed = {key for key, value in learner.network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == before.keys()


def test_layer_groups_thaw_from_the_head_down():
    settings = params(freeze_epochs=2, unfreeze_every=2)
    assert [settings.frozen_groups(epoch, 4) for epoch in range(8)] == [3, 3, 2, 2, 1, 1, 0, 0]
    assert [params(freeze_epochs=1).frozen_groups(epoch, 4) for epoch in range(3)] == [3, 0, 0]


def test_rare_classes_weigh_more_and_targets_may_be_shares():
    split = stripes(32)
    shares = torch.nn.functional.one_hot(split.labels, 4).float()
    for weights in (None, torch.tensor([1.0, 2.0, 1.0, 1.0])):
        one, other = learner_of(params(), class_weights=weights), learner_of(params(), class_weights=weights)
        torch.manual_seed(0)
        loss, right = one.step(PLAIN.view(split.images), split.labels, whole=32)
        torch.manual_seed(0)
        assert other.step(PLAIN.view(split.images), shares, whole=32)[1] == right
        if weights is None:
            plain = loss
            torch.testing.assert_close(
                one.network.state_dict()["6.weight"], other.network.state_dict()["6.weight"], atol=1e-5, rtol=1e-4
            )
    assert loss > plain


def test_an_average_taken_every_few_steps_decays_as_much():
    split = stripes(32)
    learner = learner_of(params(ema_decay=0.9, ema_every=3))
    changes = []
    for _ in range(7):
        before = learner.averaged[0].weight.clone()
        learner.step(PLAIN.view(split.images), split.labels, whole=32)
        changes.append(not torch.equal(before, learner.averaged[0].weight))
    assert changes == [False, False, True, False, False, True, False]


def test_averaged_weights_trail_the_plain_ones():
    split = stripes(32)
    learner = learner_of(params(ema_decay=0.9))
    plain = learner_of(params(ema_decay=0))
    for one in (learner, plain):
        for _ in range(5):
            one.step(PLAIN.view(split.images), split.labels, whole=32)
    assert plain.averaged is plain.network
    assert not torch.equal(learner.averaged[0].weight, learner.network[0].weight)
    assert not torch.equal(learner.averaged[1].running_mean, learner.network[1].running_mean)


def test_the_gradient_is_clipped_to_its_norm():
    split = stripes(16)
    moved = []
    for clip in (0.0, 1e-4):
        learner = learner_of(params(optimizer="sgd", momentum=0.0, grad_clip=clip, weight_decay=0.0))
        before = learner.network[0].weight.clone()
        rate = learner.optimizer.param_groups[0]["lr"]
        learner.step(PLAIN.view(split.images), split.labels, whole=16)
        moved.append((learner.network[0].weight - before).norm().item() / rate)
    assert moved[0] > 1e-3
    assert moved[1] <= 1e-4 * 1.01


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_batch_is_learned_by_heart(optimizer):
    split = stripes(16)
    learner = learner_of(params(optimizer=optimizer, label_smoothing=0.0), steps=120)
    for _ in range(120):
        loss, _ = learner.step(PLAIN.view(split.images), split.labels, whole=16)
    assert learner.measure(split)[1] == 1.0
    assert float(loss) / 16 < 0.2


def learner_of(settings, steps=20, class_weights=None):
    torch.manual_seed(0)
    return Learner(
        task().build(),
        settings,
        steps=steps,
        mean=(0.2,),
        std=(0.3,),
        view=PLAIN.view,
        class_weights=class_weights,
        device=CPU,
        dtype=None,
        micro_batch=0,
    )


def test_precision_follows_the_device(monkeypatch):
    assert devices.autocast_dtype("float32", CPU) is None
    assert devices.autocast_dtype("bfloat16", CPU) is torch.bfloat16
    for capabilities, expected in [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, None),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert devices.autocast_dtype("auto", CPU) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert devices.autocast_dtype("auto", CPU) is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert devices.autocast_dtype("auto", torch.device("cuda")) is None
    with pytest.raises(ValueError, match="this GPU does not have it"):
        devices.autocast_dtype("bfloat16", torch.device("cuda"))


def test_bfloat16_trains():
    done, _ = run(params(precision="bfloat16", epochs=4), task())
    assert done.best["val_accuracy"] > 0.8


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick_device("auto") == CPU
    with pytest.raises(ValueError, match="no CUDA device"):
        devices.pick_device(True)


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
