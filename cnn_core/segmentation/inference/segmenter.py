"""Prompts -> masks, by SAM or SAM 2, as Ultralytics' predictor gives them. An image is encoded once for all prompts.

Boxes and points are in pixels of the original image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_core.detection.yolo import quiet
from cnn_core.segmentation.inference.automatic import AutomaticMasks
from cnn_core.segmentation.params import SegmenterParams
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from cnn_core.segmentation.sam.network import Features, LoadedSam, SamSteps, load_sam
from cnn_core.segmentation.segments import LOW_SCORE, Segments, SegmentsBuilder

BATCH = {"cpu": 32, "cuda": 64}  # prompts decoded at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
    """An encoded image."""

    height: int  # of the original image
    width: int
    pixels: Tensor  # float (1, 3, side, side), the network's input, which crops are made of
    features: Features


class Segmenter:
    """A SAM or SAM 2 that is loaded once. Call `embed` once an image, then `masks` or `everything` any number of times.

    Args:
        weights: a checkpoint of SAM or SAM 2, a model folder, or a network that is already loaded.
        settings: folder for Ultralytics' own settings.
        batch: prompts decoded at a time; 0 = `BATCH`. Memory grows with it, not with the number of prompts.
        trusted: as for `cnn_core.segmentation.sam.weights.read_weights`.

    Raises:
        ValueError: as `cnn_core.segmentation.sam.network.load_sam`.

    Examples:
        >>> import cv2
        >>> from cnn_core.params import load_section
        >>> from cnn_core.segmentation.params import SegmentParams
        >>> params = load_section(SegmentParams, "segment.segmenter")  # of params.yaml
        >>> segmenter = Segmenter("mobile_sam.pt", params, device=torch.device("cpu"), settings="settings")
        >>> embedding = segmenter.embed(cv2.imread("photo.jpg"))
        >>> segments = segmenter.masks(embedding, boxes=[[10, 20, 110, 90]])  # one mask for each box
        >>> len(segments.masks) + len(segments.dropped)
        1
        >>> (segments.height, segments.width)
        (120, 200)
        >>> everything = segmenter.everything(embedding)  # automatic masks
    """

    def __init__(
        self,
        weights: str | Path | LoadedSam,
        params: SegmenterParams,
        *,
        device: torch.device,
        settings: str | Path,
        batch: int = 0,
        trusted: Collection[str] = (),
    ) -> None:
        quiet(settings)
        self.params, self.batch = params, batch or BATCH.get(device.type, BATCH["cpu"])
        self.loaded = weights if isinstance(weights, LoadedSam) else load_sam(weights, trusted=trusted)
        half = params.half is True or (params.half == "auto" and device.type == "cuda")
        self.steps = SamSteps(self.loaded, imgsz=params.imgsz, device=device, half=half)

    @torch.inference_mode()
    def embed(self, image: np.ndarray) -> Embedding:
        """Encode an image, uint8 (H, W, 3) in OpenCV's order (BGR). A grey one may be (H, W) or (H, W, 1).

        Raises:
            BadImage: the image is so long and narrow that nothing would be left of its shorter side.
            ValueError: the array has another type or shape.
        """
        if (
            image.dtype != np.uint8
            or not image.size
            or image.ndim not in (2, 3)
            or image.shape[2:] not in ((), (1,), (3,))
        ):
            raise ValueError(f"an image must be uint8 (H, W, 3) or (H, W), not {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        self.steps.check_shape((height, width))
        colour = image if image.shape[2:] == (3,) else np.repeat(image.reshape(height, width, 1), 3, axis=2)
        pixels = self.steps.pixels(colour)
        return Embedding(height=height, width=width, pixels=pixels, features=self.steps.features(pixels))

    def masks(
        self,
        embedding: Embedding,
        *,
        boxes: np.ndarray | Sequence[Any] | None = None,
        points: np.ndarray | Sequence[Any] | None = None,
        labels: np.ndarray | Sequence[Any] | None = None,
    ) -> Segments:
        """Give one mask for each prompt. A prompt is a box, some points, or both.

        A box that reaches over the image's edge is cut off there. A prompt outside the image, or a box without an
        area, gives no mask but an entry in ``dropped``. No prompts give no masks.

        Args:
            boxes: (N, 4), xyxy.
            points: (N, 2) or (N, P, 2), P points of the same object.
            labels: (N,) or (N, P), 1 = inside the object, 0 = outside; None = all inside.

        Raises:
            ValueError: there are neither boxes nor points, or an array has another shape or other values.
        """
        prompts = CheckedPrompts.checked(boxes, points, labels, embedding.height, embedding.width)
        builder = SegmentsBuilder(embedding.height, embedding.width, dict(prompts.dropped))
        offset = self.params.everything.stability_score_offset
        for numbers, logits, scores in self.logits(embedding, prompts):
            sure = (scores > self.params.conf).cpu().numpy()
            builder.dropped.update(dict.fromkeys(numbers[~sure].tolist(), LOW_SCORE))
            sure_logits = logits[torch.from_numpy(sure).to(logits.device)]
            originals = self.steps.in_original(sure_logits, (embedding.height, embedding.width))
            for number, score, mask in zip(numbers[sure], scores.cpu().numpy()[sure], originals, strict=True):
                builder.add(int(number), float(score), self.steps.stability(mask, offset), mask > self.steps.threshold)
        return builder.segments()

    @torch.inference_mode()
    def logits(self, embedding: Embedding, prompts: CheckedPrompts) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Yield one batch's prompt numbers (n,), mask logits (n, side / 4, side / 4) and predicted IoUs (n,).

        With ``multimask_output`` they are those of the best of the three masks.
        """
        multimask = self.params.multimask_output
        shape = (embedding.height, embedding.width)
        for batch in prompts.batches(self.batch):
            logits, scores = self.steps.decode(embedding.features, shape, **batch.arrays(), multimask=multimask)
            best = scores.argmax(1)
            row = torch.arange(len(best), device=best.device)
            yield batch.numbers, logits[row, best], scores[row, best]

    def everything(self, embedding: Embedding) -> Segments:
        """Give automatic masks, prompted by a grid of points: those of Ultralytics' `Predictor.generate`."""
        shape = (embedding.height, embedding.width)
        builder = SegmentsBuilder(*shape, {})
        automatic = AutomaticMasks(self.steps, self.params.everything, conf=self.params.conf, batch=self.batch)
        for number, score, stability, mask in automatic(embedding.pixels, embedding.features, shape):
            builder.add(number, score, stability, mask)
        return dataclasses.replace(builder.segments(), dropped={})
