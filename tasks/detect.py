"""Find objects in any images: a folder, .zip, Parquet or video, and weights -> data/predictions/detect.

part-00000.parquet …   one row an object: `cnn_core.annotations.tables.OBJECTS`, file, model_sha256
images.parquet         one row an image that could be read, also where nothing was found
coco.json              COCO's results format, with file names
bad.parquet, bad.csv   images that could not be read: image_id, file, reason, detail
pictures/, labels/     annotated pictures, and Ultralytics' text labels, as asked for
manifest.json          classes, model, counts; written last
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnn_core.detection.params import DetectParams
from cnn_core.detection.yolo import weights_file
from cnn_core.files import whole_folder, write_json
from cnn_core.images.media import Media, Part, list_media
from cnn_core.params import load_section
from tasks.common.prediction_parts import gather, local, tell_left_out, write_part
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.parts import run_parts
from tasks.engine.runtime import Runtime, load_runtime, main_checkout
from tasks.engine.state import input_sha256, key_of, run_in_progress
from tasks.engine.workers import Resources, part_folder

PART = 128  # images; what a killed run loses at most, for each worker
TARGET = "data/predictions/detect"
CALIBRATED = 128  # images of the source that int8 is calibrated with


PARAMS = DetectParams


def main() -> None:
    params, runtime = load_section(PARAMS, "detect"), load_runtime()
    weights_file(params.weights)  # says what is missing before anything else is done
    media = list_media(params.source, match=params.match, vid_stride=params.vid_stride)
    if params.tracker != "none" and not media.videos:
        raise ValueError(f"tracker {params.tracker} follows objects through a video, but {params.source} has none")
    tell_left_out(media, params.source)
    key = key_of(
        "detect",
        params=dataclasses.asdict(params),
        weights=input_sha256(params.weights),
        source=media.signature,
    )
    with run_in_progress(runtime, f"detect-{key}") as run:
        state = local(run.folder, "detect")
        parts = media.parts(PART)
        some = calibration_parts(media) if params.int8 else []
        make = functools.partial(DetectWorker, params, runtime, str(state), some)
        run_parts(parts, make, state / "parts", runtime, label="detect")
        folders = [part_folder(state / "parts", number) for number in range(len(parts))]
        if params.tracker != "none":
            from tasks.common.tracking import follow  # imports torch, which the driver needs for nothing else

            follow(media, parts, folders, params, state / "settings")
        summary = collect(folders, params)
    events.write_metrics("data/metrics/detect.json", summary)
    if summary["bad"]:
        events.log(f"warning: {summary['bad']:,} images of {params.source} could not be read: see {TARGET}/bad.csv")
    events.log(f"{TARGET}: {summary['objects']:,} objects in {summary['images']:,} images")


class DetectWorker:
    """A `tasks.engine.workers.Worker`: loads the network once, and writes a part's tables, pictures and labels.

    Made in its process: only there is torch imported.
    """

    def __init__(
        self, params: DetectParams, runtime: Runtime, state: str, some: list[Part], resources: Resources
    ) -> None:
        import torch

        from cnn_core.detection.inference.detector import Detector
        from cnn_core.images.reader import Reader

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
            calibration=functools.partial(calibration_images, some, params.vid_stride) if some else None,
        )

    def __call__(self, part: Part, folder: Path) -> dict[str, int]:
        from cnn_core.detection.inference.steps import write_labels, write_picture
        from cnn_core.images.decoding import BadImage
        from cnn_core.images.reader import sizes_together

        about, entries = self.detector.info, self.reader(part)
        if part.kind == "files":  # a network of free input sizes is slower where each image has another than the last
            entries = sizes_together(entries)
        objects, images, bad, order = [], [], [], {}
        for entry, image, found in self.detector.stream(entries):
            named = {"image_id": entry.image_id, "file": entry.file}
            order[entry.image_id] = entry.number
            if isinstance(found, BadImage):
                bad.append({**named, "reason": found.reason, "detail": found.detail})
                continue
            images.append({**named, "width": found.width, "height": found.height})
            objects += [{**named, **row, "model_sha256": about.sha256} for row in rows(found, about.names)]
            tracked = self.params.tracker != "none" and part.kind == "video"  # drawn when the tracks are known
            if not tracked and (self.params.pictures < 0 or entry.number < self.params.pictures):
                write_picture(folder / "pictures" / f"{entry.image_id}.jpg", image, found, about.names)
            if not tracked and self.params.save_txt:
                write_labels(folder / "labels" / f"{entry.image_id}.txt", image, found, about.names)
        for table in (objects, images, bad):
            table.sort(key=lambda row: order[row["image_id"]])
        write_part(folder, objects, images, bad)
        write_json(
            folder / "model.json",
            {
                "names": list(about.names.values()),
                "sha256": about.sha256,
                "task": about.task,
                "engine": self.detector.engine.name,
            },
        )
        return {"images": len(images), "bad": len(bad)}


def rows(found: Any, names: dict[int, str]) -> Iterator[dict[str, Any]]:
    """One image's objects as rows of `OBJECTS`, without the image."""
    for place, (box, score, class_id) in enumerate(zip(found.boxes, found.scores, found.classes, strict=True)):
        x1, y1, x2, y2 = map(float, box)
        yield {
            "class_id": int(class_id),
            "class_name": names[int(class_id)],
            "x1": x1,
            "y1": y1,
            "x2": x2,
            "y2": y2,
            "score": float(score),
            "rle": found.masks[place] if found.masks is not None else None,
        }


def calibration_parts(media: Media) -> list[Part]:
    """Single images spread evenly over the source."""
    return media.parts(1)[:: max(1, media.count // CALIBRATED)][:CALIBRATED]


def calibration_images(some: list[Part], vid_stride: int) -> Iterator[Any]:
    """Their pixels, as far as they can be read."""
    from cnn_core.detection.inference.steps import reader as imread
    from cnn_core.images.decoding import BadImage
    from cnn_core.images.reader import Reader, pixels

    reader, read = Reader(vid_stride=vid_stride), imread(3)
    for part in some:
        for entry in reader(part):
            with contextlib.suppress(BadImage):
                yield pixels(entry, read)


def collect(folders: list[Path], params: DetectParams) -> dict[str, Any]:
    """The parts as the stage's output; gives the metrics.

    Raises:
        ValueError: not one image could be read.
    """
    with whole_folder(TARGET) as target:
        found = gather(folders, target, source=params.source, copied=("pictures", "labels"))
        model = found.model
        known = {"classes": model["names"], "model_sha256": model["sha256"], "task": model["task"]}
        listed = {"match": params.match, "vid_stride": params.vid_stride}  # who reads the source again needs them
        counts = {"source": params.source, "counts": found.counts, "listed": listed}
        write_json(target / "manifest.json", {"schema_version": 1, **known, **counts})
    return {**found.counts, "engine": model["engine"], "found": found.classes}


if __name__ == "__main__":
    events.run_stage(main)
