"""Ranks of one machine step large layers together: each its rows of weights that are in memory once for all of them.

Of the layers in `cnn_core.gathered` every rank could make the whole step, the same as all others. On one machine their
weights, the averages of these and what the optimizer keeps of them are put into memory that the ranks share, and each
rank multiplies, steps and averages its rows only. So these layers' work and memory do not grow with the ranks; and as
every rank sees the whole, measuring and checkpoints are as ever.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (SC 2020), splits gradients
and the optimizer's state alike (stages 1 and 2), and sends the stepped weights; here they need not be sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import mmap
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

ALIGNED = 64  # bytes: a line of the cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """``own``: this rank's ``part`` of a weight's rows. ``cast``: the whole weight as autocast would have it."""

    whole: nn.Parameter
    part: slice
    own: nn.Parameter
    cast: Tensor | None


class ShardedStep:
    """The ranks' common step of ``held``; made by `sharded_step`."""

    def __init__(self, held: Sequence[Held], optimizer: Optimizer) -> None:
        self.held = {each.whole: each for each in held}
        self._groups, own = [], []
        for group in optimizer.param_groups:
            if chosen := [self.held[p].own for p in group["params"] if p in self.held]:
                self._groups.append(group)
                own.append({**group, "params": chosen})
        self._optimizer = type(optimizer)(own, lr=own[0]["lr"], fused=True)
        for each in held:  # views of what the whole optimizer has, and its very count of steps
            state = optimizer.state[each.whole]
            self._optimizer.state[each.own] = {
                key: value[each.part] if value.ndim else value for key, value in state.items()
            }
        self._cast()

    def step(self) -> None:
        """Every rank calls it, with its gradients in the ``own`` rows. Afterwards all weights are stepped."""
        dist.barrier()  # until here another rank may compute with the weights as they were
        for mine, group in zip(self._optimizer.param_groups, self._groups, strict=True):
            mine |= {key: value for key, value in group.items() if key != "params"}  # the schedule's rates
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._cast()

    def _cast(self) -> None:
        for each in self.held.values():
            if each.cast is not None:
                each.cast[each.part].copy_(each.own.detach())
        dist.barrier()


def sharded_step(
    weights: Sequence[nn.Parameter],
    optimizer: Optimizer,
    *,
    averages: Sequence[nn.Parameter],
    averaged: AveragedModel | None,
    dtype: torch.dtype | None,
) -> ShardedStep | None:
    """Put ``weights`` and all that belongs to them into memory that the ranks share; every rank calls it.

    Args:
        weights: of the first rank; float (rows, ...) with at least as many rows as there are ranks.
        optimizer: AdamW or SGD, which has these weights among its own. It keeps the whole state of theirs, and is not
            to step them: they have no gradient.
        averages: what ``averaged`` keeps of them, in the same order.
        dtype: what autocast computes in, or None.

    Returns:
        None on every rank where the ranks are not on one machine.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    for weight in weights:
        optimizer.state[weight] = optimizer.state[weight] or _before_the_first_step(optimizer, weight)
    states = [(optimizer.state[w], key) for w in weights for key, kept in optimizer.state[w].items() if kept.ndim]
    casts = [torch.empty_like(weight, dtype=dtype) for weight in weights] if dtype else []
    wholes = [*weights, *averages, *(state[key] for state, key in states)]
    memory = shared_memory([*wholes, *casts])
    if memory is None:
        return None
    if rank == 0:
        for whole, place in zip(wholes, memory, strict=False):
            place.copy_(whole.detach())
    dist.barrier()
    places = iter(memory)
    for parameter in (*weights, *averages):
        parameter.data = next(places)
    for state, key in states:
        state[key] = next(places)
    held = []
    for weight, cast in zip(weights, [*places] or [None] * len(weights), strict=True):
        first, last = (len(weight) * number // world for number in (rank, rank + 1))
        part = slice(first, last)
        held.append(Held(whole=weight, part=part, own=nn.Parameter(weight.data[part]), cast=cast))
    if averaged is not None:
        _average_own_rows(averaged, [*weights, *averages], [each.part for each in held] * 2)
    return ShardedStep(held, optimizer)


def _before_the_first_step(optimizer: Optimizer, weight: nn.Parameter) -> dict[str, Tensor]:
    """What the optimizer would make by itself then."""
    if isinstance(optimizer, AdamW):
        moments = {key: torch.zeros_like(weight, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.tensor(0.0), **moments}
    assert isinstance(optimizer, SGD), "whose momentum is there already (`cnn_core.classification.training.learner`)"
    return {}


def _average_own_rows(averaged: AveragedModel, shared: Sequence[Tensor], parts: Sequence[slice]) -> None:
    """Each rank's update of the average leaves the others' rows of what they share to them."""
    update, mine = averaged.multi_avg_fn, dict(zip([tensor.data_ptr() for tensor in shared], parts, strict=True))
    assert update is not None

    def rows(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor[mine[tensor.data_ptr()]] if tensor.data_ptr() in mine else tensor for tensor in tensors]

    averaged.multi_avg_fn = lambda averages, values, count: update(rows(averages), rows(values), count)


def shared_memory(like: Sequence[Tensor]) -> list[Tensor] | None:
    """Tensors of zeros, of these shapes and dtypes, in memory that all ranks see; every rank calls it.

    It belongs to no file and goes with the last process that has it, and is not bounded by the size of /dev/shm.

    Returns:
        None on every rank where one of them cannot reach the first one's memory.
    """
    sizes = [-(-tensor.nbytes // ALIGNED) * ALIGNED for tensor in like]
    rank, world = dist.get_rank(), dist.get_world_size()
    place: list[tuple[str, str] | None] = [None]
    file = None
    if rank == 0 and hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # a limit or a rule of this system: the others are to hear of it
            name = f"gridflow-{secrets.token_hex(8)}"
            file = os.memfd_create(name)
            os.truncate(file, sum(sizes))
            place = [(f"/proc/{os.getpid()}/fd/{file}", name)]
    dist.broadcast_object_list(place, src=0)
    memory = None
    with contextlib.suppress(OSError):
        memory = _mapped(*place[0]) if place[0] is not None else None
    reached: list[bool] = [False] * world
    dist.all_gather_object(reached, memory is not None)
    if file is not None:
        os.close(file)
    if memory is None or not all(reached):
        return None
    offsets = itertools.accumulate(sizes, initial=0)
    return [
        torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset).view(tensor.shape)
        for tensor, offset in zip(like, offsets, strict=False)
    ]


def _mapped(path: str, name: str) -> mmap.mmap:
    """
    Raises:
        OSError: there is no such file, or it is another machine's.
    """
    if name not in str(Path(path).readlink()):
        raise OSError(f"{path} is another file than {name}")
    file = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(file, 0)
    finally:
        os.close(file)
