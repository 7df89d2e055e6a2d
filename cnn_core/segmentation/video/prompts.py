"""Prompts for a video's objects, from the detections in its frames or from a user's own table (`prompts.table`).

A table for a video may have the further column ``frame`` (from 0). With it, ``image_id`` or ``file`` names the video,
and neither is needed if there is only one video. ``object`` (else ``track_id``) says which rows, of any frames, are the
same object: the object is prompted in each of these frames. Without ``frame``, as in the output of `detect`, an object
is prompted in its first frame alone, because it is followed from there. If nothing tells the objects apart, those of
the first frame that has any are followed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.annotations.tables import BOX
from cnn_core.files import read_json
from cnn_core.images.clips import Clip
from cnn_core.images.lookup import SourceImages, texts
from cnn_core.images.media import Media
from cnn_core.segmentation.prompts.rows import POINT, Kind, numbers_of, prompt_rows, read_table, rows_of, with_classes

OBJECT_IDS = ("object", "track_id")
MOST_FRAMES = 10**9  # nine digits, by which frames are sorted


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoPrompt:
    """What and where an object is in one frame. Each prompt must say it by itself."""

    frame: int  # from 0
    object_id: int
    box: tuple[float, ...] | None = None  # xyxy in pixels of the frame
    points: tuple[tuple[float, float], ...] = ()  # (x, y)
    labels: tuple[int, ...] | None = None  # of the points, 1 = inside the object, 0 = outside
    about: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # class_id, class_name, prompt_score for the rows


PromptsByFrame = dict[int, dict[int, VideoPrompt]]  # by frame, then by object


def group_by_frame(prompts: Iterable[VideoPrompt]) -> PromptsByFrame:
    """Group the prompts by frame, then by object, both in rising order.

    Raises:
        ValueError: a frame is negative, or an object has two prompts in one frame.
    """
    table: PromptsByFrame = {}
    for prompt in sorted(prompts, key=lambda prompt: (prompt.frame, prompt.object_id)):
        if prompt.frame < 0:
            raise ValueError(f"a prompt is for frame {prompt.frame}: frames are numbered from 0")
        objects = table.setdefault(prompt.frame, {})
        if prompt.object_id in objects:
            raise ValueError(f"object {prompt.object_id} has two prompts in frame {prompt.frame}: one must say it all")
        objects[prompt.object_id] = prompt
    return table


def first_prompts(table: PromptsByFrame) -> PromptsByFrame:
    """Keep the first prompt of each object."""
    prompted: set[int] = set()
    first: PromptsByFrame = {}
    for frame, objects in table.items():
        if new := {object_id: prompt for object_id, prompt in objects.items() if object_id not in prompted}:
            first[frame] = new
            prompted |= new.keys()
    return first


def video_prompts(path: str | Path, clip: Clip, kind: Kind, *, alone: bool) -> list[VideoPrompt]:
    """Read the clip's prompts from ``path``, an output of `detect` or a file; none if it names none of the frames.

    Args:
        alone: the clip is the only one, so a table of frames need not name it.

    Raises:
        ValueError: a column or value is missing or wrong.
    """
    path = Path(path)
    if path.is_dir():
        frame = rows_of(sorted(path.glob("part-*.parquet")), clip.image_ids)
    else:
        frame = with_classes(read_table(path), path)[1]
    exact = "frame" in frame
    frame = _by_number(frame, clip, path, alone) if exact else _by_image(frame, clip, path)
    frame = _numbered(frame, path)
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


def _by_number(frame: pd.DataFrame, clip: Clip, path: Path, alone: bool) -> pd.DataFrame:
    named = next((name for name in ("image_id", "file") if name in frame), None)
    if named is None and not alone:
        raise ValueError(f"{path} has no column image_id or file to say which of the videos a frame is of")
    if named is not None:
        frame = frame[texts(frame[named]).isin(clip.names)]
    numbers = numbers_of(frame["frame"])
    if (wrong := ~((numbers >= 0) & (numbers % 1 == 0) & (numbers < MOST_FRAMES))).any():
        raise ValueError(f"{path}: frame must be a whole number from 0, not {frame['frame'][wrong].iloc[0]}")
    return frame.assign(frame=numbers.astype("int64"))


def _by_image(frame: pd.DataFrame, clip: Clip, path: Path) -> pd.DataFrame:
    source_images = SourceImages(Media(spans=(clip.part,), left_out={}, signature=""))
    frame = source_images.resolved(frame, path)
    numbers = {image_id: number for number, image_id in enumerate(clip.image_ids)}
    return frame.assign(frame=frame["image_id"].map(numbers).astype("int64"))


def _numbered(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Give each object a whole number, as ``track_id`` and ``object``; missing if no column tells objects apart."""
    name = next((name for name in OBJECT_IDS if name in frame and frame[name].notna().any()), None)
    if name is None:
        tracks = pd.array([pd.NA] * len(frame), dtype="Int64")
        return frame.drop(columns="object", errors="ignore").assign(track_id=tracks)
    if name == "object" and frame[name].isna().any():
        raise ValueError(
            f"{path}: object is missing in {int(frame[name].isna().sum()):,} rows: it names what is followed"
        )
    frame = frame[frame[name].notna()]
    names = texts(frame[name])
    numbers = numbers_of(names)
    if not ((numbers >= 0) & (numbers % 1 == 0) & (numbers < 2**53)).all():  # they are names
        numbers = pd.Series(pd.factorize(names)[0] + 1, index=frame.index)
    return frame.assign(track_id=numbers.astype("Int64"), object=numbers.astype("int64").astype(str))


def _prompt(rows: pd.DataFrame, path: Path) -> VideoPrompt:
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
