"""The ranks of a torch process group: their number, their shares of a batch, their common gradients."""

from __future__ import annotations

import contextlib
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def share(batch: Tensor, rank: int, world: int) -> Tensor:
    """This rank's part of a global batch; the parts differ by one image at most."""
    return torch.tensor_split(batch, world)[rank]


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up the ``values`` of all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def average_buffers(module: nn.Module) -> None:
    """Give every rank the mean of the ranks' batch norm statistics, which each rank gathers from its own share."""
    if not dist.is_initialized():
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= dist.get_world_size()


def data_parallel(network: nn.Module, *, find_unused_parameters: bool = False) -> nn.Module:
    """Wrap ``network`` for several ranks: a backward pass then leaves the mean of the ranks' gradients.

    Every rank calls it; one rank alone gets ``network`` itself. The wrapper knows the parameters that require a
    gradient now, so a change of these needs a new one. Batch norm's statistics stay those of each rank's share.
    With ``find_unused_parameters``, the gradient of a parameter that took part on no rank stays None.
    """
    if rank_and_world()[1] == 1:
        return network
    with warnings.catch_warnings():  # torch 2.14 has another name for broadcast_buffers, which 2.11 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            network,
            broadcast_buffers=False,
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=True,  # gradients are not copied into what is exchanged and back
        )


def no_sync(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Around a forward and backward pass to whose gradients others will be added; ``network`` is of `data_parallel`."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()
