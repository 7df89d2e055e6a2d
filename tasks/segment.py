"""Stage ``segment``: cut objects out of any images or videos -> data/predictions/<model>.

The prompts are boxes that `detect` found, or points; without prompts, everything in an image is
segmented.

part-00000.parquet …   one row a mask: `cnn_core.annotations.tables.OBJECTS` (score = predicted IoU) and `MASK_COLUMNS`
images.parquet         one row an image that could be read, also where nothing was found
dropped.parquet        prompts without a mask: image_id, file, prompt_id, reason
coco.json              COCO's results format, with masks and file names
bad.parquet, bad.csv   images that could not be read: image_id, file, reason, detail
pictures/, cutouts/    overlays, and each object alone on a transparent ground (RGBA), as many as the
                       parameters say
manifest.json          classes, model, counts; written last
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_core.drawing.masks import overlay, write_cutouts, write_overlay
from cnn_core.files import safe_file_name, weights_file, whole_folder, write_json
from cnn_core.images.clips import Clip
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Entry, Media, Part, list_media
from cnn_core.images.reader import Reader
from cnn_core.params import load_section
from cnn_core.segmentation.params import SegmentParams
from cnn_core.segmentation.prompts.table import (
    ImagePrompts,
    PromptTable,
    check_prompts,
    names_elsewhere,
    prompt_files,
    write_prompts,
)
from cnn_core.segmentation.segments import OBJECT
from tasks.common.prediction_parts import (
    DROPPED_PROMPTS,
    MASK_COLUMNS,
    account,
    gather,
    local,
    log_left_out,
    write_part,
    write_rows,
)
from tasks.common.predictions import BOXES, check_same_frames
from tasks.common.videos import segment_videos, video_parts
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.parts import run_parts
from tasks.engine.runtime import Runtime, load_runtime, main_checkout
from tasks.engine.state import input_sha256, key_of, run_in_progress
from tasks.engine.workers import Resources, part_folder

PART = 16  # images: the most that a killed run loses, for each worker


PARAMS = SegmentParams


def main(name: str, target: str = "") -> None:
    params, runtime = load_section(PARAMS, f"segment.{name}"), load_runtime()
    target = target or f"data/predictions/{name}"  # `gridflow segment` names another folder
    weights_file(params.weights)  # before anything else, so that missing weights are an error at once
    if params.prompted:
        check_prompts(params.prompts)
    media = list_media(params.source, match=params.match, vid_stride=params.vid_stride)
    if media.videos and params.prompted and Path(params.prompts).is_dir():
        check_same_frames(params.prompts, media.vid_stride, made_by=BOXES)
    log_left_out(media, params.source)
    videos = tracked_videos(media, params)
    kinds = {part.kind for part in videos}
    stills = dataclasses.replace(media, spans=tuple(span for span in media.spans if span.kind not in kinds))
    key = key_of(
        "segment",
        params=dataclasses.asdict(params),
        weights=input_sha256(params.weights),
        source=media.signature,
        prompts=[input_sha256(file) for file in prompt_files(params.prompts)] if params.prompted else [],
    )
    with run_in_progress(runtime, f"segment-{key}") as run:
        state = local(run.folder, "segment")
        classes = prepare_prompts(params, stills, state, strict=not videos)
        if videos:
            frames = {frame for part in videos for frame in Clip(part).names}
            log_elsewhere(params, names_elsewhere(params.prompts, media, frames))
        folders = segment_images(stills, params, runtime, state, by_class=len(classes) > 1, label=f"segment {name}")
        if videos:
            video_folders = [part_folder(state / "videos", number) for number in range(len(videos))]
            segment_videos(media, params, video_folders, state)
            folders += video_folders
        summary = collect(folders, params, classes, target)
        summary |= account(media, summary, params.source)
    events.write_metrics(f"data/metrics/segment-{name}.json", summary)
    log_summary(params, summary, target)


def segment_images(
    media: Media, params: SegmentParams, runtime: Runtime, state: Path, *, by_class: bool, label: str
) -> list[Path]:
    parts = media.parts(PART)
    if parts:
        make = functools.partial(SegmentWorker, params, runtime, str(state), by_class)
        run_parts(parts, make, state / "parts", runtime, label=label)
    return [part_folder(state / "parts", number) for number in range(len(parts))]


def tracked_videos(media: Media, params: SegmentParams) -> list[Part]:
    """List the videos (and folders of frames) through which SAM 2 tracks the prompted objects."""
    if params.prompted and (media.videos or params.video.folders):
        from cnn_core.segmentation.sam.weights import family

        if family(params.weights) == "sam2":
            return video_parts(media, params)
    return []


def prepare_prompts(params: SegmentParams, media: Media, state: Path, *, strict: bool) -> list[str]:
    """Write the images' prompts for the workers; return the classes' names. ``strict``: there are no videos too."""
    if params.prompt == "everything" or not media.spans:
        return []
    written = write_prompts(params.prompts, state / "prompts.parquet", media, params.prompt, strict=strict)
    if strict:
        log_elsewhere(params, written.elsewhere)
    return written.classes


def log_elsewhere(params: SegmentParams, names: Sequence[str]) -> None:
    if names:
        events.log(
            f"warning: {params.prompts} has prompts for {len(names):,} images that {params.source} does not "
            f"have: {names[0]}{' …' if len(names) > 1 else ''}"
        )


def log_summary(params: SegmentParams, summary: Mapping[str, Any], target: str) -> None:
    if summary["bad"]:
        events.log(f"warning: {summary['bad']:,} images of {params.source} could not be read: see {target}/bad.csv")
    if summary["dropped"]:
        events.log(f"{summary['dropped']:,} prompts gave no mask: see {target}/dropped.parquet")
    events.log(f"{target}: {summary['objects']:,} masks in {summary['images']:,} images")


class SegmentWorker:
    """A `tasks.engine.workers.Worker` that loads the network once and writes a part's tables, overlays and cut-outs.

    Build it in its own process: only there is torch imported.
    """

    def __init__(
        self, params: SegmentParams, runtime: Runtime, state: str, by_class: bool, resources: Resources
    ) -> None:
        import torch

        from cnn_core.segmentation.inference.predictors import open_mask_predictor

        if not resources.gpus:
            torch.set_num_threads(resources.cpus)
            keep_memory()
        self.params, self.by_class, self.reader = params, by_class, Reader(vid_stride=params.vid_stride)
        self.prompts = PromptTable(Path(state) / "prompts.parquet") if params.prompted else None
        self.predictor = open_mask_predictor(
            params.weights,
            params,
            device=torch.device("cuda" if resources.gpus else "cpu"),
            threads=resources.cpus,
            cache=main_checkout() / ".gridflow/engines",
            settings=Path(state) / "settings",
            batch=runtime.micro_batch,
            backend=params.backend,
        )

    def __call__(self, part: Part, folder: Path) -> dict[str, int]:
        entries = list(self.reader(part)) if part.kind == "parquet" else self.reader(part)
        prompts = self._prompts(part, entries)
        objects, images, bad, dropped = [], [], [], []
        for entry, image, segments in self.predictor.stream(entries, prompts):
            named = {"image_id": entry.image_id, "file": entry.file}
            if isinstance(segments, BadImage) or image is None:
                assert isinstance(segments, BadImage)
                bad.append({**named, "reason": segments.reason, "detail": segments.detail})
                continue
            images.append({**named, "width": segments.width, "height": segments.height})
            objects += [{**named, **row, "model_sha256": self.predictor.sha256} for row in segments.rows]
            dropped += [{**named, "prompt_id": number, "reason": why} for number, why in segments.dropped.items()]
            self._draw(folder, entry, image, segments.rows, (prompts or {}).get(entry.image_id))
        write_part(folder, objects, images, bad, MASK_COLUMNS)
        write_rows(folder / "dropped.parquet", dropped, DROPPED_PROMPTS)
        network = self.predictor
        names = list(network.names.values()) if network.names and prompts is None else [OBJECT["class_name"]]
        about = {"names": names, "sha256": network.sha256, "family": network.family, "name": network.name}
        write_json(folder / "model.json", about)
        return {"images": len(images), "bad": len(bad)}

    def _prompts(self, part: Part, entries: Any) -> Mapping[str, ImagePrompts] | None:
        if self.prompts is None:
            return None
        if part.kind == "parquet":
            return self.prompts([entry.image_id for entry in entries])
        if part.kind == "video":
            return self.prompts([f"{part.ids[0]}#{number:06d}" for number in range(part.start + 1, part.stop + 1)])
        return self.prompts(part.ids)

    def _draw(
        self,
        folder: Path,
        entry: Entry,
        image: np.ndarray,
        rows: Sequence[Mapping[str, Any]],
        prompts: ImagePrompts | None,
    ) -> None:
        if self.params.pictures < 0 or entry.number < self.params.pictures:
            by_class = self.by_class or len({row["class_id"] for row in rows}) > 1
            picture = overlay(image, rows, by_class=by_class, prompts=None if prompts is None else prompts.rows)
            write_overlay(folder / "pictures" / f"{safe_file_name(entry.image_id)}.jpg", picture)
        if self.params.cutouts < 0 or entry.number < self.params.cutouts:
            write_cutouts(folder / "cutouts", entry.image_id, image, rows)


def collect(folders: list[Path], params: SegmentParams, classes: list[str], target: str) -> dict[str, Any]:
    """Join the parts into the stage's output; return the metrics."""
    with whole_folder(target) as folder:
        copied = ("pictures", "cutouts")
        gathered = gather(folders, folder, source=params.source, truth=params.truth, copied=copied, tables=("dropped",))
        model = gathered.model
        about = {"classes": classes or model["names"], "model_sha256": model["sha256"]}
        about |= {"family": model["family"], "name": model["name"]}
        listed = {"match": params.match, "vid_stride": params.vid_stride}  # needed to read the source again
        counts = {"source": params.source, "prompt": params.prompt, "counts": gathered.counts, "listed": listed}
        write_json(folder / "manifest.json", {"schema_version": 1, **about, **counts})
    return {**gathered.counts, "found": gathered.classes}


if __name__ == "__main__":
    events.run_stage(main)
