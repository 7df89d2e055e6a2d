"""What trainings have in common: groups with and without weight decay, the schedule, the step, the diverged loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from cnn_core.devices import as_many_threads_as_pay


def decay_groups(
    parameters: Sequence[nn.Parameter], *, weight_decay: float, learning_rate: float
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: matrices and kernels with weight decay, biases and norms without.

    A group that would be empty is left out.
    """
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        {"params": group, "weight_decay": decay, "lr": learning_rate}
        for group, decay in ((matrices, weight_decay), (vectors, 0.0))
        if group
    ]


def one_cycle(optimizer: Optimizer, *, steps: int, warmup_fraction: float) -> OneCycleLR:
    """The one-cycle schedule of a training of ``steps`` steps: a cosine up to each group's rate, and one down to 0.

    Smith and Topin, "Super-Convergence" (2018).
    """
    if math.isclose(warmup_fraction * (steps + 1), 1):  # OneCycleLR divides by the steps of the warm-up less one
        warmup_fraction *= 1.01
    peaks = [group["lr"] for group in optimizer.param_groups]
    # One step more than there are: the schedule ends at 0, and a step there would be wasted.
    return OneCycleLR(optimizer, peaks, steps + 1, pct_start=warmup_fraction, cycle_momentum=False)


def optimizer_step(
    optimizer: Optimizer, schedule: OneCycleLR, parameters: Iterable[nn.Parameter], *, grad_clip: float
) -> None:
    """Step after a backward pass, and forget the gradients. Clip their norm over ``parameters`` first (0 = never)."""
    parameters = list(parameters)
    if grad_clip:
        nn.utils.clip_grad_norm_(parameters, grad_clip)
    with as_many_threads_as_pay(parameters):
        optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)


def diverged(loss: float, where: str, *, learning_rate: float, grad_clip: float) -> ValueError:
    """The error to raise for a loss that is not finite; ``where`` reads like "in epoch 3"."""
    return ValueError(
        f"the loss is {loss} {where}: training has diverged; lower learning_rate (now {learning_rate:g}) or set a "
        f"smaller grad_clip (now {grad_clip:g})"
    )
