"""One SAM being trained: its step, its averaged weights, its measurement. SAM, MobileSAM, SAM 2 and the small one; on
one device or one of several ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cnn_core.devices import as_many_threads_as_pay
from cnn_core.distributed import average_buffers, data_parallel, rank_and_world, sum_over_ranks
from cnn_core.segmentation.sam.decoder import predict_masks
from cnn_core.segmentation.training.data import Prompted
from cnn_core.segmentation.training.losses import mask_losses
from cnn_core.segmentation.training.params import TrainSegmenterParams

Maps = list[Tensor]  # an image's embedding (B, C, side / 16, side / 16), and the finer maps where a network has them
LOOKS = 6  # numbers that say how an image is changed: contrast, the channels' balance, brightness, mirrored
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of all SAMs, in 0..255


def encode(network: Any, family: Literal["sam", "sam2"], pixels: Tensor) -> Maps:
    """Normalised images (B, 3, side, side) -> what the decoder takes, as Ultralytics' predictors compute it."""
    if family == "sam2":
        maps = network.forward_image(pixels)["backbone_fpn"][-network.num_feature_levels :]
        embedding = maps[-1]
        if network.directly_add_no_mem_embed:
            embedding = embedding + network.no_mem_embed.view(1, -1, 1, 1)
        return [embedding, *maps[:-1]]
    found = network.image_encoder(pixels)
    return [found["image_embed"], *found["high_res_feats"]] if isinstance(found, dict) else [found]


