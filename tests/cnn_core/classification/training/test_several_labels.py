"""Training with several labels an image: loss, selection by mAP, thresholds, resumption, ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score

from cnn_core.classification.augmentation.mixing import mix
from cnn_core.classification.augmentation.params import MixingParams
from cnn_core.classification.training.learner import ClassifierLearner
from cnn_core.classification.training.objectives import SeveralLabels
from tests.helpers.learning import CPU, PLAIN, linear, params, several_stripes, training_setup
from tests.helpers.trained import run


def setup(**changes: object) -> object:
    return training_setup(
        train=several_stripes(100), val=several_stripes(37, seed=1), build=linear, multilabel=True, **changes
    )


def test_the_loss_is_torchs_with_weights_and_smoothing() -> None:
    logits, targets = torch.randn(5, 4), several_stripes(5).labels
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    loss = SeveralLabels(weights=weights).loss(logits, targets, smoothing=0.2)
    smoothed = targets.float() * 0.8 + 0.1
    expected = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights) * 5
    torch.testing.assert_close(loss, expected)


def test_labels_are_learned_and_thresholds_chosen() -> None:
    done, _ = run(params(epochs=12, label_smoothing=0.0, learning_rate=0.05), setup())
    assert done.best["val_map"] > 0.98
    assert done.best["val_map"] == max(record["val_map"] for record in done.history)
    assert len(done.thresholds) == 4
    assert all(0 < threshold < 1 for threshold in done.thresholds)


def test_a_resumed_training_ends_as_one_that_was_not_stopped() -> None:
    whole, checkpoints = run(params(epochs=4), setup())
    resumed, _ = run(params(epochs=4), setup(), resume=checkpoints[1])
    assert resumed.thresholds == whole.thresholds
    assert [r["val_map"] for r in resumed.history] == [r["val_map"] for r in whole.history]
    for key, value in whole.shipped.items():
        torch.testing.assert_close(resumed.shipped[key], value)


def test_validation_is_of_all_images_and_of_the_averaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_core.classification.training.learner.EVALUATION_BATCH", 7)
    split = several_stripes(23)
    torch.manual_seed(0)
    learner = ClassifierLearner(linear(), params(), setup(), steps=5)
    learner.step(PLAIN.view(split.images), split.labels, global_batch_size=23)
    measured = learner.measure(split)
    with torch.no_grad():
        logits = learner.averaged((PLAIN.view(split.images) - 0.2) / 0.3)
    labels = split.labels.numpy()
    assert measured.score == pytest.approx(average_precision_score(labels, logits.sigmoid().numpy(), average="macro"))
    expected = F.binary_cross_entropy_with_logits(logits, split.labels.float()).item()
    assert measured.figures["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert measured.figures["val_accuracy"] == ((logits.numpy() > 0) == labels).all(1).mean()


def test_mixed_images_have_mixed_labels() -> None:
    images, labels = torch.rand(6, 1, 8, 8), several_stripes(6).labels
    mixing = MixingParams(mixup=1.0, cutmix=0.0, mix_probability=1.0)
    _, targets = mix(images, labels, mixing, num_classes=4, generator=torch.Generator(CPU).manual_seed(0))
    assert targets.shape == (6, 4)
    assert not np.isin(targets.numpy(), (0, 1)).all()
    assert targets.numpy().max() <= 1
