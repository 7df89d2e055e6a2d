"""Read the outputs of `detect` and `segment`, and match their images with those of a truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.annotations.tables import image_ids, read_images, read_objects
from cnn_core.files import read_json

MASKS, BOXES = "segment", "detect"  # the stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """An output folder of `detect` or `segment`."""

    images: pd.DataFrame  # `annotations.IMAGES`, one row for each image that could be read
    objects: pd.DataFrame  # `annotations.OBJECTS` with the stage's further columns, in the order of the parts
    bad: pd.DataFrame  # image_id and file of the images that could not be read
    classes: list[str]
    sha256: str  # of the weights
    listed: dict[str, Any]  # the arguments of `list_media` beside the source; empty if the folder does not say

    @property
    def seen(self) -> pd.DataFrame:
        """Return image_id and file of every image of the source."""
        names = ["image_id", "file"]
        return pd.concat([self.images[names], self.bad[names]], ignore_index=True)


def read_predictions(folder: str | Path, *, made_by: str) -> Predictions:
    """Read an output folder of the stage ``made_by``, which is `MASKS` or `BOXES`.

    Raises:
        ValueError: the folder is missing or incomplete, or masks are expected and an object has none.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json", made_by=made_by)
    parts = [read_objects(part) for part in sorted(folder.glob("part-*.parquet"))]
    filled = [part for part in parts if len(part)] or parts[:1]
    if not filled:
        raise ValueError(f"{folder} has no part-*.parquet: it is no output of the stage {made_by}")
    objects = pd.concat(filled, ignore_index=True)
    if made_by == MASKS and objects["rle"].isna().any():
        raise ValueError(f"{folder} holds objects without masks: name an output of the stage {made_by}")
    return Predictions(
        images=read_images(folder / "images.parquet"),
        objects=objects,
        bad=pd.read_parquet(folder / "bad.parquet"),
        classes=list(map(str, manifest["classes"])),
        sha256=str(manifest["model_sha256"]),
        listed=dict(manifest.get("listed", {})),
    )


def check_same_frames(folder: str | Path, vid_stride: int, *, made_by: str) -> None:
    """Check that the predictions at ``folder`` number a video's frames with this stride."""
    listed = read_json(Path(folder) / "manifest.json", made_by=made_by).get("listed", {})
    if (other := int(listed.get("vid_stride", 1))) != vid_stride:
        raise ValueError(
            f"{folder} counted a video's frames with vid_stride {other}, here it is {vid_stride}: the same number "
            f"would be another frame. Set {made_by}.vid_stride to {vid_stride}, or this one to {other}"
        )


def same_images(others: pd.DataFrame, truth: pd.DataFrame, *, named: tuple[object, object]) -> dict[str, str]:
    """Map the image_id of each image of ``others`` to its image_id in ``truth``.

    Images without a counterpart are left out. Ids differ by the folder that was named as the source (``000001`` of
    images/test is ``test/000001`` of the set), so the files are compared: by their paths, else by what follows the
    last folder ``images``, else by their names, if those are unique in the truth.

    Raises:
        ValueError: they have no image in common; the message names the two as in ``named``.
    """
    for keys in (_absolute, image_ids, _names):
        other_keys, true_keys = keys(list(others["file"])), keys(list(truth["file"]))
        if len(set(true_keys)) < len(true_keys):
            continue
        true_ids = dict(zip(true_keys, truth["image_id"], strict=True))
        pairs = zip(others["image_id"], other_keys, strict=True)
        if matches := {image_id: true_ids[key] for image_id, key in pairs if key in true_ids}:
            return matches
    first, second = (table["file"].iloc[0] if len(table) else "no image" for table in (others, truth))
    raise ValueError(
        f"{named[0]} and {named[1]} have no image in common: the one is about {first}, the other about {second}; make "
        "the one anew from the other's images"
    )


def _absolute(files: Sequence[str]) -> list[str]:
    return [str(Path(file).absolute()) for file in files]


def _names(files: Sequence[str]) -> list[str]:
    return [Path(file).name for file in files]


def in_other_ids(table: pd.DataFrame, same: dict[str, str]) -> pd.DataFrame:
    """Select the rows of the images in ``same``, and give them the ids that it maps to."""
    rows = table[table["image_id"].isin(list(same))]
    return rows.assign(image_id=rows["image_id"].map(same)).reset_index(drop=True)
