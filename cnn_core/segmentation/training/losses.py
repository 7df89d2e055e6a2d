"""The losses of a promptable segmenter: focal + dice on the mask, squared error of the predicted IoU.

Kirillov et al., "Segment Anything" (ICCV 2023), section 3 and appendix A: focal and dice loss as 20 : 1, and the mean
squared error between the IoU that is predicted and the one that the mask has; of an ambiguous prompt's masks only the
best one learns. Focal loss: Lin et al. (ICCV 2017), alpha 0.25 and gamma 2. Dice loss: Milletari et al. (3DV 2016).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHA = 0.25  # weight of a mask's own pixels in the focal loss; 1 - ALPHA of the others
SMOOTH = 1.0  # pixels added above and below in the dice loss: of an empty mask it is 0
TINY = 1e-30  # least probability in a logarithm
PIECE = 1 << 18  # pixels gone over at a time on a CPU, so that they stay in its cache


def mask_losses(logits: Tensor, truth: Tensor, *, focal: float, dice: float) -> tuple[Tensor, Tensor]:
    """Return the loss and the IoU of each mask, scaled up bilinearly to the truth's resolution.

    The loss is ``focal`` x the focal loss (mean over pixels) + ``dice`` x the dice loss. Masks are scaled up because
    strokes may be thinner than a pixel of the decoder's masks.

    Args:
        logits: float (N, h, w).
        truth: uint8 (N, H, W), 0 or 1.

    Returns:
        float32 (N,) and (N,); the IoU has no gradient.
    """
    return _MaskLosses.apply(logits, truth, focal, dice)


class _MaskLosses(torch.autograd.Function):
    """The losses with their gradient written down, computed in the same pass, a few masks at a time.

    Left to autograd, the loss at an image's resolution takes a third of a small network's step.
    """

    @staticmethod
    def forward(context: Any, logits: Tensor, truth: Tensor, focal: float, dice: float) -> tuple[Tensor, Tensor]:
        down, across = (
            _bilinear(*sizes, logits.device) for sizes in zip(logits.shape[1:], truth.shape[1:], strict=True)
        )
        gradients = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        losses, overlaps = [], []
        count = max(1, PIECE // truth[0].numel()) if logits.device.type == "cpu" else len(logits)
        for start in range(0, len(logits), count):
            rows = slice(start, start + count)
            z, t = down @ logits[rows].float() @ across.T, truth[rows]
            overlaps.append(iou(z > 0, t.bool()))
            piece_losses, slopes = _loss_and_slopes(z, t.float(), focal, dice)
            losses.append(piece_losses)
            gradients[rows] = down.T @ slopes @ across
        context.save_for_backward(gradients)
        context.dtype = logits.dtype
        loss, overlap = torch.cat(losses), torch.cat(overlaps)
        context.mark_non_differentiable(overlap)
        return loss, overlap

    @staticmethod
    def backward(context: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients,) = context.saved_tensors
        return (gradients * grad_outputs[0].view(-1, 1, 1)).to(context.dtype), None, None, None


def _loss_and_slopes(z: Tensor, t: Tensor, focal: float, dice: float) -> tuple[Tensor, Tensor]:
    """Return the losses (n,) of logits and truth (n, H, W), and their gradients by the logits."""
    sign = (2 * t).sub_(1)
    right = (z * sign).sigmoid_()  # the probability of the true class, p_t
    wrong = 1 - right
    log = right.clamp(min=TINY).log_()  # several times as fast as softplus
    weight = (t * (2 * ALPHA - 1)).add_(1 - ALPHA).mul_(wrong).mul_(wrong)
    p = torch.lerp(wrong, right, t)
    both, sums = (right * t).sum((1, 2)), p.sum((1, 2)) + t.sum((1, 2))
    above, below = 2 * both + SMOOTH, sums + SMOOTH
    losses = dice * (1 - above / below) - focal * (weight * log).mean((1, 2))
    # d focal / d z = -sign weight (1 - p_t - 2 p_t log p_t)
    slopes = log.mul_(right).mul_(-2).add_(wrong).mul_(weight).mul_(sign).mul_(-focal / z[0].numel())
    # d dice / d p = above / below^2 - 2 t / below; d p / d z = p (1 - p), the same for right and wrong
    by_p = (t * (-2 * dice / below).view(-1, 1, 1)).add_((dice * above / below**2).view(-1, 1, 1))
    return losses, slopes.add_(right.mul_(wrong).mul_(by_p))


def _bilinear(size: int, target: int, device: torch.device) -> Tensor:
    """Return the matrix (target, size) that scales a line as `F.interpolate` does it."""
    unit = torch.eye(size, device=device)[None]
    return F.interpolate(unit, size=target, mode="linear", align_corners=False)[0].T.contiguous()


def iou(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the intersection over union of masks, bool (N, H, W): float32 (N,); 1 where both are empty."""
    predicted, truth = predicted.flatten(1), truth.flatten(1)
    union = (predicted | truth).sum(1)
    return torch.where(union > 0, (predicted & truth).sum(1) / union.clamp(min=1), 1.0)
