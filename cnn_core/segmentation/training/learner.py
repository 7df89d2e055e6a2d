"""One SAM in training: its step, its averaged weights, its masks.

SAM, MobileSAM, SAM 2 and the small SAM, on one device or as one of several ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cnn_core.distributed import average_buffers, data_parallel, rank_and_world, sum_over_ranks
from cnn_core.optimization import decay_groups, one_cycle, optimizer_step
from cnn_core.segmentation.training.forward import Family, Maps, PromptedSam, decode, encode
from cnn_core.segmentation.training.losses import mask_losses
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.prompts import PromptBatch

AUGMENTATION_DRAWS = 6  # random numbers an image: contrast, the balance of three channels, brightness, mirrored
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of all SAMs, in 0..255


class SamLearner:
    """Trains one network by calls of `step`; every rank holds one and calls it with its share of the same batch.

    Args:
        network: as `load_sam` gives it, the same on all ranks; its ``set_imgsz`` is called.
        frozen: only the mask decoder learns.
        steps: that the schedule spans.
        dtype: what autocast computes in; None = float32.
    """

    def __init__(
        self,
        network: Any,
        family: Family,
        params: TrainSegmenterParams,
        *,
        imgsz: int,
        frozen: bool,
        steps: int,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)
        self.network.set_imgsz([imgsz, imgsz])
        self.family, self.params, self.imgsz, self.frozen = family, params, imgsz, frozen
        self.device, self.dtype = device, dtype
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
        decoder: nn.Module = network.sam_mask_decoder if family == "sam2" else network.mask_decoder
        self.trained_part = decoder if frozen else network
        self.network.requires_grad_(False)
        for name, parameter in self.trained_part.named_parameters():
            # SAM 2's decoder has two layers that belong to its encoder.
            parameter.requires_grad_(not (frozen and name.startswith(("conv_s0", "conv_s1"))))
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        groups = decay_groups(trained, weight_decay=params.weight_decay, learning_rate=params.learning_rate)
        self.optimizer = torch.optim.AdamW(groups, lr=params.learning_rate, fused=True)
        self.schedule = one_cycle(self.optimizer, steps=steps, warmup_fraction=params.warmup_fraction)
        # A step has boxes or points, so the embeddings of the other kind of prompt take no part in it.
        self._forward = data_parallel(PromptedSam(self.network, family), find_unused_parameters=True)
        self.average = {name: value.clone() for name, value in self._values().items()}

    def step(
        self, batch: PromptBatch, maps: Maps | None, draws: Tensor, *, global_batch_size: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Make one optimizer step on a global batch, of which this rank holds ``batch``.

        Args:
            maps: of the batch's images, where the encoder is frozen.
            draws: uniform in 0..1, float (B, AUGMENTATION_DRAWS): how each image is changed, unless there are maps.
            global_batch_size: images over all ranks; 0 = this rank has them all.

        Returns:
            The mean loss, and the mean IoU of the predicted masks, of this rank: scalars.
        """
        if not self.trained_part.training:
            self.network.eval()
            self.trained_part.train()
        batch = batch.to(self.device)
        if maps is None:
            batch = self._augmented(batch, draws.to(self.device))
        scale = self.imgsz / batch.images.shape[-1]
        with self._autocast():
            images = self.normalised(batch.images) if maps is None else None
            boxes, points = (None if prompts is None else prompts * scale for prompts in (batch.boxes, batch.points))
            logits, scores = self._forward(images, maps, boxes, points)
        loss, overlap = self.loss(logits, scores, batch.masks, ambiguous=points is not None)
        # The ranks' gradients are averaged, and a loss is a mean over a rank's images: so a rank counts by its images.
        share = len(batch.images) / (global_batch_size or len(batch.images))
        (loss * (rank_and_world()[1] * share)).backward()
        optimizer_step(self.optimizer, self.schedule, self.trained_part.parameters(), grad_clip=self.params.grad_clip)
        self._update_average()
        return loss.detach(), overlap

    def loss(self, logits: Tensor, scores: Tensor, truth: Tensor, *, ambiguous: bool) -> tuple[Tensor, Tensor]:
        """The loss of predicted masks, and the mean IoU of the single masks.

        The single mask always learns. Of the three others, which answer ambiguous prompts, the best one learns.

        Args:
            logits: masks (N, 4, h, w). scores: predicted IoUs (N, 4). truth: masks (N, H, W), 0 or 1.
        """
        params, heads = self.params, logits.shape[1] if ambiguous else 1
        targets = truth[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
        losses, overlaps = mask_losses(logits[:, :heads].flatten(0, 1), targets, focal=params.focal, dice=params.dice)
        losses, overlaps = losses.view(-1, heads), overlaps.view(-1, heads)
        loss = losses[:, 0].mean() + params.iou * F.mse_loss(scores[:, :heads].float(), overlaps)
        return loss + losses[:, 1:].min(1).values.mean() if ambiguous else loss, overlaps[:, 0].mean()

    @torch.inference_mode()
    def maps(self, images: Tensor) -> Maps:
        """Encode images, uint8 (B, 3, side, side), with the encoder in evaluation mode."""
        self.network.eval()
        with self._autocast():
            return encode(self.network, self.family, self.normalised(images.to(self.device)))

    @torch.inference_mode()
    def masks(self, maps: Maps, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Mask logits, float32 (n, side, side), and predicted IoUs (n,) of boxes (n, 4) in the pixels of one image."""
        with self._autocast():
            logits, scores = decode(self.network, self.family, maps, boxes.to(self.device) * (self.imgsz / side), None)
        logits = F.interpolate(logits[:, :1].float(), size=(side, side), mode="bilinear", align_corners=False)
        return logits[:, 0], scores[:, 0].float()

    def normalised(self, images: Tensor) -> Tensor:
        """The network's input for images, uint8 or float (B, 3, side, side) in 0..255."""
        scaled = ((images.float() - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        if images.shape[-1] == self.imgsz:
            return scaled
        return F.interpolate(scaled, size=(self.imgsz, self.imgsz), mode="bilinear", align_corners=False)

    def gather_statistics(self) -> None:
        """Give all ranks the mean of their batch norm statistics; call it before measuring or saving."""
        average_buffers(self.network)
        for name, value in self.average.items():
            if "running_" in name:
                sum_over_ranks(value).div_(rank_and_world()[1])

    def _augmented(self, batch: PromptBatch, draws: Tensor) -> PromptBatch:
        strength = self.params.colour
        batch = batch.mirrored(draws[:, 5] < self.params.fliplr)
        if not strength:
            return batch
        gain, balance, light = (
            1 + strength * (2 * draws[:, part, None, None] - 1) for part in (slice(0, 1), slice(1, 4), slice(4, 5))
        )
        images = (batch.images.float() - 128) * (gain * balance) + (128 + 64 * (light - 1))
        return dataclasses.replace(batch, images=images.clamp(0, 255))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _values(self) -> dict[str, Tensor]:
        """What training changes: trained parameters, and the running statistics of what is trained."""
        trained = {name: value.detach() for name, value in self.network.named_parameters() if value.requires_grad}
        if self.frozen:
            return trained
        return trained | {name: value for name, value in self.network.named_buffers() if "running_" in name}

    def _update_average(self) -> None:
        first = self.schedule.last_epoch == 1
        update = get_ema_multi_avg_fn(0.0 if first else self.params.ema_decay)
        values = self._values()
        update(list(self.average.values()), [values[name] for name in self.average], self.schedule.last_epoch)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the network its averaged weights within the block."""
        values = self._values()
        saved = {name: value.clone() for name, value in values.items()}
        _copy_into(values, self.average)
        try:
            yield
        finally:
            _copy_into(values, saved)

    def state_dict(self, *, optimizer: bool) -> dict[str, Any]:
        """What training changes; without ``optimizer``, at the end of a training, only the averaged weights."""
        if not optimizer:
            return {"average": self.average}
        return {
            "average": self.average,
            "values": self._values(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _copy_into(self.average, state["average"])
        if "values" in state:
            _copy_into(self._values(), state["values"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])


def _copy_into(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])
