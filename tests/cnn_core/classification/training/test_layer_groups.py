from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import nn

from cnn_core.classification.architectures.digit_cnn import DigitCNN, DigitCNNParams
from cnn_core.classification.architectures.torchvision_model import TorchvisionModelParams, construct
from cnn_core.classification.training.layer_groups import group_modules, head_name, keep_statistics, layer_groups
from tests.helpers.learning import convolutional, linear

# (number of groups, the head, the first layer of some groups)
EXPECTED = {
    "alexnet": (8, "classifier.6", {0: "features.0", 4: "features.10", 5: "classifier.1", 6: "classifier.4"}),
    "squeezenet1_1": (10, "classifier.1", {0: "features.0", 1: "features.3.squeeze", 8: "features.12.squeeze"}),
    "mobilenet_v3_small": (9, "classifier.3", {0: "features.0.0", 7: "classifier.0"}),
    "resnet18": (6, "fc", {0: "conv1", 1: "layer1.0.conv1", 4: "layer4.0.conv1"}),
    "resnet50": (6, "fc", {0: "conv1", 1: "layer1.0.conv1", 4: "layer4.0.conv1"}),
    "efficientnet_b0": (10, "classifier.1", {0: "features.0.0", 8: "features.8.0"}),
    "convnext_tiny": (9, "classifier.2", {0: "features.0.0", 7: "features.7.0.layer_scale"}),
    "vit_b_16": (8, "heads.head", {0: "class_token", 1: "encoder.pos_embedding"}),
}


def on_meta(builder: str) -> nn.Module:
    with torch.device("meta"):
        section = TorchvisionModelParams(builder=builder, dropout=0.0)
        return construct(params=section, num_classes=6, shape=(3, 224, 224))


def digit_cnn(depth: int) -> DigitCNN:
    section = DigitCNNParams(width=2, depth=depth, channel_dropout=0.0, dropout=0.0)
    return DigitCNN(params=section, num_classes=10, shape=(1, 64, 64))


def names(network: nn.Module) -> list[list[str]]:
    by_id = {id(p): name for name, p in network.named_parameters()}
    return [[by_id[id(p)] for p in group] for group in layer_groups(network)]


@pytest.mark.parametrize("builder", EXPECTED)
def test_the_groups_of_known_networks(builder: str) -> None:
    groups = names(on_meta(builder))
    count, head, firsts = EXPECTED[builder]
    assert len(groups) == count
    assert groups[-1] == [f"{head}.weight", f"{head}.bias"]
    found = {number: groups[number][0] for number in firsts}
    assert {n: first.removesuffix(".weight") for n, first in found.items()} == firsts


@pytest.mark.parametrize(
    ("network", "count"), [(digit_cnn(1), 3), (digit_cnn(3), 4), (convolutional(), 2), (linear(), 1)]
)
def test_every_parameter_is_in_one_group_and_the_head_alone_in_the_last(network: nn.Module, count: int) -> None:
    groups = names(network)
    assert len(groups) == count
    assert sorted(chain.from_iterable(groups)) == sorted(name for name, _ in network.named_parameters())
    assert {name.rpartition(".")[0] for name in groups[-1]} == {head_name(network)}


@pytest.mark.parametrize("builder", EXPECTED)
def test_the_groups_follow_the_computation(builder: str) -> None:
    network = on_meta(builder).eval()
    group_of = {module: number for number, group in enumerate(group_modules(network)) for module in group}
    ran: list[int] = []
    for module, number in group_of.items():
        if not any(True for _ in module.children()):  # those with parts end after what they are made of
            module.register_forward_hook(lambda *_, number=number: ran.append(number))
    network(torch.empty(1, 3, 224, 224, device="meta"))
    assert ran == sorted(ran)
    assert {*ran} >= {*range(len(layer_groups(network)))} - {0}


def test_a_norm_goes_with_the_layer_before_it() -> None:
    assert names(convolutional())[0] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    first = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    assert names(first)[0] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_shared_parameter_is_in_one_group() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    network[2].weight = network[0].weight
    flat = list(chain.from_iterable(layer_groups(network)))
    assert len(flat) == len({id(p) for p in flat}) == 5


def test_modules_and_parameters_fall_into_the_same_groups() -> None:
    network = on_meta("vit_b_16")
    owned = [[p for m in group for p in m.parameters(recurse=False)] for group in group_modules(network)]
    assert [list(map(id, group)) for group in owned] == [list(map(id, group)) for group in layer_groups(network)]


def test_statistics_of_frozen_groups_stay() -> None:
    network = digit_cnn(2).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    keep_statistics(group_modules(network)[0])
    network(torch.rand(4, 1, 64, 64))
    kept = {name for name, buffer in network.named_buffers() if torch.equal(buffer, before[name])}
    assert kept == {name for name in before if name.startswith("blocks.0.")}
