"""Label images: data/raw/<set> and a model folder -> data/predictions/<set> with Kaggle's submission.csv."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from cnn_core.classifier import MOST_VIEWS, Classifier
from cnn_core.datasets import RawRows, decode, read_quarantine, read_raw
from cnn_core.devices import pick_device
from cnn_core.files import whole_folder
from cnn_core.params import Params, bounded, load_section
from tasks import events
from tasks.runtime import load_runtime

BLOCK = 5000  # images decoded at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictParams(Params):
    """The section ``predict.<set>``."""

    weights: str  # a model folder
    source: str  # a data/raw folder
    tta: int = bounded(1, MOST_VIEWS)


PARAMS = PredictParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"predict.{name}")
    rows = read_raw(params.source, "unlabelled")
    unlabelled = bool(rows.ids)
    if not unlabelled:
        rows = read_raw(params.source, "test")
        events.log(f"{params.source} has no unlabelled part: its test part is labelled")
    if not rows.ids:
        raise ValueError(f"{params.source} has neither an unlabelled nor a test part: there is nothing to predict")
    probabilities = predict(name, params, rows)
    numbers = image_numbers(rows.ids) if unlabelled else list(range(1, len(rows.ids) + 1))
    refused = refused_rows(params.source, rows.ids) if unlabelled else 0
    if refused:
        events.log(f"warning: {refused} rows of {params.source} are in its quarantine and so have no prediction")
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    with whole_folder(f"data/predictions/{name}") as folder:
        submission = pd.DataFrame({"ImageId": numbers, "Label": predicted})
        submission.to_csv(folder / "submission.csv", index=False, lineterminator="\n")
        table = pd.DataFrame({"id": rows.ids, "predicted": predicted, "confidence": confidence.round(6)})
        table.to_csv(folder / "predictions.csv", index=False, lineterminator="\n")
    metrics = {"n": len(predicted), "refused": refused, "mean_confidence": round(float(confidence.mean()), 6)}
    metrics |= {"unsure": int((confidence < 0.5).sum()), "unlabelled": int(unlabelled)}
    events.write_metrics(f"data/metrics/predict-{name}.json", metrics)
    events.log(f"data/predictions/{name}/submission.csv: {len(predicted):,} images labelled")


def predict(name: str, params: PredictParams, rows: RawRows) -> np.ndarray:
    """Probabilities (N, K), in the rows' order."""
    classifier = Classifier(params.weights, tta=params.tta, device=pick_device(load_runtime().use_gpu))
    parts = []
    with events.progress(f"predict {name}", len(rows.ids)) as bar:
        for start in range(0, len(rows.ids), BLOCK):
            images = decode(rows.images[start : start + BLOCK])
            parts.append(classifier(images))
            bar.update(len(images))
    return np.concatenate(parts)


def image_numbers(ids: list[str]) -> list[int]:
    """Kaggle's ImageId: the 1-based row of the source, which an id ends in (``test/00001``)."""
    return [int(id_.rpartition("/")[2]) for id_ in ids]


def refused_rows(source: str, ids: list[str]) -> int:
    """How many rows of the source's unlabelled part were refused."""
    parts = {id_.rpartition("/")[0] for id_ in ids}
    return sum(entry["id"].rpartition("/")[0] in parts for entry in read_quarantine(source))


if __name__ == "__main__":
    events.run_stage(main)
