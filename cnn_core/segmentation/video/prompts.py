"""Prompts for a video's objects, out of what `detect` found in its frames or a user's own table (prompts.py).

A table for a video may have the further column ``frame`` (from 0); with it, ``image_id`` or ``file`` names the video,
and neither is needed where there is only one. ``object`` (else ``track_id``) says which rows, of any frames, are the
same object: it is asked for in every frame that is named so. Without ``frame``, as in what `detect` found, an object is
asked for in its first frame alone, because it is followed from there; and where nothing tells objects apart, those of
the first frame that has any are followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from cnn_core.annotations.tables import BOX
from cnn_core.files import read_json
from cnn_core.images.clips import Clip
from cnn_core.images.lookup import SourceImages
from cnn_core.images.media import Media
from cnn_core.segmentation.prompts.rows import POINT, Kind, prompt_rows, read_table, with_classes
from cnn_core.segmentation.video.params import VideoPrompt

OBJECT_IDS = ("object", "track_id")


def video_prompts(path: str | Path, clip: Clip, kind: Kind, *, alone: bool) -> list[VideoPrompt]:
    """The clip's prompts at ``path``, an output of `detect` or a file; none where it names none of its frames.

    Args:
        kind: boxes, or points alone, as `prompts.write_prompts`.
        alone: the clip is the only one, so that a table of frames need not name it.

    Raises:
        ValueError: a column or value is missing or wrong.
    """
    path = Path(path)
    frame = _detected(path, clip) if path.is_dir() else with_classes(read_table(path), path)[1]
    exact = "frame" in frame
    frame = _by_number(frame, clip, path, alone) if exact else _by_image(frame, clip, path)
    frame = _numbered(frame)
    rows = prompt_rows(frame.assign(image_id=frame["frame"].map("{:09d}".format)), path, kind)
    rows["frame"] = rows["image_id"].astype("int64")
    if rows.empty:
        return []
    if rows["track_id"].isna().all():
        rows = rows if exact else rows[rows["frame"] == rows["frame"].min()]
        rows["track_id"] = rows.groupby(["frame", "prompt_id"], sort=True).ngroup() + 1
    if not exact:
        rows = rows[rows["frame"] == rows.groupby("track_id")["frame"].transform("min")]
    groups = rows.groupby(["frame", "track_id"], sort=True)
    return [_prompt(int(number), int(name), own, path) for (number, name), own in groups]


def prompt_classes(path: str | Path) -> list[str]:
    """The names of the prompts' classes, by their numbers."""
    path = Path(path)
    if path.is_dir():
        return list(read_json(path / "manifest.json", made_by="detect")["classes"])
    return with_classes(read_table(path), path)[0]


def _detected(folder: Path, clip: Clip) -> pd.DataFrame:
    """The rows of a folder of parts that are about the clip, without reading the others."""
    ids = clip.image_ids
    image = ds.field("image_id")  # the range lets whole pieces of the files be passed over
    wanted = (image >= min(ids)) & (image <= max(ids)) & image.isin(ids)
    parts = [str(part) for part in sorted(folder.glob("part-*.parquet"))]
    return ds.dataset(parts, format="parquet").to_table(filter=wanted, use_threads=False).to_pandas()


def _by_number(frame: pd.DataFrame, clip: Clip, path: Path, alone: bool) -> pd.DataFrame:
    named = next((name for name in ("image_id", "file") if name in frame), None)
    if named is None and not alone:
        raise ValueError(f"{path} has no column image_id or file to say which of the videos a frame is of")
    if named is not None:
        frame = frame[frame[named].astype(str).isin(clip.names)]
    numbers = pd.to_numeric(frame["frame"], errors="coerce")
    if (wrong := ~((numbers >= 0) & (numbers % 1 == 0))).any():
        raise ValueError(f"{path}: frame must be a whole number from 0, not {frame['frame'][wrong].iloc[0]}")
    return frame.assign(frame=numbers.astype("int64"))


def _by_image(frame: pd.DataFrame, clip: Clip, path: Path) -> pd.DataFrame:
    known = SourceImages(Media(spans=(clip.part,), left_out={}, signature=""))
    frame = known.resolved(frame, path)
    numbers = {image_id: number for number, image_id in enumerate(clip.image_ids)}
    return frame.assign(frame=frame["image_id"].map(numbers).astype("int64"))


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """With a whole number for each object as ``track_id`` and ``object``, missing where nothing numbers them; if only
    some rows have none, they are left out."""
    name = next((name for name in OBJECT_IDS if name in frame and frame[name].notna().any()), None)
    if name is None:
        return frame.drop(columns="object", errors="ignore").assign(
            track_id=pd.array([pd.NA] * len(frame), dtype="Int64")
        )
    frame = frame[frame[name].notna()]
    numbers = pd.to_numeric(frame[name], errors="coerce")
    if not ((numbers >= 0) & (numbers % 1 == 0)).all():  # they are names
        numbers = pd.Series(pd.factorize(frame[name].astype(str))[0] + 1, index=frame.index)
    return frame.assign(track_id=numbers.astype("Int64"), object=numbers.astype("Int64"))


def _prompt(frame: int, number: int, rows: pd.DataFrame, path: Path) -> VideoPrompt:
    first = rows.iloc[0]
    boxed, pointed = not np.isnan(first["x1"]), rows[rows["x"].notna()]
    if len(rows[[*BOX]].drop_duplicates()) > 1:
        raise ValueError(f"{path}: object {number} has several boxes in frame {frame}; one must say it all")
    points = tuple((float(x), float(y)) for x, y in pointed[POINT].to_numpy())
    about: dict[str, Any] = {name: first[name] for name in ("class_id", "class_name", "prompt_score")}
    return VideoPrompt(
        frame=frame,
        object_id=number,
        box=tuple(map(float, first[BOX])) if boxed else None,
        points=points,
        labels=tuple(map(int, pointed["label"])) if points else None,
        about=about | {"class_id": int(about["class_id"]), "prompt_score": float(about["prompt_score"])},
    )


def unreachable_prompts(prompts: Sequence[VideoPrompt], count: int) -> list[VideoPrompt]:
    """Those for frames that the clip, of ``count`` frames, has not."""
    return [prompt for prompt in prompts if prompt.frame >= count]
