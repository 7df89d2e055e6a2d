"""What the ranks of a training tell each other at a step: gradients summed, or of large linear layers their inputs."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from cnn_core.distributed import rank_and_world, same_on_all_ranks
from cnn_core.gathered import Share, broadcast_parameters, gather_factors, large_layers
from cnn_core.sharded_step import ShardedStep, sharded_step


class DataParallel:
    """One network on several ranks, each with its share of the same batch.

    Args:
        network, averaged, optimizer: of the `Learner`.
        dtype: what autocast computes in; None = float32.
        gather_at: of layers with many weights for so many images a step, exchange the inputs; 0 = sum all gradients.
        whole_gradient: each rank needs the whole gradient of each layer, not only that of the rows that it steps.
    """

    def __init__(
        self,
        network: nn.Module,
        averaged: AveragedModel | None,
        optimizer: Optimizer,
        *,
        dtype: torch.dtype | None,
        gather_at: int,
        whole_gradient: bool,
    ) -> None:
        self._network, self._averaged, self._optimizer, self._dtype = network, averaged, optimizer, dtype
        self._gather_at, self.whole_gradient = gather_at, whole_gradient
        self._world = rank_and_world()[1]
        self.gathered: list[str] = []  # names of parameters
        self.sharded: ShardedStep | None = None
        self._share, self._summed = Share(), None
        self.connected = self._world == 1

    def connect(self, pixels: Tensor) -> None:
        """Settle how the gradients of each layer come to all ranks, if it is not; every rank calls it."""
        if self.connected:
            return
        if self._gather_at and not self.gathered and same_on_all_ranks(str(self._dtype)):  # what is exchanged has it
            layers = large_layers(self._network, pixels[:1], batch_size=self._gather_at)
            self.gathered = gather_factors(self._network, layers, self._share)
        broadcast_parameters(self._network, self._replicated())  # as DistributedDataParallel does it with all others
        if self.gathered and self.sharded is None and not self.whole_gradient:
            self.sharded = self._shard()
            self._share.held = {} if self.sharded is None else self.sharded.held
        self._summed = _summed(self._network, self.gathered)
        self.connected = True

    def disconnect(self) -> None:
        """Other parameters learn, or from elsewhere: what was settled holds no longer."""
        self.connected = self._world == 1

    @property
    def network(self) -> nn.Module:
        """What to call for a forward pass."""
        return self._summed or self._network

    def backward(self, loss: Tensor, *, whole: int) -> None:
        """Called for a step's loss: a sum over this rank's images of a global batch of ``whole``."""
        self._share.rows = math.ceil(whole / self._world)
        (loss * (self._world / whole)).backward()  # the mean over ranks is taken, so: x ranks / the global batch
        self._share.finish()

    def not_yet(self) -> contextlib.AbstractContextManager[None]:
        """Around a backward pass to whose gradients others will be added."""
        return contextlib.nullcontext() if self._summed is None else self._summed.no_sync()

    def step(self) -> None:
        """After the optimizer's own step."""
        if self.sharded is not None:
            self.sharded.step()

    def unify(self, networks: Sequence[nn.Module]) -> None:
        """Of one gradient all ranks make the same step; processors of two kinds may differ in its last bits."""
        for network in networks:  # in the same order on every rank
            broadcast_parameters(network, self._replicated())
        if self.sharded is not None:
            dist.barrier()  # each rank has averaged its rows

    def _replicated(self) -> list[str]:
        """The gathered parameters of which each rank has its own."""
        return [name for name in self.gathered if self._network.get_parameter(name) not in self._share.held]

    def _shard(self) -> ShardedStep | None:
        names = [name for name in self.gathered if self._network.get_parameter(name).ndim > 1]
        averages = [] if self._averaged is None else [self._averaged.module.get_parameter(name) for name in names]
        return sharded_step(
            [self._network.get_parameter(name) for name in names],
            self._optimizer,
            averages=averages,
            averaged=self._averaged,
            dtype=self._dtype,
        )


def _summed(network: nn.Module, gathered: Sequence[str]) -> DistributedDataParallel | None:
    """None where no others than the gathered parameters learn: it has nothing to do then."""
    others = (parameter for name, parameter in network.named_parameters() if name not in gathered)
    if not any(parameter.requires_grad for parameter in others):
        return None
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, gathered)
    with warnings.catch_warnings():  # torch 2.14 has another name for the switch, which 2.11 does not know
        warnings.simplefilter("ignore", FutureWarning)
        # Gradients as views of what is exchanged: they are not copied to and fro.
        return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
