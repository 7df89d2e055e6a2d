"""Stage ``predict``: label the images of data/raw/<set> or of a folder -> data/predictions/<set>."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cnn_core.classification.inference.classifier import Classifier, predictions_table
from cnn_core.classification.inference.looks import Fitter, Look, about_looks, unlike
from cnn_core.classification.inference.multilabel import predicted_labels
from cnn_core.classification.inference.views import MOST_VIEWS
from cnn_core.data.image_files import Block, Fit, describe, read_folder
from cnn_core.data.raw import decode_images, raw_parts, read_manifest, read_quarantine, read_raw
from cnn_core.data.validation import Refusal
from cnn_core.devices import pick_device
from cnn_core.files import whole_folder, write_csv
from cnn_core.params import Params, bounded, load_section
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.runtime import load_runtime

BLOCK = 2000  # images decoded at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictParams(Params):
    """The section ``predict.<model>``."""

    weights: str  # a model folder
    source: str  # a data/raw folder, or any folder or .zip of images
    tta: int = bounded(1, MOST_VIEWS)
    submission: bool = False  # also write the submission.csv of a competition at Kaggle


PARAMS = PredictParams


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The images to be labelled."""

    total: int
    blocks: Iterator[Block]
    kind: str  # unlabelled, test (part of a RAW set) or folder
    refused: list[Refusal]  # by the stage ingest
    left_out: Mapping[str, int]  # files that are no images, by what they are


def main(name: str) -> None:
    params = load_section(PARAMS, f"predict.{name}")
    keep_memory()
    runtime = load_runtime()
    classifier = Classifier(params.weights, tta=params.tta, device=pick_device(runtime.use_gpu))
    classes = classifier.card.classes
    look = Look.of(classifier.card.preprocessing)
    fitter = Fitter(look, classifier.card.square[-1]) if look else None
    source = open_source(params.source, classifier.card.square, fitter, threads=runtime.threads())
    files, probabilities, refused, odd = predict(name, classifier, source, look)
    if not files:
        raise ValueError(f"no image of {params.source} could be read: {refused[0].id}: {refused[0].detail}")
    with whole_folder(f"data/predictions/{name}") as folder:
        thresholds = classifier.card.thresholds
        write_csv(folder / "predictions.csv", predictions_table(files, probabilities, classes, thresholds))
        if refused:
            write_csv(folder / "refused.csv", pd.DataFrame([dataclasses.asdict(entry) for entry in refused]))
        if params.submission and source.kind != "folder":
            labels = submitted_labels(probabilities, classes, thresholds)
            write_submission(folder / "submission.csv", files, labels, by_row=source.kind == "unlabelled")
    if source.left_out:
        events.log(f"{params.source} also has files that are no images: {describe(source.left_out)}")
    if refused:
        events.log(f"warning: {len(refused):,} images of {params.source} have no prediction: see refused.csv")
    fitted = fitter.fitted if fitter else 0
    for sentence in about_looks(fitted, odd, len(files), look):
        events.log(sentence)
    looks = {"fitted": fitted, "unlike": len(odd)}
    figures = metrics(probabilities, source, refused, classes, thresholds)
    events.write_metrics(f"data/metrics/predict-{name}.json", figures | looks)
    events.log(f"data/predictions/{name}/predictions.csv: {len(files):,} images labelled")


def open_source(
    path: str, shape: tuple[int, int, int], fit: Fit | None = None, *, threads: int | None = None
) -> Source:
    """Open a RAW set, or a folder or .zip of images, which become squares of ``shape`` (C, S, S).

    Only files are brought into the form of the model's images by ``fit``: a RAW set's are ingested like those.
    """
    if not (Path(path) / "manifest.json").is_file():
        files = read_folder(path, shape, fit, threads=threads)
        return Source(total=files.count, blocks=files.blocks, kind="folder", refused=[], left_out=files.left_out)
    counts = read_manifest(path)["counts"]
    kind = "unlabelled" if counts["unlabelled"] else "test"
    if not counts[kind]:
        raise ValueError(f"{path} has neither an unlabelled nor a test part: there is nothing to predict")
    if kind == "test":
        events.log(f"{path} has no unlabelled part: its test part is labelled")
    refused = refused_images(path, kind)
    blocks = _raw_blocks(path, kind, shape, threads)
    return Source(total=counts[kind], blocks=blocks, kind=kind, refused=refused, left_out={})


