"""The predictor of classifiers, as its own documentation uses it."""

from __future__ import annotations

from cnn_core.classification.inference.classifier import Classifier
from tests.helpers.examples import run_examples
from tests.helpers.model_folders import digit_model


def test_the_examples_of_the_classifier_run(tmp_path):
    (tmp_path / "data/models").mkdir(parents=True)
    digit_model(tmp_path / "data/models/digits")
    run_examples(Classifier, tmp_path)
