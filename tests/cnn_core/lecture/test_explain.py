"""The anatomy of networks against what is known of them, and against counting by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import get_model

from cnn_core.classification.architectures.digit_cnn import DigitCNN, DigitCNNParams
from cnn_core.lecture import explain, explain_figures
from cnn_core.lecture.receptive_fields import output_fields


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    params = DigitCNNParams(width=4, depth=2, channel_dropout=0.2, dropout=0.5)
    return DigitCNN(params=params, num_classes=10, shape=(1, 12, 12))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("builder", "layer", "size", "stride"),  # Araujo, Norris and Sim (2019), table of receptive fields
    [("alexnet", "features.12", 195, 32), ("vgg11", "features.20", 150, 32), ("resnet18", "layer4", 435, 32),
     ("mobilenet_v2", "features", 491, 32)],
)  # fmt: skip
def test_receptive_fields_are_those_that_are_known(builder: str, layer: str, size: int, stride: int) -> None:
    with torch.device("meta"):
        network = get_model(builder)
        field = output_fields(network, torch.zeros(1, 3, 64, 64))[layer]
    assert (field.size, field.step, field.is_global) == (size, stride, False)


def test_a_receptive_field_is_what_the_gradient_reaches(network: nn.Module, images: torch.Tensor) -> None:
    table = explain.layers(network, (1, 12, 12)).set_index("layer")
    for layer in ("blocks.0.0", "blocks.0.5"):
        field = explain.effective_receptive_field(network, images, layer)
        assert field.any(0).sum() == field.any(1).sum() == table.loc[layer, "receptive_field"]
        assert field.max() == 1


def test_the_layers_are_counted_as_by_hand(network: nn.Module) -> None:
    table = explain.layers(network, (1, 12, 12)).set_index("layer")
    second = table.loc["blocks.0.3"]
    assert (second["kind"], second["input"], second["output"]) == ("Conv2d", "4 x 12 x 12", "4 x 12 x 12")
    assert second["parameters"] == 4 * 4 * 9
    assert second["multiply_adds"] == 4 * 4 * 9 * 12 * 12
    assert second["dense_parameters"] == (4 * 144) ** 2
    assert second["connected"] == pytest.approx(4 * 9 / (4 * 144))  # of all inputs an output is connected with
    assert second["reuse"] == 144  # at each place
    head = table.loc["head.2"]
    assert (head["connected"], head["reuse"], head["receptive_field"]) == (1, 1, 0)
    totals = explain.totals(table.reset_index())
    assert totals["parameters"] == sum(each.numel() for each in network.parameters())
    assert totals["receptive_field"] == table["receptive_field"].max() == table.loc["blocks.1.6", "receptive_field"]


def test_attention_and_global_pools_see_everything() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.attend = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)
            self.end = nn.Linear(8, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.cut(images).flatten(2).transpose(1, 2)
            return self.end(self.attend(tokens, tokens, tokens)[0])

    fields = output_fields(Attends(), torch.zeros(1, 3, 16, 16))
    assert not fields["cut"].is_global
    assert fields["end"].is_global
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
    assert [field.is_global for _, field in sorted(output_fields(pooled, torch.zeros(1, 3, 9, 9)).items())][1:] == [
        False, True, True,
    ]  # fmt: skip


def test_the_sigmoid_lets_the_gradient_vanish(network: nn.Module, images: torch.Tensor) -> None:
    table = explain.gradient_norms(network, images, torch.arange(8))
    norms = table.pivot(index="depth", columns="activation", values="gradient")
    assert list(norms.index) == [1, 2, 3, 4, 5]
    shares = norms.loc[1] / norms.loc[5]
    assert shares["ReLU"] > 20 * shares["sigmoid"]


def test_sparsity_counts_zeros_and_dead_channels() -> None:
    first = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
        first.bias.copy_(torch.tensor([0.0, -1.0]))  # the second channel is never active
    images = torch.tensor([[1.0, -1.0], [1.0, -1.0]]).view(1, 1, 2, 2)
    (row,) = explain.sparsity(nn.Sequential(first, nn.ReLU(inplace=True)), images).to_dict("records")
    assert row == {"layer": "1", "zeros": pytest.approx(0.75), "dead": pytest.approx(0.5)}


def test_thinned_networks_differ_and_the_whole_one_stays(network: nn.Module, images: torch.Tensor) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    table = explain.thinned(network, images, networks=20)
    whole = table[table["network"] == 0]
    expected = network.eval()(images).softmax(1).max(1).values.detach().numpy()
    assert whole["p"].to_numpy() == pytest.approx(expected)
    assert table[(table["image"] == 0) & (table["network"] > 0)]["p"].nunique() > 10
    torch.testing.assert_close(dict(network.state_dict()), state)
    again = explain.thinned(network, images, networks=20)
    assert again.equals(table)
    steady = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))  # nothing to drop
    assert explain.thinned(steady, images, networks=2)["agrees"].all()


def test_the_figures_are_drawn(network: nn.Module, images: torch.Tensor, tmp_path: Path) -> None:
    names = explain.map_layers(network, (1, 12, 12), most=3)
    assert len(names) == 3
    maps = explain.feature_maps(network, images[0], names)
    sizes = explain.layers(network, (1, 12, 12)).set_index("layer")["receptive_field"]
    fields = {name: explain.effective_receptive_field(network, images, name) for name in names}
    pixels = np.zeros((1, 12, 12), np.uint8)
    explain_figures.kernels_picture(tmp_path / "k.png", explain.first_kernels(network), title="kernels")
    explain_figures.maps_picture(tmp_path / "m.png", pixels, maps, title="maps")
    explain_figures.fields_picture(tmp_path / "f.png", fields, {n: int(sizes[n]) for n in names}, title="fields")
    explain_figures.behaviour_picture(
        tmp_path / "b.png",
        explain.gradient_norms(network, images, torch.arange(8)),
        explain.sparsity(network, images),
        explain.thinned(network, images, networks=3),
        title="behaviour",
    )
    for picture in tmp_path.glob("*.png"):
        assert np.asarray(Image.open(picture).convert("L")).std() > 5  # something is drawn
    assert len(list(tmp_path.glob("*.png"))) == 4