def _raw_blocks(path: str, split: str, shape: tuple[int, int, int], threads: int | None) -> Iterator[Block]:
    mode = "L" if shape[0] == 1 else "RGB"
    for part in raw_parts(path, split):
        for start in range(0, len(part.ids), BLOCK):
            images = decode_images(part.images[start : start + BLOCK], mode, size=shape[-1], threads=threads)
            yield Block(names=part.ids[start : start + BLOCK], images=images, refused=[])


def refused_images(path: str, split: str) -> list[Refusal]:
    """List the quarantine's entries of the unlabelled part; a test part has none."""
    if split != "unlabelled":
        return []
    parts = {id_.partition("/")[0] for id_ in read_raw(path, split, images=False).ids}
    return [Refusal(**entry) for entry in read_quarantine(path) if entry["id"].partition("/")[0] in parts]


def predict(
    name: str, classifier: Classifier, source: Source, look: Look | None
) -> tuple[list[str], np.ndarray, list[Refusal], list[str]]:
    """Return the images' names and probabilities (N, K), those not readable, and the names of those unlike ``look``."""
    files, odd = list[str](), list[str]()
    refused, parts = list(source.refused), []
    with events.progress(f"predict {name}", source.total, "images") as bar:
        for block in source.blocks:
            parts.append(classifier(block.images))
            files += block.names
            odd += [block.names[index] for index in unlike(block.images, look)]
            refused += block.refused
            bar.update(len(block.names) + len(block.refused))
    return files, np.concatenate(parts), refused, odd


def submitted_labels(probabilities: np.ndarray, classes: list[str], thresholds: list[float] | None) -> list[str]:
    """The label of each image; several as Kaggle's competitions take them, with spaces between."""
    if thresholds is None:
        return [classes[index] for index in probabilities.argmax(1)]
    rows = predicted_labels(probabilities, thresholds)
    return [" ".join(classes[index] for index in np.flatnonzero(row).tolist()) for row in rows]


def write_submission(path: Path, files: list[str], labels: list[str], *, by_row: bool) -> None:
    """Write Kaggle's ImageId, the 1-based row in the source (with which an id ends) or in this file, and Label."""
    rows = [file.rpartition("/")[2] for file in files] if by_row else []
    numbers = list(map(int, rows)) if rows and all(map(str.isdecimal, rows)) else range(1, len(files) + 1)
    write_csv(path, pd.DataFrame({"ImageId": numbers, "Label": labels}))


def metrics(
    probabilities: np.ndarray,
    source: Source,
    refused: list[Refusal],
    classes: list[str],
    thresholds: list[float] | None = None,
) -> dict[str, object]:
    figures: dict[str, object] = {
        "n": len(probabilities),
        "refused": len(refused),
        "left_out": sum(source.left_out.values()),
        "unlabelled": int(source.kind == "unlabelled"),
    }
    if thresholds is None:
        confidence, chosen = probabilities.max(1), np.bincount(probabilities.argmax(1), minlength=len(classes))
        figures |= {"mean_confidence": round(float(confidence.mean()), 6), "unsure": int((confidence < 0.5).sum())}
    else:
        rows = predicted_labels(probabilities, thresholds)
        chosen = rows.sum(0)
        figures["without_label"] = int((~rows.any(1)).sum())
    return figures | {"predicted": {name: int(count) for name, count in zip(classes, chosen, strict=True)}}


if __name__ == "__main__":
    events.run_stage(main)
