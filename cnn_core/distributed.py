"""Ranks of a torch process group: their number, sums over them, averages of buffers."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


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


def same_on_all_ranks(value: str) -> bool:
    values: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return len(set(values)) == 1


def average_buffers(module: nn.Module) -> None:
    """Give every rank the mean of the ranks' batch norm statistics, which each gathered from its own share."""
    if not dist.is_initialized():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()
