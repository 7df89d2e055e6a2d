"""Mixup and cutmix by torchvision: the images and labels of a batch are mixed with each other."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_core.classification.augmentation.params import MixingParams


def mix(
    images: Tensor, labels: Tensor, params: MixingParams, *, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it in the batch, and its label likewise; the batch is in random order.

    Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018), the weighted mean of both images.
    Cutmix: Yun et al., "CutMix" (ICCV 2019), a box of the other image; a label's weight is its share of the area.

    Args:
        images: (N, C, H, W) float. labels: int64 (N,), or zeros and ones (N, num_classes).
        generator: on any device; it moves on by the same step whatever the parameters.

    Returns:
        The images and the targets, float32 (N, num_classes), whose rows add up to 1 where an image has one label.
    """
    seed = drawn_seed(generator)
    targets = (F.one_hot(labels, num_classes) if labels.ndim == 1 else labels).float()
    if not params.mixup and not params.cutmix:
        return images, targets
    from torchvision.transforms import v2  # slow to import, and digits do not need it

    with seeded_cpu(seed):
        mixed, take_cutmix = (torch.rand(2) < torch.tensor([params.mix_probability, 0.5])).tolist()
        if not mixed:
            return images, targets
        if params.cutmix and (take_cutmix or not params.mixup):
            return v2.CutMix(alpha=params.cutmix)(images, targets)
        return v2.MixUp(alpha=params.mixup)(images, targets)


def drawn_seed(generator: torch.Generator) -> int:
    """A seed for libraries that draw from torch's global generator; a drawn number would have to wait for a GPU."""
    state = generator.get_state().numpy().tobytes()
    torch.rand(1, generator=generator, device=generator.device)  # so that the next seed differs
    return int.from_bytes(hashlib.sha256(state).digest()[:8], "big") >> 1


@contextlib.contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """Seed torch's global CPU generator within the block and restore it after; the GPUs' generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
