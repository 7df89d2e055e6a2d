"""The videos of `segment`: SAM 2 tracks objects from their prompts on, one video after the other.

Each video's folder is a part like those of the images (`tasks.common.prediction_parts`): its frames
are the images, ``track_id`` (and ``prompt_id``) is the object, and ``pictures/<video>.mp4`` shows
the masks. An object has no row for a frame in which it is hidden. A killed run loses the videos
that it was working on.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnn_core.drawing.masks import overlay, write_cutouts, write_overlay
from cnn_core.drawing.video import VideoPicture
from cnn_core.files import safe_file_name, write_json
from cnn_core.images.clips import CUT_SHORT, Clip, clip_parts, shortfall
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Media, Part
from cnn_core.segmentation.params import SegmentParams, VideoParams
from cnn_core.segmentation.video.prompts import VideoPrompt, prompt_classes, unreachable_prompts, video_prompts
from tasks.common.video_tables import VideoTables
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.parts import run_parts
from tasks.engine.runtime import load_runtime
from tasks.engine.workers import Resources

if TYPE_CHECKING:
    from cnn_core.segmentation.video.segmenter import TrackedFrame

HIDDEN_ALWAYS = "seen in no frame"
BEHIND = "behind the last frame"
UNREADABLE_FRAME = "its frame cannot be read"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoJob:
    part: Part
    prompts: tuple[VideoPrompt, ...]

    def __len__(self) -> int:
        return len(self.part)

    def __str__(self) -> str:
        return str(self.part)


def video_parts(media: Media, params: SegmentParams) -> list[Part]:
    return clip_parts(media, folders=params.video.folders)


def segment_videos(media: Media, params: SegmentParams, folders: Sequence[Path], state: Path) -> None:
    """Track the prompted objects in every video, each into its own of ``folders`` (`workers.part_folder`).

    Raises:
        ValueError: the prompts name no frame of any video; or the errors of `video_prompts`.
    """
    parts, runtime = video_parts(media, params), load_runtime()
    assert len(parts) == len(folders)
    jobs = [VideoJob(part=part, prompts=tuple(_prompts(part, params, alone=len(parts) == 1))) for part in parts]
    only_videos = {span.kind for span in media.spans} <= {part.kind for part in parts}
    if only_videos and not any(job.prompts for job in jobs):
        first = Clip(parts[0], vid_stride=params.vid_stride).image_ids[0]
        raise ValueError(
            f"{params.prompts} has no prompts for the videos of {params.source}, whose first frame is called {first}"
        )
    classes = prompt_classes(params.prompts)
    make = functools.partial(VideoWorker, params, classes, str(state))
    run_parts(jobs, make, folders[0].parent, runtime, label="segment videos", unit="frames")
    for job, folder in zip(jobs, folders, strict=True):
        _log_video(job, folder)


def _prompts(part: Part, params: SegmentParams, *, alone: bool) -> list[VideoPrompt]:
    clip = Clip(part, vid_stride=params.vid_stride)
    kind: Literal["boxes", "points"] = "points" if params.prompt == "points" else "boxes"
    return video_prompts(params.prompts, clip, kind, alone=alone)


def _log_video(job: VideoJob, folder: Path) -> None:
    video = json.loads((folder / "video.json").read_text())
    if not job.prompts:
        events.log(f"warning: there are no prompts for {job.part.path}, so nothing is tracked in it")
    if cut := video["cut"]:
        events.log(f"warning: {job.part.path} {CUT_SHORT}: {cut}")
    events.log(f"{video['name']}: {video['objects']:,} objects through {video['frames']:,} frames")


def video_settings(params: SegmentParams) -> VideoParams:
    values = dataclasses.asdict(params.video) | {name: getattr(params, name) for name in ("imgsz", "conf", "half")}
    return VideoParams(**values, stability_score_offset=params.everything.stability_score_offset)


class VideoWorker:
    """A `tasks.engine.workers.Worker` that loads SAM 2 once and segments video after video."""

    def __init__(self, params: SegmentParams, classes: list[str], state: str, resources: Resources) -> None:
        import torch

        from cnn_core.segmentation.video.segmenter import VideoSegmenter

        if not resources.gpus:
            torch.set_num_threads(resources.cpus)
            keep_memory()
        self.params, self.classes = params, classes
        self.segmenter = VideoSegmenter(
            params.weights,
            video_settings(params),
            device=torch.device("cuda" if resources.gpus else "cpu"),
            settings=Path(state) / "settings",
        )

    def __call__(self, job: VideoJob, folder: Path) -> dict[str, int]:
        from cnn_core.detection.inference.steps import reader

        clip = Clip(job.part, vid_stride=self.params.vid_stride, imread=reader(3))
        tables = VideoTables(folder, self.segmenter.loaded.sha256)
        about = {prompt.object_id: dict(prompt.about) for prompt in reversed(job.prompts)}
        with (
            VideoPicture(folder / "pictures" / f"{safe_file_name(clip.name)}.mp4", clip.fps) as video,
            events.progress(f"segment {clip.name}", len(clip), "frames") as bar,
        ):
            for tracked in self.segmenter.track(clip, job.prompts):
                rows = list(_rows(tracked, about))
                tables.add(tracked, rows)
                if tracked.segments is not None:
                    assert not isinstance(tracked.frame.image, BadImage)
                    video.add(tracked.frame.image, rows)
                    self._draw(folder, job.part.first + tracked.frame.number, tracked, rows)
                bar.update()
        return self._finish(job, clip, tables, folder)

    def _draw(self, folder: Path, number: int, tracked: TrackedFrame, rows: list[dict[str, Any]]) -> None:
        image, name = tracked.frame.image, tracked.frame.image_id
        assert not isinstance(image, BadImage)
        if self.params.pictures < 0 or number < self.params.pictures:
            write_overlay(folder / "pictures" / f"{safe_file_name(name)}.jpg", overlay(image, rows, by_class=False))
        if self.params.cutouts < 0 or number < self.params.cutouts:
            write_cutouts(folder / "cutouts", name, image, rows)

    def _finish(self, job: VideoJob, clip: Clip, tables: VideoTables, folder: Path) -> dict[str, int]:
        short = shortfall(clip, tables.frames)
        if short:
            tables.add_bad(short, image_id=clip.name, file=job.part.path)
        tables.dropped += _without_mask(job, clip, tables)
        tables.close()
        loaded = self.segmenter.loaded
        about = {"names": self.classes, "sha256": loaded.sha256, "family": loaded.family, "name": loaded.name}
        write_json(folder / "model.json", about)
        seen = {"name": clip.name, "frames": tables.frames, "objects": len(tables.seen)}
        write_json(folder / "video.json", seen | {"cut": short.detail if short else ""})
        return {"images": tables.frames, "bad": tables.unread}


def _rows(tracked: TrackedFrame, about: dict[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a frame's objects as rows, without the columns that are equal in all."""
    if tracked.segments is None:
        return
    columns = {number: values | {"track_id": number, "prompt_id": number} for number, values in about.items()}
    for row in tracked.segments.rows(columns):
        yield {"image_id": tracked.frame.image_id, "file": tracked.frame.file, **row}


def _without_mask(job: VideoJob, clip: Clip, tables: VideoTables) -> Iterator[dict[str, Any]]:
    """Yield a row for each prompt that was not reached, and for each object without any mask."""
    late = {id(prompt) for prompt in unreachable_prompts(job.prompts, tables.last + 1)}
    listed = {row["prompt_id"] for row in tables.dropped}
    for prompt in job.prompts:
        why = BEHIND if id(prompt) in late else UNREADABLE_FRAME if prompt.frame in tables.lost else HIDDEN_ALWAYS
        if why == HIDDEN_ALWAYS and (prompt.object_id in tables.seen or prompt.object_id in listed):
            continue
        name = clip.image_ids[prompt.frame] if prompt.frame < len(clip) else clip.name
        yield {"image_id": name, "file": job.part.path, "prompt_id": prompt.object_id, "reason": why}
