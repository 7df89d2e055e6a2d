"""Train a promptable segmenter in a Ray worker: a small SAM from scratch, or the mask decoder of SAM, MobileSAM or
SAM 2 on embeddings computed once -> data/models/segmenter.

Data-parallel over ``num_workers``, on CPUs or GPUs. An interrupted run goes on from its last finished epoch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cnn_core.detection.yolo import quiet
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import MODEL_FILE, is_none, weights_file, whole_folder, write_json
from cnn_core.model_card.card import CARD, SEGMENTER, finder_card, is_composed
from cnn_core.params import from_mapping, load_section
from cnn_core.segmentation.sam.network import LoadedSam
from cnn_core.segmentation.training.data import content_sha256, read_masks
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.pictures import seen
from cnn_core.segmentation.training.train import Job, final_state, start_network, train
from tasks.engine import distributed, events
from tasks.engine.cluster import check_shared, ray_cluster
from tasks.engine.runtime import Runtime, git_commit, load_runtime
from tasks.engine.state import UnfinishedRun, input_sha256, key_of, run_in_progress
from tasks.engine.story import Story, write_curve

PARAMS = TrainSegmenterParams
FOLDER = "data/models/segmenter"
SCHEMA_VERSION = 1
MEASURED = ("val_iou",)
TOLD = ("train_loss", "train_iou", "val_iou", "val_iou_error", "images_per_s")  # in an epoch's line


def main() -> None:
    params = load_section(PARAMS, "train_segmenter")
    runtime = load_runtime()
    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        quiet(scratch)
        source, start = str(Path(params.source).absolute()), start_path(params)
        say_start(params, start)
        digest = content_sha256(source)
        key = key_of(
            "train_segmenter",
            params={**dataclasses.asdict(params), "source": "", "weights": ""},  # what they hold counts, not where
            data=digest,
            start=input_sha256(start),
            torch=torch.__version__,
        )
        with run_in_progress(runtime, f"train_segmenter-{key}") as run:
            config = {"params": dataclasses.asdict(params), "source": source, "start": start, "folder": run.folder}
            checkpoint, resumed_at = fit(params, config, runtime, run)
            loaded = save(params, start, checkpoint, digest)
            write_curve("data/plots/train_segmenter.csv", checkpoint["history"])
            show_seen("data/plots/train_segmenter-seen.png", params)
            events.write_metrics("data/metrics/train_segmenter.json", metrics(loaded, checkpoint, resumed_at))


def start_path(params: TrainSegmenterParams) -> str:
    return "none" if is_none(params.weights) else str(weights_file(params.weights).absolute())


def say_start(params: TrainSegmenterParams, start: str) -> None:
    """Before Ray starts: so that weights that cannot be read are told at once."""
    if is_none(start):
        return
    loaded = start_network(params, start)
    what = "its mask decoder learns" if params.frozen else "all of it learns"
    events.log(f"starting from {params.weights}, a {loaded.name}; {what}, at {loaded.imgsz} pixels")


def fit(
    params: TrainSegmenterParams, config: dict[str, Any], runtime: Runtime, run: UnfinishedRun
) -> tuple[dict[str, Any], int]:
    """The last checkpoint, and the finished epochs that it went on from."""
    with Story("train_segmenter", params.epochs, told=TOLD, measured=MEASURED) as story, ray_cluster(runtime):
        if runtime.ray_address:
            check_shared(run.storage, config["source"])
        checkpoint = distributed.fit(work, config, runtime, run, on_message=story.tell)
    return checkpoint, story.resumed_at


def work(config: dict[str, Any], rank: distributed.Rank) -> None:
    """What the training worker does."""
    params = from_mapping(TrainSegmenterParams, config["params"], "train_segmenter")
    resume = rank.restored()
    if resume:
        rank.send(resumed=resume["epoch"], finished=resume["finished"], folder=config["folder"])

    def report(record: dict[str, Any], make: Any) -> None:
        rank.report({"epoch": record["epoch"]}, make)
        rank.send(record=record)

    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        quiet(scratch)
        # Embeddings: once on each machine. Of a run whose state is remote every worker computes its own, and anew when
        # it takes over.
        remote = "://" in config["folder"]
        folder = Path(scratch) if remote else Path(config["folder"], f"machine-{rank.machine}")
        together = (0, 1) if remote else rank.on_machine
        job = Job(source=config["source"], start=config["start"], folder=folder, device=rank.device, together=together)
        train(
            params,
            job,
            resume=resume,
            on_step=lambda numbers: rank.send(step=numbers),
            on_epoch=report,
            on_note=lambda text: rank.send(said=text),
        )


def save(params: TrainSegmenterParams, start: str, checkpoint: Mapping[str, Any], digest: str) -> LoadedSam:
    """The model folder; model.json comes last."""
    loaded, state = final_state(params, start, checkpoint)
    history = checkpoint["history"]
    with whole_folder(FOLDER) as folder:
        torch.save(state, folder / MODEL_FILE)
        card = {
            "schema_version": SCHEMA_VERSION,
            "architecture": loaded.name,
            "family": loaded.family,
            "imgsz": loaded.imgsz,
            "classes": read_masks(params.source, "train")[2],  # of the objects learned from; masks have none
            "metrics": history[-1],
            "params": dataclasses.asdict(params),
            "model": loaded.model,
            "data_sha256": digest,
            "git_commit": git_commit(),
            "epochs": len(history),
        }
        counts = {split: len(read_masks(params.source, split)[0]) for split in ("train", "val")}
        readme = finder_card(SEGMENTER, card, counts, name=Path(FOLDER).name, generated=is_composed(params.source))
        (folder / CARD).write_text(readme, encoding="utf-8")
        write_json(folder / "model.json", card)
    return loaded


def metrics(loaded: LoadedSam, checkpoint: Mapping[str, Any], resumed_at: int) -> dict[str, Any]:
    history = checkpoint["history"]
    last = {name: value for name, value in history[-1].items() if name.startswith(("train_", "val_"))}
    return {
        **last,
        "epochs": len(history),
        "parameters": sum(parameter.numel() for parameter in loaded.network.parameters()),
        "images_per_s": round(len(history) / sum(1 / record["images_per_s"] for record in history), 1),
        "training_seconds": round(sum(record["seconds"] for record in history), 1),
        "resumed_at": resumed_at,
    }


def show_seen(path: str, params: TrainSegmenterParams) -> None:
    """A picture of what the network is shown: images with prompts, and the masks that answer them."""
    rows, captions = seen(params)
    title = "images with their prompts as training draws them, and the masks that answer the prompts"
    contact_sheet(path, rows, title=title, captions=captions, side=160)


if __name__ == "__main__":
    events.run_stage(main)
