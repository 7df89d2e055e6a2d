"""The segmenter's losses against torchvision's focal loss, autograd, and sums by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from cnn_core.segmentation.training.losses import iou, mask_losses


def some(count: int = 3, side: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 4 * torch.randn(count, side, side), (torch.rand(count, side, side) < 0.3).to(torch.uint8)


def by_autograd(logits: torch.Tensor, truth: torch.Tensor, focal: float, dice: float) -> torch.Tensor:
    p, t = logits.sigmoid().flatten(1), truth.float().flatten(1)
    overlap = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    pixels = sigmoid_focal_loss(logits, truth.float(), alpha=0.25, gamma=2)
    return focal * pixels.flatten(1).mean(1) + dice * (1 - overlap)


def mask_loss(logits: torch.Tensor, truth: torch.Tensor, *, focal: float = 20, dice: float = 1) -> torch.Tensor:
    return mask_losses(logits, truth, focal=focal, dice=dice)[0]


@pytest.mark.parametrize(("focal", "dice"), [(20.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_loss_and_its_gradient_are_focal_and_dice(focal: float, dice: float) -> None:
    logits, truth = some()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weights = torch.tensor([1.0, 0.5, 2.0])
    found, expected = mask_loss(ours, truth, focal=focal, dice=dice), by_autograd(theirs, truth, focal, dice)
    assert torch.allclose(found, expected, atol=1e-5)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_masks_are_scaled_up_bilinearly_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_core.segmentation.training.losses.PIECE", 2 * 10 * 14)
    torch.manual_seed(1)
    small, truth = torch.randn(5, 4, 6), (torch.rand(5, 10, 14) < 0.4).to(torch.uint8)
    ours, theirs = small.clone().requires_grad_(), small.clone().requires_grad_()
    large = F.interpolate(theirs[:, None], size=(10, 14), mode="bilinear", align_corners=False)[:, 0]
    found, overlaps = mask_losses(ours, truth, focal=20, dice=1)
    expected = by_autograd(large, truth, 20, 1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(overlaps, iou(large > 0, truth > 0))
    found.sum().backward()
    expected.sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_dice_by_hand() -> None:
    logits = torch.tensor([[[100.0, 100.0], [-100.0, -100.0]]])  # both upper pixels found
    truth = torch.tensor([[[1, 0], [0, 0]]])
    assert mask_loss(logits, truth, focal=0, dice=1).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 1 + 1))


def test_a_perfect_mask_costs_nothing_and_logits_without_end_stay_finite() -> None:
    truth = torch.tensor([[[1, 0], [0, 1]]])
    right = (truth * 2 - 1) * 1e4
    assert mask_loss(right, truth).item() == pytest.approx(0, abs=1e-6)
    worst = (-right).requires_grad_()
    loss = mask_loss(worst, truth)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert worst.grad.isfinite().all()


def test_bfloat16_logits_get_gradients_of_their_kind() -> None:
    logits = some()[0].bfloat16().requires_grad_()
    mask_loss(logits, some()[1]).sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_iou_of_masks() -> None:
    one = torch.tensor([[[True, True], [False, False]]])
    assert iou(one, one).item() == 1
    assert iou(one, torch.tensor([[[True, False], [True, False]]])).item() == pytest.approx(1 / 3)
    assert iou(one, ~one).item() == 0
    assert iou(torch.zeros_like(one), torch.zeros_like(one)).item() == 1
