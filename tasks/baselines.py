"""Stage ``baselines``: logistic regression, k-NN, SVM, random forest and MLP beside the CNN."""

from __future__ import annotations

import dataclasses
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.model_folder import load_model
from cnn_core.data.augmented import load_arrays, read_dataset, refuse_multilabel
from cnn_core.files import write_csv
from cnn_core.lecture.baselines import BASELINES, compare, row
from cnn_core.params import Params, bounded, load_section
from tasks.engine import events


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselinesParams(Params):
    """The section ``baselines.<model>``."""

    data: str  # the set that all of them learn from
    weights: str  # the CNN's model folder
    max_train: int = bounded(100)  # images at most, as an SVM's time grows with their square
    seed: int


PARAMS = BaselinesParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"baselines.{name}")
    folder = f"data/augmented/{params.data}"
    dataset, train, test = read_dataset(folder), load_arrays(folder, "train"), load_arrays(folder, "test")
    refuse_multilabel(dataset, f"baselines.{name}")
    originals = dataset["originals"]  # the baselines get no augmented copies
    chosen = np.arange(originals)
    if originals > params.max_train:
        chosen = np.sort(np.random.default_rng(params.seed).choice(originals, params.max_train, replace=False))
    with events.progress(f"baselines {name}", len(BASELINES), "models") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of rounds is fixed, converged or not
        table = compare(
            (np.asarray(train.images[chosen]), np.asarray(train.labels[chosen])),
            (np.asarray(test.images), np.asarray(test.labels)),
            seed=params.seed,
            on_done=lambda _name: bar.update(1),
        )
    table = pd.concat(
        [table, pd.DataFrame([cnn(params.weights, folder, np.asarray(test.images), np.asarray(test.labels))])]
    )
    table = table.sort_values("accuracy", kind="stable")
    path = Path(f"data/plots/baselines-{name}.csv")
    write_csv(path, table)
    events.write_metrics(
        f"data/metrics/baselines-{name}.json", {"test_images": len(test.labels), "models": by_name(table)}
    )
    for line in table.itertuples():
        fitted = f"fitted in {line.fit_seconds:g} s" if line.fit_seconds == line.fit_seconds else ""
        events.log(f"{line.model:<24}{line.accuracy:8.2%}  {line.parameters:>12,} numbers  {fitted}".rstrip())


def cnn(weights: str, folder: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the CNN's row, measured without test-time augmentation on images of the set; its training time is NaN."""
    network, card = load_model(weights, "evaluated")
    classifier = Classifier(weights, weights="evaluated")
    start = time.perf_counter()
    right = int((classifier(images).argmax(1) == labels).sum())
    seconds = time.perf_counter() - start
    parameters = sum(each.numel() for each in network.parameters())
    dataset = read_dataset(folder)  # weights from elsewhere do not say how many images they have seen
    originals = dataset["originals"] if card.data_sha256 == dataset["content_sha256"] else None
    return row(f"CNN ({card.model['architecture']})", right, len(labels), parameters, float("nan"), seconds, originals)


def by_name(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the rows by model, without the values that are None or NaN."""
    lines = [{key: value for key, value in line.items() if pd.notna(value)} for line in table.to_dict("records")]
    return {line.pop("model"): line for line in lines}


if __name__ == "__main__":
    events.run_stage(main)
