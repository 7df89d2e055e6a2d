"""Judge deliveries of images with objects, and add the accepted ones to the source of their set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import Refused
from cnn_core.data.objects.grown import SHA256, write_grown
from cnn_core.data.objects.source import on_disk
from cnn_core.data.raw import decode_images
from cnn_core.files import is_composed
from cnn_core.inbox.drift import Drift, DriftParams, check_drift, drift_warnings, pixel_measures
from cnn_core.inbox.objects.content import ObjectContent, ObjectDelivery, read_content
from cnn_core.inbox.objects.delivery import read_delivery
from cnn_core.inbox.objects.drift import ObjectSample, object_sample

SIDE = 96  # pixels of the squares in which pictures are measured
ONE_FILE = "is one file: put the folder or .zip there that holds the images with their labels"


def take_in_objects(request: Mapping[str, Any], *, threads: int | None = None) -> dict[str, Any]:
    """Do what ``tasks.inbox`` says of a request, for a set of objects.

    Raises:
        ValueError: the source cannot be read.
    """
    target = Path(request["target"])
    target.parent.mkdir(parents=True, exist_ok=True)
    verdicts: dict[str, dict[str, Any]] = {}
    images = 0
    with contextlib.ExitStack() as opened:  # what was unpacked is needed until the source is written
        pool = opened.enter_context(ThreadPoolExecutor(threads))
        path, _ = opened.enter_context(on_disk(request["source"], target.parent))
        content = read_content(path, pool, shown=request["named"])
        check = _drift_check(request, content, threads)
        for file, prefix in request["deliveries"].items():
            refused: list[Refused] = []
            try:
                delivery = _judged(opened, pool, request, Path(file), prefix, content, refused)
                warnings = [*delivery.warnings, *check(Path(file).name, delivery)]
            except ValueError as error:
                verdicts[file] = {"accepted": False, "reason": str(error), "refusals": refused}
                continue
            content.add(delivery)
            images += len(delivery.images)
            verdicts[file] = {
                "accepted": True,
                "reason": "",
                "warnings": warnings,
                "refusals": refused,
                **delivery.counts,
                "left_out": delivery.left_out,
                "annotations": delivery.annotations,
            }
        if images:
            write_grown(target, content.every, generated=is_composed(path))
    return {"deliveries": verdicts, "images": images}


def _judged(
    opened: contextlib.ExitStack,
    pool: ThreadPoolExecutor,
    request: Mapping[str, Any],
    file: Path,
    prefix: str,
    content: ObjectContent,
    refused: list[Refused],
) -> ObjectDelivery:
    if file.is_file() and file.suffix.lower() != ".zip":
        raise ValueError(f"{file.name} {ONE_FILE}")
    folder, _ = opened.enter_context(on_disk(file, Path(request["target"]).parent))
    return read_delivery(
        folder,
        content,
        pool,
        shown=file.name,
        prefix=prefix,
        max_bad_fraction=request["max_bad_fraction"],
        background=request["background"],
        refused=refused,
    )


# Drift


def _drift_check(
    request: Mapping[str, Any], content: ObjectContent, threads: int | None
) -> Callable[[str, ObjectDelivery], list[str]]:
    """The check of a delivery, by its name, against the images that the source had before all deliveries."""
    if request["drift"] == "off":
        return lambda _name, _delivery: []
    params, images = DriftParams(**request["drift_params"]), content.every.annotations[0]
    old = _sample(images[images[SHA256] != ""], content.every.annotations[1], content.classes, params, threads)

    def drifts(delivery: ObjectDelivery) -> list[Drift]:
        new = _sample(delivery.images, delivery.objects, content.classes, params, threads)
        return check_drift(old, new, content.classes, params)

    return lambda name, delivery: drift_warnings(
        lambda: drifts(delivery), delivery=name, images=len(content.boxes), stop=request["drift"] == "stop"
    )


def _sample(
    images: pd.DataFrame, objects: pd.DataFrame, classes: Sequence[str], params: DriftParams, threads: int | None
) -> ObjectSample:
    """The ``most`` images with the smallest hashes, which are drawn evenly."""
    chosen = images.sort_values(SHA256).head(params.most)
    pixels = np.zeros((0, 3))
    if len(chosen):
        files = [Path(file).read_bytes() for file in chosen["file"]]
        squares = decode_images(files, "RGB", size=SIDE, threads=threads)
        pixels = pixel_measures(squares.transpose(0, 2, 3, 1))
    return object_sample(chosen, objects, pixels, len(classes))
