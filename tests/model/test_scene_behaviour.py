"""How a scene model behaves after a short training on generated scenes: minimum, invariance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.transforms import transform
from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.loop import TrainingSetup, train
from cnn_core.classification.training.params import TrainParams
from cnn_core.params import load_section
from cnn_core.synthetic.scenes import SCENES, draw_scene
from tests.helpers.paths import ROOT

KINDS, SIDE = list(SCENES), 48
pytestmark = pytest.mark.nightly


def scenes(count, seed):
    """uint8 (6 * count, 3, 48, 48) and labels."""
    draws = [np.random.default_rng([seed, kind, i]) for kind in range(6) for i in range(count)]
    labels = np.repeat(np.arange(6), count)
    images = [draw_scene(KINDS[label], SIDE, rng) for label, rng in zip(labels, draws, strict=True)]
    return np.stack(images).transpose(0, 3, 1, 2).copy(), labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier trained for a few seconds on 60 scenes a class, and 20 a class that it has not seen."""
    params = load_section(TrainParams, "train.scenes", ROOT / "params.yaml")
    model = {"architecture": "digit_cnn", "width": 12, "depth": 3, "channel_dropout": 0.0, "dropout": 0.1}
    short = {"epochs": 25, "batch_size": 32, "learning_rate": 0.01, "ema_decay": 0.9, "ema_every": 1}
    mild = params.augmentation | {"crop_scale": 0.6}
    params = dataclasses.replace(params, model=model, augmentation=mild, layer_decay=1.0, image_size=SIDE, **short)
    cpu = torch.device("cpu")
    images, labels = scenes(60, seed=0)
    task = TrainingSetup(
        train=Split.from_arrays(images, labels, cpu),
        val=Split.from_arrays(images[:0], labels[:0], cpu),
        refit=None,
        mean=(0.45,) * 3,
        std=(0.25,) * 3,
        build=lambda: registry.build(model, 6, (3, SIDE, SIDE)),
        transform=transform(mild, size=SIDE, start_size=0, num_classes=6),
        device=cpu,
    )
    done = train(params, task)
    sizes = {"shape": [3, SIDE, SIDE], "views": "photo", "side": SIDE}
    preprocessing = {"mean": [0.45] * 3, "std": [0.25] * 3, **sizes}
    rest = {"metrics": {}, "params": {}, "data_sha256": "", "git_commit": "", "refit": "none", "epochs": 25}
    folder = tmp_path_factory.mktemp("model") / "scenes"
    card = ModelCard(model=model, classes=KINDS, preprocessing=preprocessing, **rest)
    save_model(folder, card, shipped=done.shipped, evaluated=done.evaluated)
    return folder, *scenes(20, seed=1)


def test_minimum_it_tells_more_scenes_apart_than_a_linear_model(trained):
    folder, images, labels = trained
    assert (Classifier(folder, tta=2)(images).argmax(1) == labels).mean() > 0.62  # the bar that no linear model reaches


def test_invariance_a_mirrored_picture_is_the_same_scene(trained):
    folder, images, _ = trained
    classifier = Classifier(folder, tta=2)
    np.testing.assert_allclose(classifier(images), classifier(images[..., ::-1]), atol=1e-4)
    plain = Classifier(folder)
    assert (plain(images).argmax(1) == plain(images[..., ::-1]).argmax(1)).mean() > 0.75


def test_invariance_a_darker_picture_is_mostly_the_same_scene(trained):
    folder, images, _ = trained
    classifier = Classifier(folder, tta=2)
    darker = (images * 0.8).astype(np.uint8)
    assert (classifier(images).argmax(1) == classifier(darker).argmax(1)).mean() > 0.75


def test_photographs_of_another_size_are_taken(trained):
    folder, images, _ = trained
    larger = images.repeat(2, axis=2).repeat(2, axis=3)
    same = Classifier(folder)(larger).argmax(1) == Classifier(folder)(images).argmax(1)
    assert same.mean() > 0.9
