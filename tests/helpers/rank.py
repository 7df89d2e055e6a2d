"""One of two ranks of test_ranks.py: ``python rank.py RANK FOLDER`` trains in several ways and saves the weights."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from cnn_core.classification.training.learner import ClassifierLearner
from cnn_core.classification.training.loop import train
from tasks.engine.checkpoints import load_checkpoint, save_checkpoint
from tests.helpers.learning import convolutional, linear, params, several_stripes, stripes, training_setup, wide


class Tokens(nn.Module):
    """Like a transformer: one layer sees many rows an image, one only lends its weights, one is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.twice, self.unseen = nn.Linear(64, 512), nn.Linear(64, 512), nn.Linear(64, 512, bias=False)
        self.once, self.head = nn.Linear(512, 512), nn.Linear(512, 4)

    def forward(self, images):
        rows = self.rows(images.flatten(2)) + F.linear(images.flatten(2), self.unseen.weight)
        return self.head(self.once(rows[:, 0] + self.twice(images.flatten(1)) + self.twice(-images.flatten(1))))


def many_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 512))


# The ways in which the network `wide` is trained by one process and by two ranks.
TOGETHER = {"epochs": 2, "grad_clip": 0.0}
WIDE = {
    "whole": TOGETHER,
    "half": {**TOGETHER, "precision": "bfloat16"},
    "frozen": {**TOGETHER, "freeze_epochs": 1},
    "plain": {**TOGETHER, "ema_decay": 0.0},
    "seldom": {**TOGETHER, "ema_every": 3},
    "sgd": {**TOGETHER, "optimizer": "sgd", "momentum": 0.9},
    "thawed": {**TOGETHER, "optimizer": "sgd", "momentum": 0.9, "freeze_epochs": 1},
    "clipped": {**TOGETHER, "grad_clip": 0.1},
}


def stepped(network, rank, *, frozen=False, **changes):
    """Return the weights right after two steps, before anything is made one over the ranks."""
    learner = ClassifierLearner(network, params(**{"grad_clip": 0.0} | changes), training_setup(), steps=9)
    if frozen:
        learner.freeze(learner.groups - 1)
    split = stripes(4, seed=rank)
    for _ in range(2):
        learner.step(split.images.float() / 255, split.labels, global_batch_size=8)
    return network.state_dict()


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    done = train(params(epochs=2), training_setup(build=linear, val=stripes(37, seed=1), micro_batch=3))
    torch.save({"weights": done.shipped, "history": done.history}, f"{folder}/{rank}.pt")
    many = {"train": several_stripes(100), "val": several_stripes(37, seed=1), "multilabel": True}
    done = train(params(epochs=2), training_setup(build=linear, **many))
    torch.save({"history": done.history, "thresholds": done.thresholds}, f"{folder}/several-{rank}.pt")
    for decay in (0.0, 0.5):
        done = train(params(epochs=1, ema_decay=decay), training_setup(build=convolutional))
        torch.save(done.shipped, f"{folder}/norm{decay}-{rank}.pt")
    for name, changes in WIDE.items():
        done = train(params(**changes), training_setup(build=wide))
        torch.save(done.shipped, f"{folder}/wide-{name}-{rank}.pt")
    kept: list[dict] = []
    train(params(**TOGETHER), training_setup(build=wide), on_epoch=lambda _, make: kept.append(copy.deepcopy(make())))
    save_checkpoint(f"{folder}/kept-{rank}", kept[0])
    alone = load_checkpoint(Path(folder, "alone"))
    torch.save(
        train(params(**TOGETHER), training_setup(build=wide), resume=alone).shipped, f"{folder}/resumed-{rank}.pt"
    )
    torch.manual_seed(0)
    steps = {
        "wide": stepped(wide(), rank),
        "tokens": stepped(Tokens(), rank),
        "mixed": stepped(wide(), rank, precision=["bfloat16", "float32"][rank]),
        "head": stepped(many_classes(), rank, frozen=True),
        "clipped": stepped(wide(), rank, grad_clip=0.1),
        "sgd": stepped(wide(), rank, optimizer="sgd", momentum=0.9),
    }
    torch.save(steps, f"{folder}/steps-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
