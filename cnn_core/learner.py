"""One network being trained: its step, its averaged weights, its measurement; on one device or one of several ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnn_core.batches import Split, average_buffers, rank_and_world, sum_over_ranks
from cnn_core.params import Params, bounded

EVALUATION_BATCH = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerParams(Params):
    """How a step changes the weights."""

    optimizer: Literal["adamw", "sgd"]
    learning_rate: float = bounded(above=0)  # the peak of the one-cycle schedule
    warmup_fraction: float = bounded(0, 0.9)  # of all steps, before the peak
    weight_decay: float = bounded(0)  # of matrices and kernels only; biases and batch norm are left alone
    momentum: float = bounded(0, 0.999)  # of sgd, with Nesterov's correction
    label_smoothing: float = bounded(0, 0.9)
    ema_decay: float = bounded(0, 0.99999)  # per step; 0 = the weights are not averaged
    grad_clip: float = bounded(0)  # the largest norm of the gradient; 0 = any


class Learner:
    """Trains one network by calls of ``step``; every rank holds one and calls it with its share of the same batch.

    Args:
        network: freshly built, or of an earlier checkpoint; moved to ``device``.
        params: the optimizer's section.
        steps: all steps that the schedule spans.
        mean, std: per channel, in 0..1; images become ``(x / 255 - mean) / std``.
        augment: float images in 0..1 and a generator on their device -> float images in 0..1; None = as they are.
        dtype: what autocast computes in; None = float32.
        micro_batch: images per forward pass (0 = the whole share); the step is the same but for batch norm.
    """

    def __init__(
        self,
        network: nn.Module,
        params: OptimizerParams,
        *,
        steps: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: Callable[[Tensor, torch.Generator], Tensor] | None,
        device: torch.device,
        dtype: torch.dtype | None,
        micro_batch: int,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)
        self.params, self.device, self.dtype, self.micro_batch = params, device, dtype, micro_batch
        self._mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self._augment = augment
        self._world = rank_and_world()[1]
        self._parallel = _parallel(self.network) if self._world > 1 else None
        self.optimizer = _optimizer(self.network, params)
        peak, warmup = params.learning_rate, params.warmup_fraction
        # One step more than there are: the schedule ends at 0, and a step there would be wasted.
        self.schedule = OneCycleLR(self.optimizer, peak, steps + 1, pct_start=warmup, cycle_momentum=False)
        average = get_ema_multi_avg_fn(params.ema_decay)
        self._averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True) if params.ema_decay else None

    def step(self, images: Tensor, labels: Tensor, *, whole: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One optimizer step on a global batch of ``whole`` images, of which this rank holds ``images``.

        Args:
            images: uint8 (n, C, H, W), n >= 1. labels: int64 (n,).

        Returns:
            The summed loss and the number of right answers over this rank's images: scalars on the device.
        """
        self.network.train()
        pixels = images.float() / 255
        if self._augment is not None:
            pixels = self._augment(pixels, generator)  # before micro-batches are cut: they change no image
        size = self.micro_batch or len(images)
        loss = torch.zeros((), device=self.device)
        right = torch.zeros((), device=self.device)
        parts = list(zip(pixels.split(size), labels.split(size), strict=True))
        for index, (part, target) in enumerate(parts):
            with self._gradients_summed_at(index == len(parts) - 1):
                logits = self._logits(self._parallel or self.network, part)
                summed = F.cross_entropy(
                    logits, target, label_smoothing=self.params.label_smoothing, reduction="sum"
                )  # DDP takes the mean over ranks, so: x ranks / the global batch
                (summed * (self._world / whole)).backward()
            loss += summed.detach()
            right += (logits.detach().argmax(1) == target).sum()
        if self.params.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.params.grad_clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._averaged is not None:
            self._averaged.update_parameters(self.network)
        return loss, right

    @torch.no_grad()
    def measure(self, split: Split) -> tuple[float, float]:
        """Mean cross-entropy (no smoothing) and accuracy of the averaged weights over ``split``, each image once,
        whatever the number of ranks."""
        rank, world = rank_and_world()
        model = self.averaged.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        images, labels = split.images[rank::world], split.labels[rank::world]
        for part, target in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            logits = self._logits(model, part.float() / 255)
            sums[0] += F.cross_entropy(logits, target, reduction="sum")
            sums[1] += (logits.argmax(1) == target).sum()
        loss, right = (sum_over_ranks(sums) / len(split)).tolist()
        return loss, right

    def gather_statistics(self) -> None:
        """Make the ranks' batch norm statistics one; before measuring or saving."""
        average_buffers(self.network)
        if self._averaged is not None:
            average_buffers(self._averaged.module)

    @property
    def averaged(self) -> nn.Module:
        """The network to measure and to ship: the averaged weights, or the plain ones when there is no averaging."""
        return self.network if self._averaged is None else self._averaged.module

    def weights(self) -> dict[str, Tensor]:
        """A copy of what is to be shipped, on the CPU."""
        return {key: value.detach().cpu().clone().contiguous() for key, value in self.averaged.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        parts |= {"averaged": self._averaged} if self._averaged is not None else {}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])

    def _logits(self, model: nn.Module, pixels: Tensor) -> Tensor:
        inputs = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            return model(inputs).float()

    @contextlib.contextmanager
    def _gradients_summed_at(self, last: bool) -> Iterator[None]:
        with contextlib.nullcontext() if last or self._parallel is None else self._parallel.no_sync():
            yield


def _parallel(network: nn.Module) -> DistributedDataParallel:
    with warnings.catch_warnings():  # torch 2.14 has another name for the switch, which 2.11 does not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(network, broadcast_buffers=False)


def non_finite(losses: Tensor) -> int | None:
    """The position of the first loss that is no number, or None."""
    bad = (~torch.isfinite(losses)).nonzero()
    return int(bad[0]) if len(bad) else None


def _optimizer(network: nn.Module, params: OptimizerParams) -> torch.optim.Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=params.learning_rate, fused=True)
    nesterov = params.momentum > 0
    return torch.optim.SGD(groups, lr=params.learning_rate, momentum=params.momentum, nesterov=nesterov, fused=True)


def total_steps(epochs: int, images: int, batch_size: int) -> int:
    return epochs * math.ceil(images / batch_size)
