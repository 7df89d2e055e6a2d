"""Stage ``detect``: find objects in any images -> data/predictions/<model>.

The source is a folder, a .zip, a Parquet table or a video.

part-00000.parquet …   one row an object: `cnn_core.annotations.tables.OBJECTS`, file, model_sha256
images.parquet         one row an image that could be read, also where nothing was found
coco.json              COCO's results format, with file names relative to the source and the ids of ``truth``, if any
bad.parquet, bad.csv   images that could not be read: image_id, file, reason, detail
pictures/, labels/     annotated pictures and Ultralytics' text labels, as many as the parameters say
manifest.json          classes, model, counts; written last
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cnn_core.annotations.tables import BOX
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import DetectParams
from cnn_core.detection.yolo import weights_file
from cnn_core.files import safe_file_name, whole_folder, write_json
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Entry, Media, Part, list_media
from cnn_core.images.reader import Reader, pixels, sizes_together
from cnn_core.params import load_section
from tasks.common.prediction_parts import account, gather, local, log_left_out, write_part
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.parts import run_parts
from tasks.engine.runtime import Runtime, load_runtime, main_checkout
from tasks.engine.state import input_sha256, key_of, run_in_progress
from tasks.engine.workers import Resources, part_folder

PART = 128  # images: the most that a killed run loses, for each worker
CALIBRATED = 128  # images of the source for the calibration of int8


PARAMS = DetectParams


def main(name: str, target: str = "") -> None:
    params, runtime = load_section(PARAMS, f"detect.{name}"), load_runtime()
    target = target or f"data/predictions/{name}"  # `gridflow detect` names another folder
    weights_file(params.weights)  # says what is missing before anything else is done
    media = list_media(params.source, match=params.match, vid_stride=params.vid_stride)
    if params.tracker != "none" and not media.videos:
        raise ValueError(f"tracker {params.tracker} follows objects through a video, but {params.source} has none")
    log_left_out(media, params.source)
    weights = input_sha256(params.weights)
    key = key_of("detect", params=dataclasses.asdict(params), weights=weights, source=media.signature)
    with run_in_progress(runtime, f"detect-{key}") as run:
        state = local(run.folder, "detect")
        parts = media.parts(PART)
        calibration = calibration_parts(media) if params.int8 else []
        make = functools.partial(DetectWorker, params, runtime, str(state), calibration)
        run_parts(parts, make, state / "parts", runtime, label=f"detect {name}")
        folders = [part_folder(state / "parts", number) for number in range(len(parts))]
        if params.tracker != "none":
            from tasks.common.tracking import track_objects  # imports torch, which the driver needs for nothing else

            track_objects(media, parts, folders, params, state / "settings")
        summary = collect(folders, params, target)
        summary |= account(media, summary, params.source)
    events.write_metrics(f"data/metrics/detect-{name}.json", summary)
    if summary["bad"]:
        events.log(f"warning: {summary['bad']:,} images of {params.source} could not be read: see {target}/bad.csv")
    events.log(f"{target}: {summary['objects']:,} objects in {summary['images']:,} images")


class DetectWorker:
    """A `tasks.engine.workers.Worker` that writes a part's tables, pictures and labels.

    It loads the network once. Build it in its own process: only there is torch imported.
    """

    def __init__(
        self, params: DetectParams, runtime: Runtime, state: str, calibration: list[Part], resources: Resources
    ) -> None:
        import torch

        from cnn_core.detection.inference.detector import Detector

        if not resources.gpus:
            torch.set_num_threads(resources.cpus)
            keep_memory()
        self.params, self.reader = params, Reader(vid_stride=params.vid_stride)
        self.detector = Detector(
            params.weights,
            params,
            backend=params.backend,
            device=torch.device("cuda" if resources.gpus else "cpu"),
            threads=resources.cpus,
            cache=main_checkout() / ".gridflow/engines",
            settings=Path(state) / "settings",
            batch=runtime.micro_batch,
            calibration=functools.partial(calibration_images, calibration, params.vid_stride) if calibration else None,
        )

    def __call__(self, part: Part, folder: Path) -> dict[str, int]:
        from cnn_core.detection.inference.steps import write_labels, write_picture

        info = self.detector.info
        entries: Iterable[Entry] = self.reader(part)
        if part.kind == "files":  # a network of free input sizes is slower when the size changes from image to image
            entries = sizes_together(entries)
        objects: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        order: dict[str, int] = {}
        for entry, image, detections in self.detector.stream(entries):
            named = {"image_id": entry.image_id, "file": entry.file}
            order[entry.image_id] = entry.number
            if isinstance(detections, BadImage):
                bad.append({**named, "reason": detections.reason, "detail": detections.detail})
                continue
            assert image is not None, "only a bad image has none"
            images.append({**named, "width": detections.width, "height": detections.height})
            objects += [{**named, **row, "model_sha256": info.sha256} for row in rows(detections, info.names)]
            name = safe_file_name(entry.image_id)
            tracked = self.params.tracker != "none" and part.kind == "video"  # drawn after tracking
            if not tracked and (self.params.pictures < 0 or entry.number < self.params.pictures):
                write_picture(folder / "pictures" / f"{name}.jpg", image, detections, info.names)
            if not tracked and self.params.save_txt:
                write_labels(folder / "labels" / f"{name}.txt", image, detections, info.names)
        for table in (objects, images, bad):
            table.sort(key=lambda row: order[row["image_id"]])
        write_part(folder, objects, images, bad)
        model = {"names": list(info.names.values()), "sha256": info.sha256, "task": info.task}
        write_json(folder / "model.json", model | {"engine": self.detector.engine.name})
        return {"images": len(images), "bad": len(bad)}


def rows(detections: Detections, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """Yield one image's objects as rows of `OBJECTS`, without the columns of the image."""
    columns = zip(detections.boxes, detections.scores, detections.classes, strict=True)
    for index, (box, score, class_id) in enumerate(columns):
        yield {
            "class_id": int(class_id),
            "class_name": names[int(class_id)],
            **dict(zip(BOX, map(float, box), strict=True)),
            "score": float(score),
            "rle": detections.masks[index] if detections.masks is not None else None,
        }


def calibration_parts(media: Media) -> list[Part]:
    return media.parts(1)[:: max(1, media.count // CALIBRATED)][:CALIBRATED]


def calibration_images(parts: list[Part], vid_stride: int) -> Iterator[Any]:
    from cnn_core.detection.inference.steps import reader as imread

    reader, read = Reader(vid_stride=vid_stride), imread(3)
    for part in parts:
        for entry in reader(part):
            with contextlib.suppress(BadImage):
                yield pixels(entry, read)


def collect(folders: list[Path], params: DetectParams, target: str) -> dict[str, Any]:
    """Join the parts into the stage's output; return the metrics.

    Raises:
        ValueError: not one image could be read.
    """
    with whole_folder(target) as folder:
        gathered = gather(folders, folder, source=params.source, truth=params.truth, copied=("pictures", "labels"))
        model = gathered.model
        about = {"classes": model["names"], "model_sha256": model["sha256"], "task": model["task"]}
        listed = {"match": params.match, "vid_stride": params.vid_stride}  # needed to read the source again
        counts = {"source": params.source, "counts": gathered.counts, "listed": listed}
        write_json(folder / "manifest.json", {"schema_version": 1, **about, **counts})
    return {**gathered.counts, "engine": model["engine"], "found": gathered.classes}


if __name__ == "__main__":
    events.run_stage(main)
