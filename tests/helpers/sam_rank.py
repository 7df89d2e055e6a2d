"""One of the ranks of test_sam_ranks.py: ``python sam_rank.py RANK WORLD FOLDER`` trains the mask decoder of the model
in FOLDER/model and a small SAM from nothing, and leaves what came of it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from cnn_core.detection.yolo import quiet
from cnn_core.params import from_mapping
from cnn_core.segmentation.training.learner import SamLearner
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.train import SegmenterJob, train
from tests.helpers.mask_files import PARAMS


def trained(folder: Path, rank: int, world: int, **changes):
    """The last checkpoint, how many images the encoder has seen for good, and the gradients of the first steps."""
    params = from_mapping(TrainSegmenterParams, {**PARAMS, **changes}, "train_segmenter")
    job = SegmenterJob(params=params, source=changes["source"], start=params.weights)
    place = {"folder": folder / f"run-{world}", "device": torch.device("cpu"), "local_rank": (rank, world)}
    kept, seen, gradients = [], [], []
    maps, clip = SamLearner.maps, torch.nn.utils.clip_grad_norm_
    SamLearner.maps = lambda self, images: seen.append(len(images)) or maps(self, images)

    def clipped(parameters, norm):
        parameters = list(parameters)
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        return clip(parameters, norm)

    torch.nn.utils.clip_grad_norm_ = clipped
    train(job, **place, on_epoch=lambda _, make: kept.append(make()))
    SamLearner.maps, torch.nn.utils.clip_grad_norm_ = maps, clip
    return {"checkpoint": kept[-1], "seen": sum(seen), "gradients": gradients[0]}


def main(rank: int, world: int, folder: Path) -> None:
    quiet(folder / f"settings-{rank}")
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    given = {
        "source": str(folder / "set"),
        "epochs": 2,
        "points": 0.5,
        "batch": 3,
        "fliplr": 0.5,
        "learning_rate": 1e-4,
    }
    decoder = trained(folder, rank, world, weights=str(folder / "model"), imgsz=0, **given)
    whole = trained(folder, rank, world, **given)
    torch.save({"decoder": decoder, "whole": whole}, folder / f"{rank}-of-{world}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