def decode(
    network: Any, family: Literal["sam", "sam2"], maps: Maps, boxes: Tensor | None, points: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Prompts on B images -> mask logits (N, 4, side / 4, side / 4) and predicted IoUs (N, 4): of the single mask, then
    of the three of an ambiguous prompt.

    Args:
        boxes: (N, 4) or points (N, 1, 2) in pixels of the input; N is a multiple of B, the first image's come first.
    """
    encoder = network.sam_prompt_encoder if family == "sam2" else network.prompt_encoder
    decoder = network.sam_mask_decoder if family == "sam2" else network.mask_decoder
    labels = None if points is None else torch.ones(points.shape[:2], dtype=torch.int32, device=points.device)
    if family == "sam2" and boxes is not None:  # its boxes are two points
        points, boxes = boxes.view(-1, 2, 2), None
        labels = torch.tensor([[2, 3]], dtype=torch.int32, device=points.device).expand(len(points), 2)
    with torch.autocast(maps[0].device.type, enabled=False):  # bfloat16 would blur where the prompts are
        sparse, dense = encoder(points=None if points is None else (points, labels), boxes=boxes, masks=None)
        places = encoder.get_dense_pe()
    found = predict_masks(
        decoder,
        image_embeddings=maps[0],
        image_pe=places,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=True if family == "sam2" else None,
        high_res_features=maps[1:] or None,
    )
    return found[0], found[1]


class _PromptedSam(nn.Module):
    """`encode` and `decode` as one forward pass, which `DistributedDataParallel` needs."""

    def __init__(self, network: nn.Module, family: Literal["sam", "sam2"]) -> None:
        super().__init__()
        self.network, self.family = network, family

    def forward(
        self, pixels: Tensor | None, maps: Maps | None, boxes: Tensor | None, points: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """``pixels`` are the images' where ``maps`` are None."""
        if maps is None:
            assert pixels is not None
            maps = encode(self.network, self.family, pixels)
        return decode(self.network, self.family, maps, boxes, points)


class SamLearner:
    """Trains one network by calls of `step`; every rank holds one and calls it with its share of the same batch.

    Args:
        network: as `load_sam` gives it, the same on all ranks; its ``set_imgsz`` is called.
        frozen: the encoder stays as it is, and with it the prompts' embeddings: the mask decoder learns.
        steps: all steps that the schedule spans.
        dtype: what autocast computes in; None = float32.
    """

    def __init__(
        self,
        network: Any,
        family: Literal["sam", "sam2"],
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
        self.learns = _learning(network, family) if frozen else network
        self.network.requires_grad_(False)
        for name, parameter in self.learns.named_parameters():
            # SAM 2's decoder has two layers that belong to its encoder.
            parameter.requires_grad_(not (frozen and name.startswith(("conv_s0", "conv_s1"))))
        self._world = rank_and_world()[1]
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": params.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=params.learning_rate, fused=True)
        warmup = params.warmup_fraction
        if math.isclose(warmup * (steps + 1), 1):  # OneCycleLR divides by the steps of the warm-up less one
            warmup *= 1.01
        # One step more than there are: the schedule ends at 0, and a step there would be wasted.
        self.schedule = OneCycleLR(
            self.optimizer, params.learning_rate, steps + 1, pct_start=warmup, cycle_momentum=False
        )
        # A prompt of the other kind has an embedding that takes no part in a step.
        self._forward = data_parallel(_PromptedSam(self.network, family), find_unused_parameters=True)
        self.average = {name: value.clone() for name, value in self._values().items()}

    def step(
        self, batch: Prompted, maps: Maps | None, looks: Tensor, *, global_batch_size: int = 0
    ) -> tuple[Tensor, Tensor]:
        """One step on a global batch of so many images (0 = these), of which this rank holds ``batch``.

        Args:
            maps: of the batch's images, where the encoder is frozen.
            looks: uniform in 0..1, float (B, LOOKS): how each image is changed; not used where the encoder is frozen.

        Returns:
            The mean loss, and the mean IoU of the masks found, of this rank: scalars.
        """
        if not self.learns.training:
            self.network.eval()
            self.learns.train()
        batch = batch.to(self.device)
        if maps is None:
            batch = self._augmented(batch, looks.to(self.device))
        scale = self.imgsz / batch.images.shape[-1]
        with self._autocast():
            pixels = self.pixels(batch.images) if maps is None else None
            boxes, points = (None if prompts is None else prompts * scale for prompts in (batch.boxes, batch.points))
            logits, scores = self._forward(pixels, maps, boxes, points)
        loss, found = self.loss(logits, scores, batch.masks, ambiguous=points is not None)
        # The ranks' gradients are averaged. This rank's loss is a mean over its images, which weighs as they do.
        (loss * (self._world * len(batch.images) / (global_batch_size or len(batch.images)))).backward()
        if self.params.grad_clip:
            nn.utils.clip_grad_norm_(self.learns.parameters(), self.params.grad_clip)
        with as_many_threads_as_pay(self.learns.parameters()):
            self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._move_average()
        return loss.detach(), found

    def loss(self, logits: Tensor, scores: Tensor, truth: Tensor, *, ambiguous: bool) -> tuple[Tensor, Tensor]:
        """Of masks (N, 4, h, w) and predicted IoUs (N, 4) against masks (N, H, W), 0 or 1; and the single masks' IoU.

        The single mask always learns; of the three others, which answer ambiguous prompts, the best.
        """
        params, heads = self.params, logits.shape[1] if ambiguous else 1
        each = truth[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
        losses, real = mask_losses(logits[:, :heads].flatten(0, 1), each, focal=params.focal, dice=params.dice)
        losses, real = losses.view(-1, heads), real.view(-1, heads)
        loss = losses[:, 0].mean() + params.iou * F.mse_loss(scores[:, :heads].float(), real)
        return loss + losses[:, 1:].min(1).values.mean() if ambiguous else loss, real[:, 0].mean()

    @torch.inference_mode()
    def maps(self, images: Tensor) -> Maps:
        """What the encoder makes of images, uint8 (B, 3, side, side), as it is in evaluation."""
        self.network.eval()
        with self._autocast():
            return encode(self.network, self.family, self.pixels(images.to(self.device)))

    @torch.inference_mode()
    def masks(self, maps: Maps, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Of boxes (n, 4) in the pixels of one image the mask logits, float32 (n, side, side), and predicted IoUs."""
        with self._autocast():
            logits, scores = decode(self.network, self.family, maps, boxes.to(self.device) * (self.imgsz / side), None)
        whole = F.interpolate(logits[:, :1].float(), size=(side, side), mode="bilinear", align_corners=False)
        return whole[:, 0], scores[:, 0].float()

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 or float (B, 3, side, side), 0..255 -> the network's input."""
        scaled = ((images.float() - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        if images.shape[-1] == self.imgsz:
            return scaled
        return F.interpolate(scaled, size=(self.imgsz, self.imgsz), mode="bilinear", align_corners=False)

    def gather_statistics(self) -> None:
        """Make the ranks' batch norm statistics one; before measuring or saving."""
        average_buffers(self.network)
        for name, value in self.average.items():
            if "running_" in name:
                sum_over_ranks(value).div_(self._world)

    def _augmented(self, batch: Prompted, looks: Tensor) -> Prompted:
        """Mirrored, and in other colours: contrast, brightness and the channels' balance."""
        strength = self.params.colour
        batch = batch.mirrored(looks[:, 5] < self.params.fliplr)
        if not strength:
            return batch
        gain, balance, light = (
            1 + strength * (2 * looks[:, part, None, None] - 1) for part in (slice(0, 1), slice(1, 4), slice(4, 5))
        )
        images = (batch.images.float() - 128) * (gain * balance) + (128 + 64 * (light - 1))
        return dataclasses.replace(batch, images=images.clamp(0, 255))

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _values(self) -> dict[str, Tensor]:
        """What training changes: trained parameters, and the running statistics of what is trained."""
        trained = {name: value.detach() for name, value in self.network.named_parameters() if value.requires_grad}
        if self.frozen:
            return trained
        return trained | {name: value for name, value in self.network.named_buffers() if "running_" in name}

    def _move_average(self) -> None:
        values, decay = self._values(), self.params.ema_decay
        if self.schedule.last_epoch == 1:
            decay = 0.0
        update = get_ema_multi_avg_fn(decay)
        update(list(self.average.values()), [values[name] for name in self.average], self.schedule.last_epoch)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has its averaged weights within the block."""
        values = self._values()
        kept = {name: value.clone() for name, value in values.items()}
        _fill(values, self.average)
        try:
            yield
        finally:
            _fill(values, kept)

    def state_dict(self, *, optimizer: bool) -> dict[str, Any]:
        """What a training goes on from: what training changes, not what is frozen."""
        held: dict[str, Any] = {"average": self.average}
        if optimizer:
            held |= {
                "values": self._values(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            }
        return held

    def load_state_dict(self, held: Mapping[str, Any]) -> None:
        _fill(self.average, held["average"])
        if "values" in held:
            _fill(self._values(), held["values"])
            self.optimizer.load_state_dict(held["optimizer"])
            self.schedule.load_state_dict(held["schedule"])


def _learning(network: Any, family: str) -> nn.Module:
    return network.sam_mask_decoder if family == "sam2" else network.mask_decoder


def _fill(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(values[name])
