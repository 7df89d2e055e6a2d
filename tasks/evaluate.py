"""Stage ``evaluate``: measure a classifier on the held-out test part of data/augmented/<set>."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.metrics import classification, worst_mistakes
from cnn_core.classification.inference.views import MOST_VIEWS
from cnn_core.data.augmented import Arrays, load_arrays, read_dataset
from cnn_core.data.class_changes import names_now
from cnn_core.devices import pick_device
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import are_generated, write_csv
from cnn_core.params import Params, bounded, load_section
from tasks.common.several_labels import Answers, tell
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.runtime import load_runtime

ACROSS = 8  # mistakes in a row of the picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateParams(Params):
    """The section ``evaluate.<model>``."""

    data: str  # the set that it is measured on
    weights: str  # a model folder
    tta: int = bounded(1, MOST_VIEWS)  # views averaged for each image; 1 = the image alone
    worst: int = bounded(0, 200)  # number of mistakes shown


PARAMS = EvaluateParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"evaluate.{name}")
    folder = f"data/augmented/{params.data}"
    classes, test = read_dataset(folder)["classes"], load_arrays(folder, "test")
    # After a refit the shipped weights have seen the test part, so the others are measured.
    device = pick_device(load_runtime().use_gpu)
    keep_memory()
    classifier = Classifier(params.weights, weights="evaluated", tta=params.tta, device=device)
    if classifier.card.multilabel != (test.labels.ndim == 2):
        raise ValueError(
            f"{params.weights} was trained with {'several labels' if classifier.card.multilabel else 'one label'} an "
            f"image, and {folder} has another form: train it again (ingest.{params.data}.multilabel)"
        )
    measured = "without held-out images" if classifier.card.refit == "all" else "shipped"
    about = {"evaluated_model": measured, "generated": are_generated(test.ids)}
    names = names_now(params.weights, classifier.card.classes)
    probabilities = classifier(test.images)
    unknown: list[str] = []  # classes of the set that the model does not know
    all_classes = classes
    if names != classes:
        unknown, all_classes = compare_names(names, classes, weights=params.weights, data=folder)
        probabilities = in_order(probabilities, names, all_classes)
    if classifier.card.thresholds is not None:
        thresholds = dict(zip(names, classifier.card.thresholds, strict=True))
        several = Answers(test=test, probabilities=probabilities, classes=all_classes, thresholds=thresholds)
        figures = several.write(name, worst=params.worst, across=ACROSS)
        events.write_metrics(f"data/metrics/evaluate-{name}.json", figures | about)
        if not_known := figures.get("not_known", []):
            events.log(f"warning: the model does not know {', '.join(not_known)}: these labels are in no figure")
        tell(figures, [label for label in all_classes if label not in not_known], measured)
        return
    write_predictions(Path(f"data/predictions/{name}-test.parquet"), test, probabilities)
    if unknown:
        test, probabilities = of_known_classes(test, probabilities, unknown, classes)
    classes = all_classes
    metrics = classification(probabilities, test.labels, classes)
    write_confusion(Path(f"data/plots/evaluate-{name}-confusion.csv"), test.labels, probabilities, classes)
    show_mistakes(Path(f"data/plots/evaluate-{name}-mistakes.png"), test, probabilities, classes, params.worst)
    if unknown:
        metrics["not_known"] = unknown
    classes_of_model = [name for name in classes if name not in unknown]
    if untested := [name for name in classes_of_model if name not in metrics["f1"]]:
        events.log(
            f"warning: macro F1 is the mean over {metrics['tested_classes']} of {len(classes_of_model)} classes: "
            f"the test part has no image of {', '.join(untested)}"
        )
    events.write_metrics(f"data/metrics/evaluate-{name}.json", {**metrics, **about})
    events.log(
        f"accuracy {metrics['accuracy']:.2%} on {metrics['n']:,} unseen images "
        f"(95 % interval {metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%}; model: {measured})"
    )


def compare_names(names: list[str], classes: list[str], *, weights: str, data: str) -> tuple[list[str], list[str]]:
    """Compare a model's classes with a set's, by name.

    Returns:
        The set's classes that the model does not know, and all: the set's, then those that only the model knows.

    Raises:
        ValueError: they have none in common.
    """
    unknown = [name for name in classes if name not in names]
    if unknown == classes:
        raise ValueError(f"{weights} has the classes {names}, but {data} has {classes}: none in common")
    return unknown, [*classes, *(name for name in names if name not in classes)]


def in_order(probabilities: np.ndarray, names: list[str], classes: list[str]) -> np.ndarray:
    """Bring columns of the classes ``names`` into the order of ``classes``; a class without a column gets 0."""
    ordered = np.zeros((len(probabilities), len(classes)), probabilities.dtype)
    ordered[:, [classes.index(name) for name in names]] = probabilities
    return ordered


def of_known_classes(
    test: Arrays, probabilities: np.ndarray, unknown: list[str], classes: list[str]
) -> tuple[Arrays, np.ndarray]:
    """Leave out the images of classes that the model does not know, with a warning."""
    rows = np.flatnonzero(~np.isin(test.labels, [classes.index(name) for name in unknown]))
    events.log(
        f"warning: the model does not know {', '.join(unknown)}: {len(test.labels) - len(rows):,} of "
        f"{len(test.labels):,} test images are of these classes and are in no figure"
    )
    kept = dataclasses.replace(
        test, images=test.images[rows], labels=test.labels[rows], ids=[test.ids[row] for row in rows]
    )
    return kept, probabilities[rows]


def write_predictions(path: Path, test: Arrays, probabilities: np.ndarray) -> None:
    """Write one row an image: id, label and predicted (class numbers), p0 … pK (probabilities).

    The numbers of classes that only the model knows follow those of the set.
    """
    table = pd.DataFrame({"id": test.ids, "label": test.labels, "predicted": probabilities.argmax(1)})
    table = table.join(pd.DataFrame(probabilities, columns=[f"p{number}" for number in range(probabilities.shape[1])]))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)


def write_confusion(path: Path, labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> None:
    answers = {"actual": labels, "predicted": probabilities.argmax(1)}
    write_csv(path, pd.DataFrame({key: [classes[index] for index in column] for key, column in answers.items()}))


def show_mistakes(path: Path, test: Arrays, probabilities: np.ndarray, classes: list[str], most: int) -> None:
    """Draw the most confident mistakes, with the true class, the predicted one and its probability."""
    worst = worst_mistakes(probabilities, test.labels, most)
    predicted = probabilities.argmax(1)
    wrong = int((predicted != test.labels).sum())
    captions = [
        f"{classes[test.labels[i]]}, said\n{classes[predicted[i]]}  {probabilities[i].max():.0%}" for i in worst
    ]
    starts = range(0, len(worst), ACROSS)
    selection = f", the {len(worst)} most confident" if len(worst) < wrong else ""
    counted = f"{wrong} mistake{'' if wrong == 1 else 's'} in {len(test.labels):,} images"
    contact_sheet(
        path,
        [np.asarray(test.images[worst[start : start + ACROSS]]) for start in starts],
        title=f"{counted}{selection}: the truth, what the model said and how sure it was",
        captions=[captions[start : start + ACROSS] for start in starts],
        side=112,
    )


if __name__ == "__main__":
    events.run_stage(main)
