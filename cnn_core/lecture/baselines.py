"""Classifiers that know nothing of images, to compare a convolutional network with: scikit-learn's, on flat pixels.

They take each pixel for a separate feature: one permutation of the pixels in all images would change nothing for them.
The network's advantage is its inductive bias: neighbours belong together, and a pattern means the same everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from cnn_core.classification.inference.metrics import wilson

# By name: a function that builds the classifier for a seed, and one that counts the numbers that it keeps once fitted.
BASELINES: Mapping[str, tuple[Callable[[int], ClassifierMixin], Callable[[Any], int]]] = {
    "logistic regression": (
        lambda seed: LogisticRegression(C=0.02, max_iter=200, random_state=seed),
        lambda model: model.coef_.size + model.intercept_.size,
    ),
    "k nearest neighbours": (
        lambda _seed: KNeighborsClassifier(n_neighbors=3, weights="distance"),
        lambda model: model.n_samples_fit_ * model.n_features_in_,
    ),
    "SVM, RBF kernel": (
        lambda seed: SVC(C=5.0, gamma="scale", random_state=seed),
        lambda model: model.support_vectors_.size + model.dual_coef_.size + model.intercept_.size,
    ),
    "random forest": (
        lambda seed: RandomForestClassifier(n_estimators=300, n_jobs=-1, random_state=seed),
        lambda model: sum(tree.tree_.node_count * (2 + tree.tree_.max_n_classes) for tree in model.estimators_),
    ),
    "MLP, 256 hidden units": (
        lambda seed: MLPClassifier((256,), alpha=1e-3, batch_size=128, max_iter=40, random_state=seed),
        lambda model: sum(part.size for part in (*model.coefs_, *model.intercepts_)),
    ),
}


def compare(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    seed: int,
    on_done: Callable[[str], None] = lambda _name: None,
) -> pd.DataFrame:
    """Fit each of `BASELINES` on images, uint8 (N, C, H, W), and labels; return the `row` of each.

    Args:
        on_done: called with the name of each classifier that is finished.
    """
    (x, y), (x_test, y_test) = (
        (images.reshape(len(images), -1) / np.float32(255), labels) for images, labels in (train, test)
    )
    rows = []
    for name, (make, kept) in BASELINES.items():
        began = time.perf_counter()
        model = make(seed).fit(x, y)
        fitted = time.perf_counter()
        right = int((model.predict(x_test) == y_test).sum())
        seconds = time.perf_counter() - fitted
        rows.append(row(name, right, len(y_test), kept(model), fitted - began, seconds, len(y)))
        on_done(name)
    return pd.DataFrame(rows)


def row(
    name: str, right: int, n: int, parameters: int, fit_s: float, predict_s: float, images: int | None
) -> dict[str, Any]:
    """Return a row of the table: the model, its accuracy with a 95 % interval, its size and its speed.

    Args:
        fit_s: seconds of fitting on ``images`` images (None = not known); NaN = not measured here.
        predict_s: seconds of predicting ``n`` images.
    """
    low, high = wilson(right, n)
    return {
        "model": name,
        "accuracy": right / n,
        "accuracy_low": low,
        "accuracy_high": high,
        "parameters": parameters,
        "fit_seconds": round(fit_s, 2),
        "predict_ms": round(1000 * predict_s / n, 3),
        "images": images,
    }
