"""Checks deliveries and adds the good ones to a source: ``python -m tasks.inbox < REQUEST.json`` says what became of
each.

A process of its own, as flows import no torch. It ends with 3 and one sentence when the source itself is at fault.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from cnn_core.inbox.deliveries import Delivery, Known, read_delivery, read_known
from cnn_core.inbox.drift import DriftParams, sentence
from cnn_core.inbox.growth import GROWTHS, grow
from tasks.drift import DriftCheck


def main(request: dict[str, Any]) -> dict[str, Any]:
    """
    Args:
        request: ``set``, ``source``, ``target``, ``deliveries`` (path -> name in the source), ``max_bad_fraction``,
            ``drift`` (off, warn or stop), ``drift_params``, ``champion`` (a model folder or null).

    Returns:
        ``deliveries``: path -> accepted, reason, new, known, refused, warnings; ``images``: how many were added.
    """
    growth = GROWTHS[request["set"]]
    params = DriftParams(**request["drift_params"])
    known = read_known(growth, request["source"], most=params.most)
    check = None
    if request["drift"] != "off":
        check = DriftCheck(growth, known.sample, known.classes, params, request["champion"])
    told: dict[str, dict[str, Any]] = {}
    accepted: list[tuple[str, Delivery]] = []
    for path, name in request["deliveries"].items():
        try:
            delivery = read_delivery(growth, Path(path), known, max_bad_fraction=request["max_bad_fraction"])
            warnings = drift_warnings(check, delivery, known, stop=request["drift"] == "stop")
        except ValueError as error:
            told[path] = {"accepted": False, "reason": str(error)}
            continue
        accepted.append((name, delivery))
        known.labels.update({image.sha256: image.label for image in delivery.new})
        counts = {"new": len(delivery.new), "known": delivery.known, "refused": len(delivery.refused)}
        told[path] = {"accepted": True, "reason": "", "warnings": warnings, **counts}
    if accepted:
        grow(growth, request["source"], Path(request["target"]), accepted, known)
    return {"deliveries": told, "images": sum(len(delivery.new) for _, delivery in accepted)}


def drift_warnings(check: DriftCheck | None, delivery: Delivery, known: Known, *, stop: bool) -> list[str]:
    """
    Raises:
        ValueError: the images have drifted, and drift stops.
    """
    if check is None:
        return []
    try:
        found = check(delivery.new)
    except ValueError as error:
        return [f"no drift check: {error}"]
    notes = [check.note] if check.note else []
    if not (text := sentence(found)):
        return notes
    told = f"{delivery.path.name} differs from the {len(known.labels):,} images there are in {text}"
    if stop:
        raise ValueError(f"{told}. If that is as it should be, hand it in with drift: warn")
    return [told, *notes]


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.load(sys.stdin)), default=dataclasses.asdict))
    except ValueError as error:
        print(error)
        sys.exit(3)
