"""Track objects through a video, whose frames were searched in parts, in any order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cnn_core.annotations.tables import BOX, objects_table, read_images, read_objects, write_objects
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import DetectParams
from cnn_core.files import safe_file_name
from cnn_core.images.media import Media, Part
from cnn_core.images.reader import Reader
from tasks.engine import events

if TYPE_CHECKING:
    from cnn_core.detection.inference.steps import Tracker


def track_objects(
    media: Media, parts: Sequence[Part], folders: Sequence[Path], params: DetectParams, settings: Path
) -> None:
    """Write every video's objects with their ``track_id`` and the tracker's boxes.

    They go to ``tracked.parquet`` beside the objects, which stay for a run that is killed here.
    """
    from cnn_core.detection.yolo import quiet

    quiet(settings)
    from cnn_core.detection.inference.steps import Tracker

    total = sum(map(len, media.videos))
    with events.progress("track", total, "frames") as bar:
        for video in media.videos:
            tracker, reader = Tracker(params.tracker), Reader(vid_stride=params.vid_stride)
            for part, folder in zip(parts, folders, strict=True):
                if part.kind != "video" or part.path != video.path:
                    continue
                objects = read_objects(folder / "objects.parquet")
                tables = list(_tracked_frames(part, folder, objects, tracker, reader, params))
                write_objects(folder / "tracked.parquet", pd.concat(tables) if tables else objects)
                bar.update(len(part))


def _tracked_frames(
    part: Part, folder: Path, objects: pd.DataFrame, tracker: Tracker, reader: Reader, params: DetectParams
) -> Iterator[pd.DataFrame]:
    from cnn_core.detection.inference.steps import write_labels, write_picture

    names = dict(enumerate(json.loads((folder / "model.json").read_text())["names"]))
    by_image = dict(tuple(objects.groupby("image_id", sort=False)))
    readable = set(read_images(folder / "images.parquet")["image_id"])
    for entry in reader(part):
        if entry.image_id not in readable or not isinstance(entry.content, np.ndarray):
            continue
        rows = by_image.get(entry.image_id, objects.iloc[:0])
        rows = _tracked(rows, tracker, entry.content, names)
        detections = Detections(
            height=entry.content.shape[0],
            width=entry.content.shape[1],
            boxes=rows[BOX].to_numpy(np.float32),
            scores=rows["score"].to_numpy(np.float32),
            classes=rows["class_id"].to_numpy(np.int64),
            masks=list(rows["rle"]) if rows["rle"].notna().any() else None,
            tracks=rows["track_id"].to_numpy(np.int64) if rows["track_id"].notna().all() and len(rows) else None,
        )
        if params.pictures < 0 or entry.number < params.pictures:
            write_picture(
                folder / "pictures" / f"{safe_file_name(entry.image_id)}.jpg", entry.content, detections, names
            )
        if params.save_txt:
            write_labels(folder / "labels" / f"{safe_file_name(entry.image_id)}.txt", entry.content, detections, names)
        yield rows


def _tracked(rows: pd.DataFrame, tracker: Tracker, frame: np.ndarray, names: dict[int, str]) -> pd.DataFrame:
    table = rows[[*BOX, "score", "class_id"]].to_numpy(np.float32).reshape(-1, 6)
    kept, tracks = tracker(table, frame)
    rows = rows.iloc[kept].copy()
    if tracks is not None:
        rows[BOX] = tracks[:, :4].astype(np.float64)
        rows["track_id"] = pd.array(tracks[:, 4].astype(np.int64), dtype="Int64")
        rows["score"] = tracks[:, 5].astype(np.float64)
        rows["class_id"] = tracks[:, 6].astype(np.int64)
        rows["class_name"] = [names[number] for number in rows["class_id"]]
    return objects_table(rows)
