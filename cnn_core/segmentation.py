"""Prompts -> masks, by SAM or SAM 2, as Ultralytics' predictor gives them; an image is encoded once for all prompts.

    segmenter = Segmenter("data/weights/sam2.1_t.pt", params, device=…, settings=…)
    embedding = segmenter.embed(image)
    segmenter.masks(embedding, boxes=boxes)     one mask a prompt
    segmenter.everything(embedding)             automatic masks

Boxes and points are in pixels of the original image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cnn_core.annotations import encode_mask, mask_box
from cnn_core.images import TOO_NARROW, BadImage
from cnn_core.params import Params, bounded
from cnn_core.sam import Features, LoadedSam, Steps, load_sam
from cnn_core.sam_automatic import Automatic
from cnn_core.yolo import quiet

BATCH = {"cpu": 4, "cuda": 64}  # prompts decoded at a time: more are no faster on a CPU
OUTSIDE = "outside the image"
NO_AREA = "box without an area"
EMPTY_MASK = "empty mask"
LOW_SCORE = "predicted IoU too low"
OBJECT = {"class_id": 0, "class_name": "object"}  # of a mask whose prompt has no class


@dataclasses.dataclass(frozen=True, kw_only=True)
class EverythingParams(Params):
    """Automatic masks; the names of Ultralytics' `Predictor.generate`, whose own values stand behind them."""

    points_stride: int = bounded(1, 256)  # 32: points along each side of the image
    conf_thres: float = bounded(0, 1)  # 0.88: masks with a greater predicted IoU are kept
    stability_score_thresh: float = bounded(0, 1)  # 0.95
    stability_score_offset: float = bounded(above=0)  # 0.95, in logits
    iou: float = bounded(0, 1)  # 0.7: of two masks whose boxes overlap more, the better one is kept
    crop_n_layers: int = bounded(0, 3)  # 0: 4 crops in the first layer, 16 in the second …, each encoded on its own
    crop_overlap_ratio: float = bounded(0, 0.9)  # 0.341
    crop_downscale_factor: int = bounded(1, 16)  # 1: fewer points a side in each further layer
    crop_nms_thresh: float = bounded(0, 1)  # 0.7: as ``iou``, between crops
    min_mask_region_area: int = bounded(0)  # 0: pixels; smaller holes and islands are removed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points_stride < self.crop_downscale_factor**self.crop_n_layers:
            raise ValueError(
                f"points_stride {self.points_stride} leaves no point in crop layer {self.crop_n_layers}, with "
                f"{self.crop_downscale_factor} times fewer in each further one"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterParams(Params):
    """Ultralytics' own names; `SAM.predict`'s own values are 1024 0.25 false."""

    imgsz: int = bounded(0, 4096)  # 0 = what the weights were trained with
    conf: float = bounded(0, 1)  # masks with a predicted IoU greater than this are kept
    multimask_output: bool  # of each prompt the best of three masks: for single points, which mean many things
    half: Literal["auto", True, False]  # auto = on an NVIDIA GPU
    everything: EverythingParams


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
    """An encoded image.

    Attributes:
        height, width: of the original image.
        pixels: float (1, 3, side, side), the network's input; what crops are made of.
    """

    height: int
    width: int
    pixels: Tensor
    features: Features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments:
    """The masks found in one image.

    Attributes:
        masks: n texts (`cnn_core.annotations.encode_mask`) of (height, width), none empty.
        boxes: float64 (n, 4), the masks' tight xyxy boxes.
        areas: int64 (n,), pixels.
        scores: float32 (n,), the predicted IoU.
        stability: float32 (n,), the IoU between the masks cut at a higher and at a lower logit.
        prompts: int64 (n,), the number of the prompt that a mask answers; of automatic masks that of the grid's point.
        dropped: why other prompts have no mask: by number `OUTSIDE`, `NO_AREA`, `EMPTY_MASK` or `LOW_SCORE`.
    """

    height: int
    width: int
    masks: list[str]
    boxes: np.ndarray
    areas: np.ndarray
    scores: np.ndarray
    stability: np.ndarray
    prompts: np.ndarray
    dropped: dict[int, str]

    def __len__(self) -> int:
        return len(self.masks)

    def rows(self, prompts: Sequence[Mapping[str, Any]] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of `annotations.OBJECTS`, but for the image_id, with the further columns area, stability and prompt_id.

        Args:
            prompts: of each prompt what its mask's row takes over: class_id, class_name, perhaps track_id and a
                prompt_id of its own instead of its number.
        """
        for place, number in enumerate(map(int, self.prompts)):
            x1, y1, x2, y2 = map(float, self.boxes[place])
            yield {
                **OBJECT,
                "prompt_id": number,
                **(prompts[number] if prompts is not None else {}),
                "x1": x1,
                "y1": y1,
                "x2": x2,
                "y2": y2,
                "score": float(self.scores[place]),
                "rle": self.masks[place],
                "area": int(self.areas[place]),
                "stability": float(self.stability[place]),
            }


class Segmenter:
    """Loads when it is made; then call `embed` once an image, and `masks` or `everything` as often as need be.

    Args:
        weights: a checkpoint of SAM or SAM 2, or a network that is already loaded.
        settings: folder for Ultralytics' own settings.
        batch: prompts decoded at a time; 0 = `BATCH`. Memory grows with it, not with the number of prompts.
        trusted: SHA-256 values of files that may execute code when they are read (`cnn_core.sam_weights`).

    Raises:
        ValueError: as `cnn_core.sam.load_sam`.
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
        self.params, self.batch = params, batch or BATCH.get(device.type, 4)
        self.loaded = weights if isinstance(weights, LoadedSam) else load_sam(weights, trusted=trusted)
        half = device.type == "cuda" and params.half in ("auto", True)
        self.steps = Steps(self.loaded, imgsz=params.imgsz, device=device, half=half)

    @torch.inference_mode()
    def embed(self, image: np.ndarray) -> Embedding:
        """Encode an image, uint8 (H, W, 3) in OpenCV's order (BGR); a grey one may be (H, W) or (H, W, 1).

        Raises:
            BadImage: it is so long and narrow that nothing would be left of its shorter side.
            ValueError: it is no such array.
        """
        if (
            image.dtype != np.uint8
            or not image.size
            or image.ndim not in (2, 3)
            or image.shape[2:] not in ((), (1,), (3,))
        ):
            raise ValueError(f"an image must be uint8 (H, W, 3) or (H, W), not {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        if round(min(height, width) * self.steps.side / max(height, width)) < 1:
            raise BadImage(TOO_NARROW, f"{width}x{height} pixels, less than 1 pixel wide at {self.steps.side}")
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
        """One mask a prompt: a box, some points, or both.

        A box that reaches over the image's edge is cut off there. A prompt outside it, or a box without an area, gives
        no mask but an entry in ``dropped``; no prompts give no masks.

        Args:
            boxes: (N, 4), xyxy. points: (N, 2) or (N, P, 2), P points of the same object. labels: (N,) or (N, P), 1 =
                inside the object, 0 = outside; all 1 where they are left out.

        Raises:
            ValueError: there are neither boxes nor points, or their shapes or values are none of these.
        """
        prompts = Prompts.checked(boxes, points, labels, embedding.height, embedding.width)
        found = Found(embedding.height, embedding.width, dict(prompts.dropped))
        offset = self.params.everything.stability_score_offset
        for numbers, logits, scores in self.logits(embedding, prompts):
            kept = (scores > self.params.conf).cpu().numpy()
            found.dropped.update(dict.fromkeys(numbers[~kept].tolist(), LOW_SCORE))
            wanted = logits[torch.from_numpy(kept).to(logits.device)]
            originals = self.steps.in_original(wanted, (embedding.height, embedding.width))
            for number, score, mask in zip(numbers[kept], scores.cpu().numpy()[kept], originals, strict=True):
                found.add(int(number), float(score), self.steps.stability(mask, offset), mask > self.steps.threshold)
        return found.segments()

    @torch.inference_mode()
    def logits(self, embedding: Embedding, prompts: Prompts) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Of a batch of prompts at a time their numbers (n,), mask logits (n, side / 4, side / 4) and predicted IoUs
        (n,): with ``multimask_output`` those of the best of the three masks."""
        multimask = self.params.multimask_output
        shape = (embedding.height, embedding.width)
        for some in prompts.batches(self.batch):
            logits, scores = self.steps.decode(embedding.features, shape, **some.arrays(), multimask=multimask)
            best = scores.argmax(1)
            row = torch.arange(len(best), device=best.device)
            yield some.numbers, logits[row, best], scores[row, best]

    def everything(self, embedding: Embedding) -> Segments:
        """Automatic masks, prompted by a grid of points: those of Ultralytics' `Predictor.generate`."""
        shape = (embedding.height, embedding.width)
        found = Found(*shape, {})
        automatic = Automatic(self.steps, self.params.everything, conf=self.params.conf, batch=self.batch)
        for number, score, stability, mask in automatic(embedding.pixels, embedding.features, shape):
            found.add(number, score, stability, mask)
        return dataclasses.replace(found.segments(), dropped={})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts that lie in an image.

    Attributes:
        numbers: int64 (n,), their places among all that were given.
        boxes: float32 (n, 4) or None. points: float32 (n, P, 2) or None, with labels int32 (n, P).
        dropped: by their places those that were left out, and why.
    """

    numbers: np.ndarray
    boxes: np.ndarray | None
    points: np.ndarray | None
    labels: np.ndarray | None
    dropped: dict[int, str]

    @classmethod
    def checked(cls, boxes: Any, points: Any, labels: Any, height: int, width: int) -> Prompts:
        """As `Segmenter.masks` is given them."""
        boxes = None if boxes is None else _numbers(boxes, "boxes", (-1, 4))
        points = None if points is None else _numbers(points, "points", (-1, -1, 2))
        if boxes is None and points is None:
            raise ValueError("prompts are boxes, points or both; for masks of all there is, call everything()")
        if boxes is not None and points is not None and len(boxes) != len(points):
            raise ValueError(f"{len(boxes)} boxes and {len(points)} points are not of the same objects")
        if labels is not None and points is None:
            raise ValueError("labels belong to points, and there are none")
        dropped: dict[int, str] = {}
        if points is not None:
            labels = _labels(labels, points)
            outside = ((points < 0) | (points > (width, height))).any((1, 2))
            dropped.update(dict.fromkeys(np.flatnonzero(outside).tolist(), OUTSIDE))
        if boxes is not None:
            flat = ~(boxes[:, :2] < boxes[:, 2:]).all(1)
            outside = (boxes[:, 2:] <= 0).any(1) | (boxes[:, :2] >= (width, height)).any(1)
            dropped.update(dict.fromkeys(np.flatnonzero(outside).tolist(), OUTSIDE))
            dropped.update(dict.fromkeys(np.flatnonzero(flat).tolist(), NO_AREA))
            boxes = boxes.clip(0, (width, height, width, height)).astype(np.float32)
        count = len(boxes if boxes is not None else points)  # type: ignore[arg-type]
        numbers = np.setdiff1d(np.arange(count), list(dropped))
        return cls(numbers=numbers, boxes=boxes, points=points, labels=labels, dropped=dropped)._only(numbers)

    def _only(self, rows: np.ndarray) -> Prompts:
        parts = {name: None if part is None else part[rows] for name, part in self.arrays().items()}
        return dataclasses.replace(self, **parts)  # type: ignore[arg-type]

    def arrays(self) -> dict[str, np.ndarray | None]:
        return {"boxes": self.boxes, "points": self.points, "labels": self.labels}

    def batches(self, size: int) -> Iterator[Prompts]:
        for start in range(0, len(self.numbers), size):
            rows = np.arange(start, min(start + size, len(self.numbers)))
            yield dataclasses.replace(self._only(rows), numbers=self.numbers[rows])


def _numbers(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    said = f"{name} must be finite numbers of the shape {str(shape).replace('-1', 'N')}"
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(said) from None
    if not array.size:
        return array.reshape(0, *(1 if side < 0 else side for side in shape[1:]))
    if array.ndim == 2 and len(shape) == 3:
        array = array[:, None]  # one point of each object
    if array.ndim != len(shape) or array.shape[-1] != shape[-1] or not np.isfinite(array).all():
        raise ValueError(said)
    return array


def _labels(labels: Any, points: np.ndarray) -> np.ndarray:
    given = np.ones(points.shape[:2]) if labels is None else np.asarray(labels)
    if given.size != points.shape[0] * points.shape[1] or not np.isin(given, (0, 1)).all():
        raise ValueError(f"labels must be 1 or 0, one for each of {points.shape[0]} x {points.shape[1]} points")
    return given.reshape(points.shape[:2]).astype(np.int32)


class Found:
    """Collects masks, each encoded as it comes."""

    def __init__(self, height: int, width: int, dropped: dict[int, str]) -> None:
        self.height, self.width, self.dropped = height, width, dropped
        self.rows: list[tuple[str, tuple[float, ...], int, float, float, int]] = []

    def add(self, prompt: int, score: float, stability: float, mask: Tensor) -> None:
        """``mask``: bool (height, width); an empty one is dropped."""
        array = mask.cpu().numpy()
        area = int(np.count_nonzero(array))
        if area == 0:
            self.dropped[prompt] = EMPTY_MASK
            return
        self.rows.append((encode_mask(array), mask_box(array), area, score, stability, prompt))

    def segments(self) -> Segments:
        columns: Iterable[Any] = zip(*self.rows, strict=True) if self.rows else [()] * 6
        masks, boxes, areas, scores, stability, prompts = columns
        return Segments(
            height=self.height,
            width=self.width,
            masks=list(masks),
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            areas=np.array(areas, np.int64),
            scores=np.array(scores, np.float32),
            stability=np.array(stability, np.float32),
            prompts=np.array(prompts, np.int64),
            dropped=self.dropped,
        )
