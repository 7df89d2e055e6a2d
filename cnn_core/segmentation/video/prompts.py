"""Prompts for a video's objects, from the detections in its frames or from a user's own table (`prompts.table`).

A table for a video may have the further column ``frame`` (from 0). With it, ``image_id`` or ``file`` names the video,
and neither is needed if there is only one video. ``object`` (else ``track_id``) says which rows, of any frames, are the
same object: the object is prompted in each of these frames. Without ``frame``, as in the output of `detect`, an object
is prompted in its first frame alone, because it is followed from there. If nothing tells the objects apart, those of
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
    """Read the clip's prompts from ``path``, an output of `detect` or a file; none if it names none of the frames.

    Args:
        kind: boxes, or points alone, as in `prompts.table.write_prompts`.
        alone: the clip is the only one, so a table of frames need not name it.

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
    return [_prompt(object_rows, path) for _, object_rows in groups]


def prompt_classes(path: str | Path) -> list[str]:
    """The names of the prompts' classes, in the order of their numbers."""
    path = Path(path)
    if path.is_dir():
        return list(read_json(path / "manifest.json", made_by="detect")["classes"])
    return with_classes(read_table(path), path)[0]


def _detected(folder: Path, clip: Clip) -> pd.DataFrame:
    """The clip's rows in a folder of parts. The others are not read."""
    ids = clip.image_ids
    image = ds.field("image_id")  # the range lets whole pieces of the files be passed over
    condition = (image >= min(ids)) & (image <= max(ids)) & image.isin(ids)
    parts = [str(part) for part in sorted(folder.glob("part-*.parquet"))]
    return ds.dataset(parts, format="parquet").to_table(filter=condition, use_threads=False).to_pandas()


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
    source_images = SourceImages(Media(spans=(clip.part,), left_out={}, signature=""))
    frame = source_images.resolved(frame, path)
    numbers = {image_id: number for number, image_id in enumerate(clip.image_ids)}
    return frame.assign(frame=frame["image_id"].map(numbers).astype("int64"))


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """Give each object a whole number, as ``track_id`` and ``object``; missing if no column tells objects apart.

    Rows without a value in that column are left out.
    """
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


def _prompt(rows: pd.DataFrame, path: Path) -> VideoPrompt:
    """The prompt that the rows of one object in one frame describe."""
    first = rows.iloc[0]
    frame, object_id = int(first["frame"]), int(first["track_id"])
    boxed, pointed = not np.isnan(first["x1"]), rows[rows["x"].notna()]
    if len(rows[[*BOX]].drop_duplicates()) > 1:
        raise ValueError(f"{path}: object {object_id} has several boxes in frame {frame}; one must say it all")
    points = tuple((float(x), float(y)) for x, y in pointed[POINT].to_numpy())
    about: dict[str, Any] = {name: first[name] for name in ("class_id", "class_name", "prompt_score")}
    return VideoPrompt(
        frame=frame,
        object_id=object_id,
        box=tuple(map(float, first[BOX])) if boxed else None,
        points=points,
        labels=tuple(map(int, pointed["label"])) if points else None,
        about=about | {"class_id": int(about["class_id"]), "prompt_score": float(about["prompt_score"])},
    )


def unreachable_prompts(prompts: Sequence[VideoPrompt], count: int) -> list[VideoPrompt]:
    """The prompts for frames after the end of a clip of ``count`` frames."""
    return [prompt for prompt in prompts if prompt.frame >= count]
