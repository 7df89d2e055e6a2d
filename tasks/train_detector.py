"""Train a YOLO detector or segmenter in a Ray worker: any data.yaml, or a COCO JSON -> data/models/detector.

One worker, on its CPUs or one GPU. An interrupted run goes on from its last finished epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cnn_core.detection import yolo
from cnn_core.detection.training.data import DetectionData, content_sha256, open_source
from cnn_core.detection.training.job import Job, architecture
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.detection.training.train import check_start, kept_weights, save_network, seen, train
from cnn_core.detection.yolo import weights_file
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import MODEL_FILE, is_none, whole_folder, write_json
from cnn_core.model_card.card import CARD, DETECTOR, finder_card, is_composed
from cnn_core.params import from_mapping, load_section
from tasks.engine import distributed, events
from tasks.engine.cluster import ray_cluster
from tasks.engine.runtime import Runtime, git_commit, load_runtime
from tasks.engine.state import UnfinishedRun, input_sha256, key_of, run_in_progress
from tasks.engine.story import Story, write_curve

PARAMS = TrainDetectorParams
FOLDER = "data/models/detector"
SCHEMA_VERSION = 1
SHOWN = 5  # images left out that are named
MEASURED = ("mAP50", "mAP50-95")
LOSSES = ("train_box_loss", "train_seg_loss", "train_cls_loss", "train_dfl_loss")
TOLD = (*LOSSES, *MEASURED, "images_per_s")  # in an epoch's line
LOADERS = 8  # processes that prepare images for a GPU, at most


def main() -> None:
    params = load_section(PARAMS, "train_detector")
    runtime = load_runtime()
    if runtime.num_workers[1] > 1:
        events.log("a detector is trained by one worker: num_workers in runtime.yaml is not followed here")
    runtime = dataclasses.replace(runtime, num_workers=(1, 1))
    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        yolo.quiet(scratch)
        job = make_job(params, Path(scratch))
        digest = content_sha256(job.data)
        say_start(params, job)
        key = key_of(
            "train_detector",
            params={**dataclasses.asdict(params), "source": "", "weights": ""},  # what they hold counts, not where
            architecture=job.architecture,
            data=digest,
            start="none" if is_none(params.weights) else input_sha256(weights_file(params.weights)),
            torch=torch.__version__,
        )
        with run_in_progress(runtime, f"train_detector-{key}") as run:
            checkpoint, resumed_at = fit(params, job, runtime, run)
            tell_left_out(job, checkpoint["left_out"])
            network = save(params, job, checkpoint, digest)
            write_curve("data/plots/train_detector.csv", checkpoint["history"])
            show_seen("data/plots/train_detector-seen.png", params, job)
            events.write_metrics("data/metrics/train_detector.json", metrics(network, job, checkpoint, resumed_at))


def make_job(params: TrainDetectorParams, scratch: Path) -> Job:
    return Job(
        data=open_source(params.source, scratch / "coco"),
        architecture=architecture(params.model, params.weights),
        start="none" if is_none(params.weights) else str(weights_file(params.weights).absolute()),
        folder=scratch / "run",
        device=torch.device("cpu"),
        workers=0,
    )


def say_start(params: TrainDetectorParams, job: Job) -> None:
    """Before Ray starts: so that weights that do not fit are told at once."""
    taken, every = check_start(params, job)
    if taken:
        events.log(f"starting from {params.weights}: {taken} of {every} tensors taken over")


def fit(params: TrainDetectorParams, job: Job, runtime: Runtime, run: UnfinishedRun) -> tuple[dict[str, Any], int]:
    """The last checkpoint, and the finished epochs that it went on from."""
    config = {
        "params": dataclasses.asdict(params),
        "data": dataclasses.asdict(job.data),
        "architecture": job.architecture,
        "start": job.start,
        "loaders": min(LOADERS, runtime.cpus()),
        "folder": run.folder,
    }
    with Story("train_detector", params.epochs, told=TOLD, measured=MEASURED) as story, ray_cluster(runtime):
        checkpoint = distributed.fit(work, config, runtime, run, on_message=story.tell)
    return checkpoint, story.resumed_at


def work(config: dict[str, Any], rank: distributed.Rank) -> None:
    """What the training worker does."""
    params = from_mapping(TrainDetectorParams, config["params"], "train_detector")
    resume = rank.restored()
    if resume:
        rank.send(resumed=resume["epoch"], finished=resume["finished"], folder=config["folder"])
    with own_folder(config["folder"]) as folder:
        yolo.quiet(folder)
        job = Job(
            data=DetectionData(**config["data"]),
            architecture=config["architecture"],
            start=config["start"],
            folder=folder / "run",
            device=rank.device,
            workers=0 if rank.device.type == "cpu" else config["loaders"],
        )

        def report(record: dict[str, Any], make: Any) -> None:
            rank.report({"epoch": record["epoch"]}, make)
            rank.send(record=record)

        train(params, job, resume=resume, on_step=lambda numbers: rank.send(step=numbers), on_epoch=report)


@contextlib.contextmanager
def own_folder(run_folder: str) -> Iterator[Path]:
    """Where Ultralytics keeps its settings and its notes: in the run's folder, or of a remote one in this machine's."""
    place = Path(run_folder) if "://" not in run_folder else None
    with tempfile.TemporaryDirectory(dir=place, prefix=".ultralytics-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def save(params: TrainDetectorParams, job: Job, checkpoint: Mapping[str, Any], digest: str) -> torch.nn.Module:
    """The model folder; model.json comes last."""
    with whole_folder(FOLDER) as folder:
        weights = kept_weights(params, checkpoint)
        network = save_network(folder / MODEL_FILE, params, job, weights, imgsz=checkpoint["imgsz"])
        card = {
            "schema_version": SCHEMA_VERSION,
            "architecture": job.architecture["yaml_file"],
            "task": job.task,
            "classes": job.data.names,
            "imgsz": checkpoint["imgsz"],
            "stride": int(network.stride.max()),
            "metrics": checkpoint["best"],
            "params": dataclasses.asdict(params),
            "model": job.architecture,
            "data_sha256": digest,
            "git_commit": git_commit(),
            "epochs": len(checkpoint["history"]),
        }
        counts = {"train": len(job.data.train), "val": len(job.data.val)}
        readme = finder_card(DETECTOR, card, counts, name=Path(FOLDER).name, generated=is_composed(params.source))
        (folder / CARD).write_text(readme, encoding="utf-8")
        write_json(folder / "model.json", card)
    return network


def metrics(network: torch.nn.Module, job: Job, checkpoint: Mapping[str, Any], resumed_at: int) -> dict[str, Any]:
    history, best = checkpoint["history"], checkpoint["best"]
    seconds = sum(record["seconds"] for record in history)
    trained = [record["images_per_s"] for record in history]
    found = {f"best_{key}" if key == "epoch" else key: value for key, value in best.items()}
    for shown in ("seconds", "lr", "images_per_s"):
        found.pop(shown)
    return {
        **found,
        "epochs": len(history),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "images_per_s": round(len(trained) / sum(1 / speed for speed in trained), 1),
        "training_seconds": round(seconds, 1),
        "resumed_at": resumed_at,
        "images": len(job.data.train) + len(job.data.val),
        "left_out": len(checkpoint["left_out"]),  # images that could not be learned from, and the first of them
        "left_out_files": list(shown_left_out(checkpoint["left_out"])),
    }


def tell_left_out(job: Job, left_out: Mapping[str, str]) -> None:
    if left_out:
        shown = "; ".join(shown_left_out(left_out))
        more = "; ..." if len(left_out) > SHOWN else ""
        images = len(job.data.train) + len(job.data.val)
        events.log(f"warning: {len(left_out):,} of {images:,} images are damaged and were left out: {shown}{more}")


def shown_left_out(left_out: Mapping[str, str]) -> Iterator[str]:
    for file, reason in itertools.islice(left_out.items(), SHOWN):
        path = Path(file)
        named = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        yield f"{named}: {reason}"


def show_seen(path: str, params: TrainDetectorParams, job: Job) -> None:
    """A picture of what the network is shown: images as training draws them, with their boxes."""
    rows, captions = seen(params, job)
    contact_sheet(path, rows, title="images as training draws them, with their boxes", captions=captions, side=160)


if __name__ == "__main__":
    events.run_stage(main)
