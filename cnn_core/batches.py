"""Which images go into which batch, the same on every rank, and what the ranks add up among themselves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cnn_core.seeds import generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Images resident on the training device: uint8 (N, C, H, W), and labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray, device: torch.device) -> Split:
        """Copies (memory-mapped) arrays to the device."""
        return cls(
            images=torch.from_numpy(np.array(images, dtype=np.uint8)).to(device),
            labels=torch.from_numpy(np.array(labels, dtype=np.int64)).to(device),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, *others: Split) -> Split:
        every = [self, *others]
        return Split(images=torch.cat([s.images for s in every]), labels=torch.cat([s.labels for s in every]))


def epoch_batches(*, count: int, draws: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The image numbers of each global batch of an epoch (from 0), identical on every rank.

    The epochs read on through an endless row of permutations of the ``count`` images, ``draws`` at a time (0 = all), so
    every image comes equally often. The batches of an epoch differ by one image at most: none is a small remainder,
    which batch norm would take as seriously as a whole one.
    """
    draws = draws or count
    first, last = epoch * draws, (epoch + 1) * draws
    rounds = range(first // count, math.ceil(last / count))
    row = torch.cat([torch.randperm(count, generator=generator(torch.device("cpu"), seed, "order", r)) for r in rounds])
    drawn = row[first - rounds.start * count :][:draws]
    return list(torch.tensor_split(drawn, steps_per_epoch(draws, batch_size)))


def steps_per_epoch(draws: int, batch_size: int) -> int:
    return math.ceil(draws / batch_size)


def share(batch: Tensor, rank: int, world: int) -> Tensor:
    """This rank's part of a global batch; the parts differ by one image at most."""
    return torch.tensor_split(batch, world)[rank]


def rank_and_world() -> tuple[int, int]:
    """(0, 1) outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(values: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def average_buffers(module: nn.Module) -> None:
    """Give every rank the mean of the ranks' batch norm statistics, which each gathered from its own share."""
    if not dist.is_initialized():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()
