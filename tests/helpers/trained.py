"""A training with all its checkpoints, for the tests of training."""

from __future__ import annotations

import io

import torch

from cnn_core.classification.training.loop import train


def weights_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def run(params_, setup, **options):
    """Train, and return the result and the checkpoint of each epoch as it comes back from a file."""
    checkpoints = []

    def keep(record, make):
        buffer = io.BytesIO()
        torch.save(make(), buffer)
        buffer.seek(0)
        checkpoints.append(torch.load(buffer, weights_only=True))

    return train(params_, setup, on_epoch=keep, **options), checkpoints
