"""A model folder as a torch.export program: it says what the classifier says, or it is not written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cnn_core.export
from cnn_core.classification.inference.classifier import Classifier
from cnn_core.export import MOST, TOLERANCE, Probabilities, allowed, export, main, sample_images
from tests.helpers.model_folders import DIGITS, SCENES, digit_model, photo_model


@pytest.fixture
def folder(tmp_path):
    """Emptied at the end: these networks are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def agrees(folder: Path, model: Path) -> None:
    """At a batch size that `export` did not try, on other images."""
    assert export(model, folder / "out/m.pt2") <= MOST
    classifier = Classifier(model)
    images = np.random.default_rng(7).integers(0, 256, (3, *classifier.card.shape), np.uint8)
    program = torch.export.load(folder / "out/m.pt2").module()
    probabilities = program(torch.from_numpy(images).float() / 255)
    assert not probabilities.requires_grad
    expected = classifier(images)
    assert ((probabilities - torch.from_numpy(expected)).abs() <= allowed(torch.from_numpy(expected))).all()
    assert (probabilities.argmax(1).numpy() == expected.argmax(1)).all()
    assert np.ptp(expected, axis=1).min() > 1e-3  # no uniform answer, with which anything would agree
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["m.pt2", "m.pt2.json"]


OTHER_FAMILIES = [
    *("convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t"),
    *("mnasnet0_5", "mobilenet_v2", "regnet_y_400mf", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0"),
    *("swin_t", "swin_v2_t", "vgg11", "vit_b_32", "wide_resnet50_2"),
]


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["alexnet", "resnet18", "mobilenet_v3_small"])
def test_a_torchvision_network(folder, builder):
    agrees(folder, photo_model(folder / "model", builder))


@pytest.mark.nightly
@pytest.mark.parametrize("builder", OTHER_FAMILIES)
def test_a_network_of_another_family_of_torchvision(folder, builder):
    sides = {"inception_v3": 96, "maxvit_t": 224}
    agrees(folder, photo_model(folder / "model", builder, side=sides.get(builder, 64)))


def test_the_digits_network_and_what_stands_beside_it(folder):
    agrees(folder, digit_model(folder / "model"))
    beside = json.loads((folder / "out/m.pt2.json").read_text())
    assert beside["classes"] == DIGITS
    assert beside["input"]["shape"] == ["N", 1, 28, 28]
    assert beside["input"]["steps"] == [
        "upright, grey",
        "the middle square, resized to 28 x 28 pixels",
        "divided by 255",
    ]
    assert 0 <= beside["largest_difference"] <= TOLERANCE


def test_the_description_says_how_a_photograph_becomes_the_input(folder):
    export(photo_model(folder / "model", "squeezenet1_1", side=32, stored=100), folder / "m.pt2")
    beside = json.loads((folder / "m.pt2.json").read_text())
    assert beside["classes"] == SCENES
    assert beside["input"]["shape"] == ["N", 3, 32, 32]
    assert beside["input"]["steps"] == [
        "upright, RGB",
        "the middle square, resized to 100 x 100 pixels",
        "resized to 32 x 32 pixels, bilinear with antialiasing",
        "divided by 255",
    ]


class Shifted(Probabilities):
    """Normalises with a mean that is a little off: every row still adds up to 1."""

    def __init__(self, network, card):
        super().__init__(network, card)
        self.mean += 0.01


class Undefined(Probabilities):
    def forward(self, images):
        return super().forward(images) * float("nan")


@pytest.mark.parametrize("wrong", [Shifted, Undefined])
def test_a_program_that_differs_is_not_left(folder, monkeypatch, wrong):
    model = digit_model(folder / "model")
    export(model, folder / "m.pt2")
    before = {path: path.read_bytes() for path in folder.glob("m.pt2*")}
    monkeypatch.setattr(cnn_core.export, "Probabilities", wrong)
    with pytest.raises(ValueError, match=r"differ from the classifier's by up to .* nothing was written"):
        export(model, folder / "m.pt2")
    assert {path: path.read_bytes() for path in folder.glob("m.pt2*")} == before
    with pytest.raises(ValueError, match="nothing was written"):
        export(model, folder / "new.pt2")
    assert sorted(path.name for path in folder.iterdir()) == ["m.pt2", "m.pt2.json", "model"]


class Branching(Probabilities):
    def forward(self, images):
        return super().forward(images if images.mean() > 0.5 else images * 2)


def test_a_network_that_torch_cannot_export_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(cnn_core.export, "Probabilities", Branching)
    with pytest.raises(ValueError, match="torch cannot export digit_cnn"):
        export(digit_model(folder / "model"), folder / "m.pt2")
    assert not (folder / "m.pt2").exists()


def test_what_rounding_may_change_grows_with_the_logits_up_to_a_bound():
    probabilities = torch.tensor([[0.0, 0.0], [4.0, 0.0], [100.0, 0.0]]).softmax(1)
    expected = torch.tensor([[TOLERANCE], [4 * TOLERANCE], [MOST]])
    torch.testing.assert_close(allowed(probabilities), expected, rtol=1e-4, atol=0)
    assert allowed(torch.full((1, 3), torch.nan)).isnan().all()


@pytest.mark.parametrize(
    ("name", "words"),
    [("m.onnx", "ONNX needs the packages onnx and onnxscript"), ("m.pt", r"m\.pt must end in \.pt2")],
)
def test_another_format_is_an_error(folder, name, words):
    with pytest.raises(ValueError, match=words):
        export(folder / "nowhere", folder / name)


def test_sample_images_are_fixed_and_differ():
    images = sample_images(8, (3, 30, 20))
    assert images.shape == (8, 3, 30, 20)
    np.testing.assert_array_equal(images, sample_images(8, (3, 30, 20)))
    means = images.mean((1, 2, 3))
    assert np.ptp(means) > 50


def test_the_command(folder, monkeypatch, capsys):
    digit_model(folder / "model")
    monkeypatch.setattr(sys, "argv", ["export", str(folder / "model"), str(folder / "m.pt2")])
    assert main() == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}/m.pt2: agrees with {folder}/model; the largest difference of a probability is ")
    assert out.endswith(" over 16 images in batches of 1, 2, 5, 8\n")
    assert (folder / "m.pt2").is_file()


def test_the_command_reports_an_error(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export", str(folder / "nowhere"), str(folder / "m.pt2")])
    assert main() == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {folder}/nowhere/model.json does not exist")
    assert err.count("\n") == 1
