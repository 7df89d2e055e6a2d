"""Check deliveries and add the good ones to a source: ``python -m tasks.inbox < REQUEST.json``.

It prints what became of each delivery. It is a process of its own, as flows import no torch. When the
source itself is at fault, it exits with 3 and prints one sentence.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_core.data.image_files import describe
from cnn_core.data.kinds import kind_of
from cnn_core.inbox.deliveries import Delivery, LabelledImage, SourceContent, SourceFormat, read_delivery, read_source
from cnn_core.inbox.drift import Drift, DriftParams, Sample, check_drift, drift_warnings, pixel_measures
from cnn_core.inbox.growth import SOURCE_FORMATS, grow
from cnn_core.inbox.objects.intake import take_in_objects
from tasks.engine.runtime import load_runtime

SIDE = 96  # pixels of the squares in which photographs are measured; the champion resizes them


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Judge each delivery of a request, and add the accepted ones to the source.

    Args:
        request: ``source``, ``kind`` (of the source), ``target``, ``deliveries`` (path -> name in the source),
            ``max_bad_fraction``, ``drift`` (off, warn or stop), ``drift_params``, ``champion`` (a folder or null). Of
            objects also ``named`` (the source as a person named it) and ``background``.

    Returns:
        ``deliveries``: path -> accepted, reason, new, known, refused, warnings, refusals (kind, file, annotation,
        reason); of objects also listed, left_out and annotations. ``images``: how many were added.
    """
    kind = kind_of(request["source"]) if request["kind"] == "auto" else request["kind"]
    if kind == "objects":
        return take_in_objects(request, threads=load_runtime().threads())
    source_format = SOURCE_FORMATS[kind]
    params = DriftParams(**request["drift_params"])
    content = read_source(source_format, request["source"], sample=params.most)
    check = None
    if request["drift"] != "off":
        check = DriftCheck(source_format, content.sample, content.classes, params, request["champion"])
    verdicts: dict[str, dict[str, Any]] = {}
    accepted: list[tuple[str, Delivery]] = []
    for path, name in request["deliveries"].items():
        try:
            delivery = read_delivery(source_format, Path(path), content, max_bad_fraction=request["max_bad_fraction"])
            warnings = _warnings(check, delivery, content, stop=request["drift"] == "stop")
        except ValueError as error:
            verdicts[path] = {"accepted": False, "reason": str(error)}
            continue
        accepted.append((name, delivery))
        content.labels.update({image.sha256: image.label for image in delivery.new})
        counts = {"new": len(delivery.new), "known": delivery.known, "refused": len(delivery.refused)}
        refusals = [("image", entry.id, "", f"{entry.reason}: {entry.detail}") for entry in delivery.refused]
        if delivery.left_out:
            warnings.append(f"{delivery.path.name} has files that are no images: {describe(delivery.left_out)}")
        verdicts[path] = {"accepted": True, "reason": "", "warnings": warnings, "refusals": refusals, **counts}
    if accepted:
        grow(source_format, request["source"], Path(request["target"]), accepted, content)
    return {"deliveries": verdicts, "images": sum(len(delivery.new) for _, delivery in accepted)}


def _warnings(check: DriftCheck | None, delivery: Delivery, content: SourceContent, *, stop: bool) -> list[str]:
    if check is None:
        return []
    return drift_warnings(
        lambda: check(delivery.new),
        delivery=delivery.path.name,
        images=len(content.labels),
        notes=[check.note] if check.note else [],
        stop=stop,
    )


class DriftCheck:
    """Compares deliveries with a source, whose images it measures once.

    When the champion cannot be used (it may be of an earlier version of this project), the check goes on without
    features and ``note`` says so.
    """

    def __init__(
        self,
        source_format: SourceFormat,
        old: Sequence[LabelledImage],
        classes: Sequence[str],
        params: DriftParams,
        champion: str | None,
    ) -> None:
        self._format, self._classes, self._params, self._champion = source_format, classes, params, champion
        self.note = ""
        try:
            self._old = self._sample(old)
        except ValueError as error:
            self._champion, self.note = None, f"features were not compared: {error}"
            self._old = self._sample(old)

    def __call__(self, new: Sequence[LabelledImage]) -> list[Drift]:
        random = np.random.default_rng(self._params.seed)
        rows = sorted(random.choice(len(new), min(len(new), self._params.most), replace=False))
        return check_drift(self._old, self._sample([new[row] for row in rows]), self._classes, self._params)

    def _sample(self, images: Sequence[LabelledImage]) -> Sample:
        from cnn_core.inbox.features import last_features  # imports torch, which only a champion needs

        pixels = self._format.pixels([image.image for image in images], SIDE)
        features = last_features(self._champion, pixels) if self._champion else None
        labels = np.array([image.label for image in images])
        return Sample(labels=labels, pixels=pixel_measures(pixels), features=features)


if __name__ == "__main__":
    argparse.ArgumentParser(description="Judge deliveries; standard input is the request, as JSON.").parse_args()
    try:
        print(json.dumps(main(json.load(sys.stdin)), default=dataclasses.asdict))
    except ValueError as error:
        print(error)
        sys.exit(3)
