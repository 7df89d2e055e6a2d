"""Shared by the tests of training: a training with all its checkpoints."""

from __future__ import annotations

import io

import torch

from cnn_core.classification.training.loop import train


def weights_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def run(params_, task_, **more):
    """The outcome, and the checkpoint of each epoch as it comes back from a file."""
    checkpoints = []

    def keep(record, make):
        buffer = io.BytesIO()
        torch.save(make(), buffer)
        buffer.seek(0)
        checkpoints.append(torch.load(buffer, weights_only=True))

    return train(params_, task_, on_epoch=keep, **more), checkpoints
