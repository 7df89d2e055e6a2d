"""Train a promptable segmenter on Ray workers: a small SAM from scratch, or the mask decoder of SAM, MobileSAM or SAM 2
on embeddings computed once -> data/models/<model>.

Data-parallel over ``num_workers``, on CPUs or GPUs. An interrupted run continues from its last finished epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cnn_core.annotations.checks import LEFT_OUT, Refused, write_refused
from cnn_core.annotations.tables import Annotations
from cnn_core.annotations.truth import refusals, refused_images, without_images
from cnn_core.detection.yolo import quiet
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import MODEL_FILE, is_none, weights_file, whole_folder
from cnn_core.images.seen import write_seen
from cnn_core.locks import temporary_folder
from cnn_core.model_card.card import SEGMENTER
from cnn_core.params import load_section
from cnn_core.segmentation.sam.network import LoadedSam
from cnn_core.segmentation.training.data import content_sha256, masked_objects, read_masks
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.prompts import sample_pictures
from cnn_core.segmentation.training.train import SegmenterJob, final_state, start_network, train
from tasks.common.training import account, train_on_ray, training_figures, training_key, write_card, write_curve
from tasks.engine import events
from tasks.engine.runtime import load_runtime
from tasks.engine.training_progress import TrainingProgress
from tasks.engine.training_worker import WorkerContext

PARAMS = TrainSegmenterParams
SAMPLES = "images with their prompts as training draws them, and the masks that answer the prompts"
COLUMNS = ("train_loss", "train_iou", "val_iou", "val_iou_error", "images_per_s")  # of an epoch's line


def main(name: str) -> None:
    params, target = load_section(PARAMS, f"train_segmenter.{name}"), Path("data/models", name)
    runtime = load_runtime()
    with temporary_folder() as scratch:
        quiet(scratch)
        job = make_job(params)
        tell_start(job)
        refused: list[Refused] = []
        parts = {split: read_masks(job.source, split, refused=refused) for split in ("train", "val")}
        digest = content_sha256(parts)
        key = training_key("train_segmenter", params, data=digest, start=job.start)
        progress = TrainingProgress(f"train_segmenter {name}", params.epochs, columns=COLUMNS, measured=("val_iou",))
        with train_on_ray(
            work, job, runtime, run_name=f"train_segmenter-{key}", progress=progress, shared=job.source
        ) as (checkpoint, resumed_at):
            faults = checkpoint["left_out"]
            parts = {
                split: without_images(part, faults, source=params.source, split=split) for split, part in parts.items()
            }
            # Of a JSON that both parts are drawn from, the reader has refused twice.
            refused = list(dict.fromkeys([*refused, *refused_images(faults, params.source)]))
            images = sum(len(images) for images, _, _ in parts.values())
            for sentence in refusals(refused, images=images):
                events.log(f"warning: {sentence}; all are in {target}/{LEFT_OUT}")
            loaded = save(target, job, checkpoint, digest, parts, refused, runtime.cpus())
            history = checkpoint["history"]
            write_curve(f"data/plots/train_segmenter-{name}.csv", history)
            rows, captions = sample_pictures(params)
            contact_sheet(
                f"data/plots/train_segmenter-{name}-seen.png", rows, title=SAMPLES, captions=captions, side=160
            )
            last = {key: value for key, value in history[-1].items() if key.startswith(("train_", "val_"))}
            figures = training_figures(history, loaded.network, resumed_at)
            kinds = Counter(entry.kind for entry in refused)
            used = {split: with_masks(part) for split, part in parts.items()}
            unused = {"without an object with a mask": images - sum(used.values())}
            counted = account(used["train"], used["val"], left_out=kinds["image"], unused=unused)
            counted["left_out_annotations"] = kinds["annotation"]
            events.write_metrics(f"data/metrics/train_segmenter-{name}.json", {**last, **figures, **counted})


def with_masks(annotations: Annotations) -> int:
    """How many of the images can be learned from."""
    return masked_objects(annotations[1])["image_id"].nunique()


def make_job(params: TrainSegmenterParams) -> SegmenterJob:
    start = "none" if is_none(params.weights) else str(weights_file(params.weights).absolute())
    return SegmenterJob(params=params, source=str(Path(params.source).absolute()), start=start)


def tell_start(job: SegmenterJob) -> None:
    """Log what the network begins with, before Ray starts, so that weights that cannot be read fail at once."""
    if is_none(job.start):
        return
    loaded = start_network(job.params, job.start)
    what = "its mask decoder learns" if job.params.frozen else "all of it learns"
    events.log(f"starting from {job.params.weights}, a {loaded.name}; {what}, at {loaded.imgsz} pixels")


def work(job: SegmenterJob, context: WorkerContext) -> None:
    resume = context.restored()
    if resume:
        context.report_resumed(resume["epoch"], finished=resume["finished"])
    with temporary_folder() as scratch:
        quiet(scratch)
        # The workers of a machine compute embeddings once, together. Of a run whose state is remote every worker
        # computes its own, and does so again when it replaces another.
        if context.remote_state:
            folder, local_rank = scratch, (0, 1)
        else:
            folder = Path(context.run_folder, f"machine-{context.node_rank}")
            local_rank = (context.local_rank, context.local_world_size)
        train(
            job,
            folder=folder,
            device=context.device,
            local_rank=local_rank,
            resume=resume,
            on_step=context.report_step,
            on_epoch=context.report_epoch,
            on_note=lambda text: context.send(note=text),
        )


def save(
    target: Path,
    job: SegmenterJob,
    checkpoint: Mapping[str, Any],
    digest: str,
    parts: Mapping[str, Annotations],
    refused: Sequence[Refused],
    threads: int,
) -> LoadedSam:
    loaded, state = final_state(job, checkpoint)
    history, source = checkpoint["history"], job.params.source
    with whole_folder(target) as folder:
        torch.save(state, folder / MODEL_FILE)
        write_refused(folder / LEFT_OUT, refused)
        files = {split: images["file"] for split, (images, _, _) in parts.items()}
        write_seen(folder, files, start=job.start, threads=threads)
        described = {
            "architecture": loaded.name,
            "family": loaded.family,
            "imgsz": loaded.imgsz,
            "classes": parts["train"][2],  # of the objects learned from; masks have none
            "metrics": history[-1],
            "model": loaded.model,
        }
        write_card(
            folder,
            SEGMENTER,
            job.params,
            described,
            name=target.name,
            source=source,
            data_sha256=digest,
            history=history,
            counts={split: len(images) for split, (images, _, _) in parts.items()},
        )
    return loaded


if __name__ == "__main__":
    events.run_stage(main)
