"""One classifier in training: its step, its averaged weights, its measurement; alone or as one of several ranks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnn_core.classification.augmentation.transforms import Transform
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.layer_groups import group_modules, keep_statistics, layer_groups
from cnn_core.classification.training.objectives import Measured, Objective, OneLabel, SeveralLabels, measured_map
from cnn_core.classification.training.params import OptimizerParams, TrainParams
from cnn_core.devices import autocast_dtype
from cnn_core.distributed import average_buffers, data_parallel, no_sync, rank_and_world, sum_over_ranks
from cnn_core.optimization import decay_groups, one_cycle, optimizer_step

EVALUATION_BATCH = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerSetup:
    """How images reach the network, and what computes."""

    mean: tuple[float, ...]  # per channel, in 0..1
    std: tuple[float, ...]
    transform: Transform
    device: torch.device
    class_weights: Tensor | None = None  # (K,)
    multilabel: bool = False  # an image may have several labels or none: labels are zeros and ones (N, K)
    micro_batch: int = 0  # images per forward pass (0 = the rank's whole share); only batch norm notices
    compiled: bool = False  # by torch.compile


class ClassifierLearner:
    """Trains one network by calls of `step`; every rank holds one and calls it with its share of the same batch.

    The network is moved to the setup's device; ``steps`` are those of the schedule.
    """

    def __init__(self, network: nn.Module, params: TrainParams, setup: LearnerSetup, *, steps: int) -> None:
        self.device = setup.device
        self.dtype = autocast_dtype(params.precision, self.device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.params, self.setup = params, setup
        self.objective: Objective = (SeveralLabels if setup.multilabel else OneLabel)(weights=setup.class_weights)
        self._mean, self._std = (torch.tensor(c, device=self.device).view(1, -1, 1, 1) for c in (setup.mean, setup.std))
        self._groups = layer_groups(self.network)
        self.frozen = 0  # layer groups, from the input on
        self.optimizer = _optimizer(self._groups, params)
        self.schedule = one_cycle(self.optimizer, steps=steps, warmup_fraction=params.warmup_fraction)
        average = _average(params.ema_decay**params.ema_every)
        self._averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True) if params.ema_decay else None
        self.most_together = 0  # images of a forward pass, where a step had several; batch norm saw no more at a time
        self.replica: nn.Module | None = None  # the network, tied to those of the other ranks; made by the first step
        if setup.compiled:
            self.network.compile()

    @property
    def groups(self) -> int:
        return len(self._groups)

    def freeze(self, groups: int) -> None:
        """Keep the first ``groups`` layer groups as they are, batch norm's statistics included."""
        self.frozen = groups
        for index, group in enumerate(self._groups):
            for parameter in group:
                parameter.requires_grad_(index >= groups)
        self.replica = None  # DistributedDataParallel must learn anew which parameters have gradients

    def step(self, pixels: Tensor, targets: Tensor, *, global_batch_size: int) -> tuple[Tensor, Tensor]:
        """Make one optimizer step on a global batch, of which this rank holds ``pixels``.

        Args:
            pixels: float (n, C, H, W) in 0..1, n >= 1.
            targets: class numbers int64 (n,), or the share of each class float (n, K); zeros and ones (n, K) of
                several labels an image.
            global_batch_size: images over all ranks.

        Returns:
            The summed loss and the number of right answers over this rank's images: scalars on the device.
        """
        if self.replica is None:
            self.replica = data_parallel(self.network)
        self._train_mode()
        weight = rank_and_world()[1] / global_batch_size  # the ranks' gradients are averaged, hence times the ranks
        size = self.setup.micro_batch or len(pixels)
        loss = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device)
        parts = list(zip(pixels.split(size), targets.split(size), strict=True))
        if len(parts) > 1:
            self.most_together = max(self.most_together, size)
        for index, (part, target) in enumerate(parts):
            with contextlib.nullcontext() if index == len(parts) - 1 else no_sync(self.replica):
                logits = self._logits(self.replica, part)
                summed = self.objective.loss(logits, target, smoothing=self.params.label_smoothing)
                (summed * weight).backward()
            loss += summed.detach()
            right += self.objective.right(logits.detach(), target)
        optimizer_step(self.optimizer, self.schedule, self.network.parameters(), grad_clip=self.params.grad_clip)
        if self._averaged is not None and self.schedule.last_epoch % self.params.ema_every == 0:
            self._averaged.update_parameters(self.network)
        return loss, right

    @torch.no_grad()
    def measure(self, split: Split) -> Measured:
        """Measure the averaged weights over ``split`` on all ranks, without smoothing and weights of the classes."""
        rank, world = rank_and_world()
        network = self.averaged.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        everything = torch.zeros(split.labels.shape if self.setup.multilabel else 0, device=self.device)
        rows = torch.arange(rank, len(split), world).split(EVALUATION_BATCH)
        parts = split.parts(EVALUATION_BATCH, self.device, rank=rank, world=world)
        for at, (part, target) in zip(rows, parts, strict=True):
            logits = self._logits(network, self.setup.transform.view(part))
            sums[0] += self.objective.loss(logits, target, weighted=False)
            sums[1] += self.objective.right(logits, target)
            if self.setup.multilabel:
                everything[at.to(self.device)] = logits
        loss, accuracy = (sum_over_ranks(sums) / len(split)).tolist()
        figures = {"val_loss": loss, "val_accuracy": accuracy}
        if not self.setup.multilabel:
            return Measured(figures, accuracy, [])
        score, thresholds = measured_map(sum_over_ranks(everything), split.labels)
        return Measured(figures | {"val_map": score}, score, thresholds)

    def gather_statistics(self) -> None:
        """Give all ranks the mean of their batch norm statistics; call it before measuring or saving."""
        for network in dict.fromkeys([self.network, self.averaged]):
            average_buffers(network)

    @property
    def averaged(self) -> nn.Module:
        """The network to measure and to ship: the averaged weights, or the plain ones when there is no averaging."""
        return self.network if self._averaged is None else self._averaged.module

    def weights(self) -> dict[str, Tensor]:
        """A copy of what is to be shipped, on the CPU."""
        return {key: value.detach().cpu().clone().contiguous() for key, value in self.averaged.state_dict().items()}

    def state_dict(self, *, optimizer: bool = True) -> dict[str, Any]:
        """What a training goes on from; a finished one needs no optimizer, which is half of it."""
        parts: dict[str, Any] = {"network": self.network, "averaged": self._averaged}
        parts |= {"optimizer": self.optimizer, "schedule": self.schedule} if optimizer else {}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])

    def _train_mode(self) -> None:
        self.network.train()
        if self.frozen:
            for modules in group_modules(self.network)[: self.frozen]:
                keep_statistics(modules)

    def _logits(self, network: nn.Module, pixels: Tensor) -> Tensor:
        inputs = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return network(inputs).float()


