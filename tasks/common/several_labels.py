"""What the stage evaluate writes of a classifier of several labels an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.classification.inference.multilabel import DEFAULT_THRESHOLD, joined_labels, predicted_labels
from cnn_core.classification.inference.multilabel_metrics import multilabel_classification
from cnn_core.data.augmented import Arrays
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import write_csv
from tasks.engine import events

NONE = "(no such label)"  # stands for the class where a label was missed or wrongly predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """A classifier's probabilities (N, K) of the ``classes`` for the test images, and its thresholds by class.

    The first of the classes are the set's, whose labels ``test`` holds; a class of the set that the model does not know
    has no threshold.
    """

    test: Arrays
    probabilities: np.ndarray
    classes: Sequence[str]
    thresholds: Mapping[str, float]

    def write(self, name: str, *, worst: int, across: int) -> dict[str, Any]:
        """Write predictions, the labels that were right, missed and wrong, and the worst mistakes; return the metrics.

        Only classes that the model knows are measured.

        Raises:
            ValueError: there is no test image, or none has a label.
        """
        further = len(self.classes) - self.test.labels.shape[1]
        labels = np.pad(self.test.labels, ((0, 0), (0, further)))
        limits = np.array([self.thresholds.get(name, DEFAULT_THRESHOLD) for name in self.classes])
        predicted = predicted_labels(self.probabilities, limits.tolist())
        path = Path(f"data/predictions/{name}-test.parquet")
        _write_predictions(path, self.test.ids, labels, self.probabilities, predicted)
        measured_classes = [number for number, each in enumerate(self.classes) if each in self.thresholds]
        classes = [self.classes[number] for number in measured_classes]
        labels, predicted, probabilities = (
            labels[:, measured_classes],
            predicted[:, measured_classes],
            self.probabilities[:, measured_classes],
        )
        metrics = multilabel_classification(probabilities, labels, classes, limits[measured_classes].tolist())
        _write_labels(Path(f"data/plots/evaluate-{name}-confusion.csv"), labels, predicted, classes)
        measured = dataclasses.replace(self.test, labels=labels)
        picture = Path(f"data/plots/evaluate-{name}-mistakes.png")
        _show_mistakes(picture, measured, probabilities, predicted, classes, most=worst, across=across)
        unknown = [each for each in self.classes if each not in self.thresholds]
        return metrics | ({"not_known": unknown} if unknown else {})


def _write_predictions(
    path: Path, ids: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray
) -> None:
    """Write one row an image: id, labels and predicted (lists of class numbers), p0 … pK (probabilities)."""
    lists = {"labels": labels, "predicted": predicted}
    table = pd.DataFrame({"id": ids, **{name: _numbers(rows) for name, rows in lists.items()}})
    table = table.join(pd.DataFrame(probabilities, columns=[f"p{number}" for number in range(probabilities.shape[1])]))
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)


def _numbers(rows: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in rows]


def _write_labels(path: Path, labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> None:
    """Write one row for each label of an image that is true or predicted: actual and predicted class, or `NONE`."""
    rows, columns = np.nonzero(labels.astype(bool) | predicted)
    names = np.array(classes, dtype=object)[columns]
    pairs = {"actual": labels.astype(bool), "predicted": predicted}
    write_csv(path, pd.DataFrame({key: np.where(of[rows, columns], names, NONE) for key, of in pairs.items()}))


def _show_mistakes(
    path: Path,
    test: Arrays,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str],
    *,
    most: int,
    across: int,
) -> None:
    """Draw the images with the most wrong labels, the surest first, with what is true and what was predicted."""
    wrong = predicted != test.labels.astype(bool)
    doubt = np.abs(probabilities - 0.5).max(1, where=wrong, initial=0.0)
    order = np.lexsort((-doubt, -wrong.sum(1)))
    count = int(wrong.any(1).sum())
    shown = order[: min(most, count)]
    true_texts, predicted_texts = (
        joined_labels(rows[shown].astype(bool), classes) for rows in (test.labels, predicted)
    )
    captions = [
        f"{true or 'none'}, said\n{answer or 'none'}" for true, answer in zip(true_texts, predicted_texts, strict=True)
    ]
    starts = range(0, len(shown), across)
    contact_sheet(
        path,
        [np.asarray(test.images[shown[start : start + across]]) for start in starts],
        title=f"{count:,} of {len(test.labels):,} images have a wrong label: the truth, and the answer",
        captions=[captions[start : start + across] for start in starts],
        side=112,
    )


def tell(metrics: dict[str, Any], classes: Sequence[str], measured: str) -> None:
    """Log the figures, and the classes of which nothing is known."""
    if untested := [name for name in classes if name not in metrics["by_class"]]:
        listed = ", ".join(untested[:10]) + (f" and {len(untested) - 10:,} others" if len(untested) > 10 else "")
        events.log(
            f"warning: mAP and macro F1 are means over {metrics['tested_classes']:,} of {len(classes):,} classes: no "
            f"test image has the label {listed}"
        )
    events.log(
        f"mAP {metrics['map']:.4f} on {metrics['n']:,} unseen images (95 % interval {metrics['map_low']:.4f} to "
        f"{metrics['map_high']:.4f}), F1 {metrics['f1_micro']:.4f} over all labels, all labels right in "
        f"{metrics['exact_match']:.2%} of the images (model: {measured})"
    )
