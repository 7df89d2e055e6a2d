"""The annotations of a set against its decoded pictures: what is clipped, what repeats another, what fits nowhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import REPEATED, Refused
from cnn_core.annotations.tables import BOX

ROUNDING = 1.0  # pixels that a box may stick out of its picture: more is no rounding
_ROUNDED = 1e-3  # of the picture's side: three digits of a share of it
SMALLEST = 1e-6  # pixels of a side of a box


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """The annotations that stay, those that do not, and how many were clipped by a rounding."""

    objects: pd.DataFrame
    refused: list[Refused]
    clipped: int


def judge(objects: pd.DataFrame, sizes: Mapping[str, tuple[int, int]]) -> Judged:
    """Check boxes against the (width, height) of their images, by image_id.

    A box that sticks out by a rounding is clipped; by more, it is of another picture, or of another size of it.
    """
    if objects.empty:
        return Judged(objects=objects, refused=[], clipped=0)
    boxes = objects[BOX].to_numpy(float)
    extents = np.array([sizes[name] for name in objects["image_id"]], float)
    limits = np.concatenate([extents, extents], axis=1)
    inside = boxes.clip(0, limits)
    beyond = np.abs(boxes - inside)
    allowed = np.maximum(ROUNDING, _ROUNDED * limits) + SMALLEST
    flat = ((inside[:, 2:] - inside[:, :2]) < SMALLEST).any(axis=1)
    outside = (beyond > allowed).any(axis=1)
    repeated = _repeated(objects)
    refused = [
        Refused("annotation", str(row.image_id), _called(row), _reason(box, size, out, REPEATED if again else ""))
        for row, box, size, out, bad, again in zip(
            objects.itertuples(), boxes, extents, beyond.max(axis=1), flat | outside | repeated, repeated, strict=True
        )
        if bad
    ]
    good = ~(flat | outside | repeated)
    clipped = good & (beyond > SMALLEST).any(axis=1)
    kept = objects.assign(**dict(zip(BOX, inside.T, strict=True)))[good].reset_index(drop=True)
    return Judged(objects=kept, refused=refused, clipped=int(clipped.sum()))


def _reason(box: np.ndarray, size: np.ndarray, beyond: float, repeated: str) -> str:
    if repeated:
        return repeated
    x1, y1, x2, y2 = box
    return (
        f"its box, {x1:g} {y1:g} to {x2:g} {y2:g}, sticks {beyond:g} pixels out of the {size[0]:g} x {size[1]:g} pixels"
    )


def _called(row: object) -> str:
    x1, y1 = getattr(row, "x1", 0), getattr(row, "y1", 0)
    return f"the {getattr(row, 'class_name', '')} at {x1:g} {y1:g}"


def _repeated(objects: pd.DataFrame) -> np.ndarray:
    """Which annotations repeat an earlier one of their image: class, box to a hundredth of a pixel, and mask."""
    columns = objects[["image_id", "class_id"]].assign(
        **{name: objects[name].round(2) for name in BOX}, rle=objects["rle"].fillna("")
    )
    return columns.duplicated().to_numpy()


def signatures(objects: pd.DataFrame, image_ids: Sequence[str]) -> tuple[list[int], list[str]]:
    """A number for what each image's annotations say, the same for the same, and what the numbers stand for."""
    says: dict[str, list[tuple[object, ...]]] = {image_id: [] for image_id in image_ids}
    rows = objects.loc[objects["image_id"].isin(says.keys()), ["image_id", "class_name", *BOX]]
    for image_id, *values in rows.round(1).itertuples(index=False, name=None):
        says[image_id].append(tuple(values))
    numbers: dict[str, int] = {}
    labels = [numbers.setdefault(repr(sorted(says[image_id], key=repr)), len(numbers)) for image_id in image_ids]
    counts = {label: len(says[image_id]) for image_id, label in zip(image_ids, labels, strict=True)}
    return labels, [f"{counts[label]} objects" for label in range(len(numbers))]