def weights_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What `ClassifierLearner.weights` gave when ``state`` was taken by `ClassifierLearner.state_dict`."""
    weights = state.get("averaged", state["network"])
    return {key.removeprefix("module."): value.contiguous() for key, value in weights.items() if key != "n_averaged"}


def _average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]:
    """Return torch's moving average, except for whole numbers (swin's indices): their mean would be rounded down."""
    mean = get_ema_multi_avg_fn(decay)

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
        if averaged[0].is_floating_point():
            mean(list(averaged), list(current), count)
        else:
            for mine, newest in zip(averaged, current, strict=True):
                mine.copy_(newest)

    return update


def _optimizer(layers: Sequence[Sequence[nn.Parameter]], params: OptimizerParams) -> torch.optim.Optimizer:
    """AdamW or SGD, each layer group with a learning rate of its own."""
    groups: list[dict[str, Any]] = []
    if params.layer_decay == 1:  # one rate for all: fewer and larger groups are faster
        layers = [[parameter for layer in layers for parameter in layer]]
    for depth, layer in enumerate(layers):
        rate = params.learning_rate * params.layer_decay ** (len(layers) - 1 - depth)
        groups += decay_groups(layer, weight_decay=params.weight_decay, learning_rate=rate)
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=params.learning_rate, fused=True)
    nesterov = params.momentum > 0
    sgd = torch.optim.SGD(groups, lr=params.learning_rate, momentum=params.momentum, nesterov=nesterov, fused=True)
    if params.momentum:  # torch's fused step does not take parameters with and without one: of layers just unfrozen
        for parameter in (parameter for layer in layers for parameter in layer):
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
    return sgd
