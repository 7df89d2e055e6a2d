"""Train a YOLO detector or segmenter in a Ray worker: any data.yaml, or a COCO JSON -> data/models/<model>.

One worker, on its CPUs or one GPU. An interrupted run continues from its last finished epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cnn_core.annotations.checks import LEFT_OUT, Refused, write_refused
from cnn_core.annotations.truth import refusals, refused_images
from cnn_core.detection import yolo
from cnn_core.detection.training.data import content_sha256, open_source
from cnn_core.detection.training.job import DetectorJob, architecture, max_stride, task_of
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.detection.training.train import check_start, final_weights, sample_pictures, save_network, train
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import MODEL_FILE, is_none, whole_folder
from cnn_core.images.seen import write_seen
from cnn_core.locks import temporary_folder
from cnn_core.model_card.card import DETECTOR
from cnn_core.params import load_section
from tasks.common.training import account, train_on_ray, training_figures, training_key, write_card, write_curve
from tasks.engine import events
from tasks.engine.runtime import Runtime, load_runtime
from tasks.engine.training_progress import TrainingProgress
from tasks.engine.training_worker import WorkerContext

PARAMS = TrainDetectorParams
NAMED_FILES = 5  # of the images left out
MEASURED = ("mAP50", "mAP50-95")
LOSSES = ("train_box_loss", "train_seg_loss", "train_cls_loss", "train_dfl_loss")
COLUMNS = (*LOSSES, *MEASURED, "images_per_s")  # of an epoch's line
LOADERS = 8  # processes that prepare images for a GPU, at most


def main(name: str) -> None:
    params, folder = load_section(PARAMS, f"train_detector.{name}"), Path("data/models", name)
    runtime = load_runtime()
    if runtime.num_workers[1] > 1:
        events.log("a detector is trained by one worker: num_workers in runtime.yaml is not followed here")
    runtime = dataclasses.replace(runtime, num_workers=(1, 1))
    with temporary_folder() as scratch:
        yolo.quiet(scratch)
        job = make_job(params, runtime)
        digest = content_sha256(job.data)
        check_and_tell_start(job)
        key = training_key("train_detector", params, data=digest, start=job.start, architecture=job.architecture)
        progress = TrainingProgress(f"train_detector {name}", params.epochs, columns=COLUMNS, measured=MEASURED)
        run_name = f"train_detector-{key}"
        with train_on_ray(work, job, runtime, run_name=run_name, progress=progress) as (checkpoint, resumed_at):
            faults = checkpoint["left_out"]
            left_out = [*job.data.refused, *refused_images(faults, params.source)]
            images = len(job.data.train) + len(job.data.val) - len(faults)
            for sentence in refusals(left_out, images=images):
                events.log(f"warning: {sentence}; all are in {folder}/{LEFT_OUT}")
            if checkpoint["batch"] != params.batch:
                events.log(
                    f"warning: the GPU's memory took {checkpoint['batch']} images at a time, not batch {params.batch}: "
                    "batch normalisation saw fewer, so another machine may give other weights; model.json says so"
                )
            network = save(folder, job, checkpoint, digest, left_out)
            write_curve(f"data/plots/train_detector-{name}.csv", checkpoint["history"])
            draw_samples(f"data/plots/train_detector-{name}-seen.png", job, faults)
            figures = metrics(network, checkpoint, resumed_at) | counts(job, left_out, faults)
            events.write_metrics(f"data/metrics/train_detector-{name}.json", figures)


def make_job(params: TrainDetectorParams, runtime: Runtime) -> DetectorJob:
    network = architecture(params.model, params.weights)
    return DetectorJob(
        params=params,
        data=open_source(
            params.source, outlines=task_of(network) == "segment", rotates=bool(params.degrees or params.shear)
        ),
        architecture=network,
        start="none" if is_none(params.weights) else str(yolo.weights_file(params.weights).absolute()),
        loaders=min(LOADERS, runtime.cpus()),
    )


def check_and_tell_start(job: DetectorJob) -> None:
    """Before Ray starts, so that weights that do not fit fail at once."""
    fitting, tensors = check_start(job)
    if fitting:
        events.log(f"starting from {job.params.weights}: {fitting} of {tensors} tensors taken over")


def work(job: DetectorJob, context: WorkerContext) -> None:
    resume = context.restored()
    if resume:
        context.report_resumed(resume["epoch"], finished=resume["finished"])
    with ultralytics_folder(context) as folder:
        yolo.quiet(folder)
        train(
            job,
            folder=folder / "run",
            device=context.device,
            resume=resume,
            on_step=context.report_step,
            on_epoch=context.report_epoch,
        )


@contextlib.contextmanager
def ultralytics_folder(context: WorkerContext) -> Iterator[Path]:
    """A folder for Ultralytics' settings and notes, in the run's folder; of a remote one, on this machine."""
    parent = None if context.remote_state else Path(context.run_folder)
    with temporary_folder(parent, ".ultralytics-") as folder:
        yield folder


def save(
    target: Path, job: DetectorJob, checkpoint: Mapping[str, Any], digest: str, left_out: Sequence[Refused]
) -> nn.Module:
    with whole_folder(target) as folder:
        write_refused(folder / LEFT_OUT, left_out)
        images = {"train": job.learned_files, "val": job.data.val}
        write_seen(folder, images, start=job.start, threads=job.loaders)
        network = save_network(folder / MODEL_FILE, job, final_weights(job, checkpoint), imgsz=checkpoint["imgsz"])
        described = {
            "architecture": job.architecture["yaml_file"],
            "task": job.task,
            "classes": job.data.names,
            "imgsz": checkpoint["imgsz"],
            "batch": checkpoint["batch"],  # images at a time, which may be fewer than params.batch
            "stride": max_stride(network),
            "metrics": checkpoint["best"],
            "model": job.architecture,
        }
        write_card(
            folder,
            DETECTOR,
            job.params,
            described,
            name=target.name,
            source=job.params.source,
            data_sha256=digest,
            history=checkpoint["history"],
            counts={"train": len(job.data.train), "val": len(job.data.val)},
        )
    return network


def metrics(network: nn.Module, checkpoint: Mapping[str, Any], resumed_at: int) -> dict[str, Any]:
    of_an_epoch = ("epoch", "seconds", "lr", "images_per_s")
    best = {key: value for key, value in checkpoint["best"].items() if key not in of_an_epoch}
    return {
        "best_epoch": checkpoint["best"]["epoch"],
        **best,
        **training_figures(checkpoint["history"], network, resumed_at),
    }


def counts(job: DetectorJob, left_out: Sequence[Refused], faults: Collection[str]) -> dict[str, Any]:
    """Count what the source lists: images that are used, drawn by no epoch, or left out."""
    learned, validated = ([file for file in files if file not in faults] for files in (job.learned_files, job.data.val))
    undrawn = len(job.data.train) - len(job.learned_files)
    bad = [entry for entry in left_out if entry.kind == "image"]
    counted = account(len(learned), len(validated), left_out=len(bad), unused={"beyond fraction": undrawn})
    return {
        **counted,
        "left_out_files": [str(entry) for entry in bad[:NAMED_FILES]],
        "left_out_annotations": sum(entry.kind == "annotation" for entry in left_out),
    }


def draw_samples(path: str, job: DetectorJob, faults: Collection[str]) -> None:
    train = [file for file in job.data.train if file not in faults]
    rows, captions = sample_pictures(dataclasses.replace(job, data=dataclasses.replace(job.data, train=train)))
    contact_sheet(path, rows, title="images as training draws them, with their boxes", captions=captions, side=160)


if __name__ == "__main__":
    events.run_stage(main)
