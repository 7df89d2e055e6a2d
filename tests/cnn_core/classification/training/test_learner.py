"""One step of learning: the gradient, the rates, the average, the precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cnn_core import devices
from cnn_core.classification.training.learner import ClassifierLearner
from tests.helpers.learning import CPU, PLAIN, linear, params, stripes, training_setup
from tests.helpers.trained import run


def test_micro_batches_add_up_to_the_same_step():
    whole, _ = run(params(), training_setup(build=linear))
    parts, _ = run(params(), training_setup(build=linear, micro_batch=5))
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
    learner.step(PLAIN.view(stripes(8).images), stripes(8).labels, global_batch_size=8)
    assert learner.optimizer.param_groups[0]["lr"] > 0.08


def test_frozen_groups_stay_as_they_are_their_batch_norm_too():
    split = stripes(32)
    learner = learner_of(params(ema_decay=0))
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}
    learner.freeze(learner.groups - 1)
    learner.step(PLAIN.view(split.images), split.labels, global_batch_size=32)
    changed = {key for key, value in learner.network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"6.weight", "6.bias"}
    learner.freeze(0)
    learner.step(PLAIN.view(split.images), split.labels, global_batch_size=32)
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
        loss, right = one.step(PLAIN.view(split.images), split.labels, global_batch_size=32)
        torch.manual_seed(0)
        assert other.step(PLAIN.view(split.images), shares, global_batch_size=32)[1] == right
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
        learner.step(PLAIN.view(split.images), split.labels, global_batch_size=32)
        changes.append(not torch.equal(before, learner.averaged[0].weight))
    assert changes == [False, False, True, False, False, True, False]


def test_averaged_weights_trail_the_plain_ones():
    split = stripes(32)
    learner = learner_of(params(ema_decay=0.9))
    plain = learner_of(params(ema_decay=0))
    for one in (learner, plain):
        for _ in range(5):
            one.step(PLAIN.view(split.images), split.labels, global_batch_size=32)
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
        learner.step(PLAIN.view(split.images), split.labels, global_batch_size=16)
        moved.append((learner.network[0].weight - before).norm().item() / rate)
    assert moved[0] > 1e-3
    assert moved[1] <= 1e-4 * 1.01


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_batch_is_learned_by_heart(optimizer):
    split = stripes(16)
    learner = learner_of(params(optimizer=optimizer, label_smoothing=0.0), steps=120)
    for _ in range(120):
        loss, _ = learner.step(PLAIN.view(split.images), split.labels, global_batch_size=16)
    assert learner.measure(split)[1] == 1.0
    assert float(loss) / 16 < 0.2


def learner_of(settings, steps=20, class_weights=None):
    torch.manual_seed(0)
    setup = training_setup(class_weights=class_weights)
    return ClassifierLearner(setup.build(), settings, setup, steps=steps)


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
    done, _ = run(params(precision="bfloat16", epochs=4), training_setup())
    assert done.best["val_accuracy"] > 0.8


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick_device("auto") == CPU
    with pytest.raises(ValueError, match="no CUDA device"):
        devices.pick_device(True)


def test_the_optimizer_has_one_thread_where_there_is_little_to_do_and_all_again_after_it():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = []
        for numbers in (10, 3_000_000):
            with devices.as_many_threads_as_pay([torch.zeros(numbers)]):
                seen.append(torch.get_num_threads())
            assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError), devices.as_many_threads_as_pay([torch.zeros(1)]):
            raise RuntimeError
        assert seen == [1, 3]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


class Numbered(nn.Module):
    """A network with whole numbers in its state, as swin's indices are."""

    def __init__(self):
        super().__init__()
        self.body = training_setup().build()
        self.register_buffer("index", torch.arange(400))

    def forward(self, images):
        return self.body(images)


def test_whole_numbers_are_not_averaged():
    split = stripes(8)
    learner = ClassifierLearner(Numbered(), params(ema_decay=0.9), training_setup(), steps=30)
    for _ in range(30):
        learner.step(PLAIN.view(split.images), split.labels, global_batch_size=8)
    assert torch.equal(learner.weights()["index"], torch.arange(400))
