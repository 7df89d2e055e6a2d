"""Images and their prompts -> rows of masks, by any of the networks: SAM, SAM 2, FastSAM or YOLO ``-seg``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask

from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.inference.ordered import decoded_ahead
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import Backend, DetectorParams
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Entry
from cnn_core.images.reader import pixels
from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.inference.yolo_prompting import PromptMatcher
from cnn_core.segmentation.params import SegmenterParams
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from cnn_core.segmentation.prompts.table import ImagePrompts
from cnn_core.segmentation.sam.weights import Family, family
from cnn_core.segmentation.segments import Segments

NO_MASK_THERE = "no mask in its place"  # among the masks that FastSAM or YOLO finds by itself
MAX_DET = 300  # of these masks, at most so many an image: Ultralytics' own value
_AHEAD = 2  # images decoded while another is segmented
PromptsByImage = Mapping[str, ImagePrompts]  # by image_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMasks:
    """The masks of one image."""

    height: int
    width: int
    rows: list[dict[str, Any]]  # of `annotations.OBJECTS`, with area, stability, prompt_id and prompt_score
    dropped: dict[int, str]  # prompt_id -> why it has no mask


Result = tuple[Entry, np.ndarray | None, ImageMasks | BadImage]


class MaskPredictor(Protocol):
    """A network that segments a stream of images."""

    family: Family
    name: str  # such as sam2.1_t
    sha256: str  # of its file
    names: dict[int, str] | None  # its own classes by number

    def stream(self, entries: Iterable[Entry], prompts: PromptsByImage | None) -> Iterator[Result]:
        """Yield the entries in order, each with its pixels (BGR) and its masks, or with None and why it is bad.

        Without ``prompts`` everything is segmented.
        """


def open_mask_predictor(
    weights: str | Path,
    params: SegmenterParams,
    *,
    device: torch.device,
    threads: int,
    cache: str | Path,
    settings: str | Path,
    batch: int = 0,
    backend: Backend = "auto",
) -> MaskPredictor:
    """Load the network of a weights file or model folder.

    Args:
        threads, cache, backend: used for a YOLO network alone.
        batch: prompts, or images of a YOLO network, at a time; 0 = what suits the device.

    Raises:
        ValueError: the weights are missing, damaged, not to be trusted, or of another kind of network.
    """
    if family(weights) != "yolo":
        return SamPredictor(Segmenter(weights, params, device=device, settings=settings, batch=batch))
    detector_params = DetectorParams(
        imgsz=params.imgsz,
        conf=params.conf,
        iou=params.everything.iou,
        max_det=MAX_DET,
        classes=(),
        agnostic_nms=False,
        half=params.half,
        int8=False,
    )
    detector = Detector(
        weights,
        detector_params,
        backend=backend,
        device=device,
        threads=threads,
        cache=cache,
        settings=settings,
        batch=batch,
    )
    return YoloPredictor(detector, weights)


class SamPredictor:
    """Segments by SAM or SAM 2: each image is encoded once for all its prompts, while the next ones are decoded."""

    family: Family
    names: dict[int, str] | None = None

    def __init__(self, segmenter: Segmenter) -> None:
        from cnn_core.detection.inference.steps import reader  # imports Ultralytics: only after `quiet`

        self.segmenter, loaded = segmenter, segmenter.loaded
        self.family, self.name, self.sha256 = loaded.family, loaded.name, loaded.sha256
        self.imread = reader(3)

    def stream(self, entries: Iterable[Entry], prompts: PromptsByImage | None) -> Iterator[Result]:
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
            for entry, image in decoded_ahead(entries, lambda entry: pixels(entry, self.imread), decoder, _AHEAD):
                if isinstance(image, BadImage):
                    yield entry, None, image
                    continue
                try:
                    if prompts is None:
                        masks = _everything_masks(self.segmenter.everything(self.segmenter.embed(image)))
                    else:
                        masks = self._prompted(image, prompts.get(entry.image_id))
                except BadImage as fault:
                    yield entry, None, fault
                else:
                    yield entry, image, masks

    def _prompted(self, image: np.ndarray, prompts: ImagePrompts | None) -> ImageMasks:
        if prompts is None:
            return _image_masks(image.shape, [], {})
        embedding = self.segmenter.embed(image)
        return _prompted_masks(image, prompts, lambda arrays: self.segmenter.masks(embedding, **arrays))


class YoloPredictor:
    """Segments by FastSAM or YOLO ``-seg``: the network finds masks by itself, and a prompt chooses among them."""

    family: Family = "yolo"
    names: dict[int, str] | None

    def __init__(self, detector: Detector, weights: str | Path) -> None:
        if detector.info.task != "segment":
            raise ValueError(f"{weights} finds boxes, but no masks: name a -seg network, FastSAM, SAM or SAM 2")
        self.detector, self.match = detector, PromptMatcher()
        self.names, self.sha256, self.name = detector.info.names, detector.info.sha256, Path(weights).stem

    def stream(self, entries: Iterable[Entry], prompts: PromptsByImage | None) -> Iterator[Result]:
        for entry, image, detections in self.detector.stream(entries):
            if image is None or isinstance(detections, BadImage):
                assert isinstance(detections, BadImage)
                yield entry, None, detections
            elif prompts is None:
                columns = [
                    {"class_id": int(n), "class_name": self.detector.info.names[int(n)]} for n in detections.classes
                ]
                yield entry, image, _everything_masks(_segments(detections), columns)
            else:
                yield entry, image, self._prompted(image, detections, prompts.get(entry.image_id))

    def _prompted(self, image: np.ndarray, detections: Detections, prompts: ImagePrompts | None) -> ImageMasks:
        if prompts is None:
            return _image_masks(image.shape, [], {})
        return _prompted_masks(image, prompts, lambda arrays: self._chosen(_segments(detections), arrays))

    def _chosen(self, segments: Segments, arrays: Mapping[str, np.ndarray]) -> Segments:
        boxes, points, labels = (arrays.get(name) for name in ("boxes", "points", "labels"))
        prompts = CheckedPrompts.checked(boxes, points, labels, segments.height, segments.width)
        answers = dict(zip(map(int, prompts.numbers), self.match(segments, prompts), strict=True))
        dropped = prompts.dropped | {number: NO_MASK_THERE for number, index in answers.items() if index is None}
        numbers = [number for number in answers if number not in dropped]
        indices = [index for index in answers.values() if index is not None]
        return dataclasses.replace(
            segments,
            masks=[segments.masks[index] for index in indices],
            boxes=segments.boxes[indices].reshape(-1, 4),
            areas=segments.areas[indices],
            scores=segments.scores[indices],
            stability=segments.stability[indices],
            prompts=np.array(numbers, np.int64),
            dropped=dropped,
        )


def _segments(detections: Detections) -> Segments:
    """A detector's masks, with the tight boxes of the masks themselves."""
    masks = list(detections.masks or [])
    runs = [{"size": [detections.height, detections.width], "counts": mask.encode("ascii")} for mask in masks]
    boxes = np.array([coco_mask.toBbox(run) for run in runs], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Segments(
        height=detections.height,
        width=detections.width,
        masks=masks,
        boxes=boxes,
        areas=np.array([coco_mask.area(run) for run in runs], np.int64),
        scores=detections.scores.astype(np.float32),
        stability=np.full(len(runs), np.nan, np.float32),
        prompts=np.arange(len(runs)),
        dropped={},
    )


def _everything_masks(segments: Segments, columns: Sequence[Mapping[str, Any]] | None = None) -> ImageMasks:
    """A mask's prompt_id is its index, as one point of the grid may have several masks."""
    rows = [
        {**row, **(columns[index] if columns else {}), "prompt_id": index} for index, row in enumerate(segments.rows())
    ]
    return _image_masks((segments.height, segments.width), rows, {})


def _prompted_masks(
    image: np.ndarray, prompts: ImagePrompts, segment: Callable[[dict[str, Any]], Segments]
) -> ImageMasks:
    rows: list[dict[str, Any]] = []
    dropped: dict[int, str] = {}
    for columns, arrays in prompts.groups():
        segments = segment(arrays)
        rows += segments.rows(columns)
        dropped |= {int(columns[number]["prompt_id"]): reason for number, reason in segments.dropped.items()}
    rows.sort(key=lambda row: row["prompt_id"])
    return _image_masks(image.shape, rows, dict(sorted(dropped.items())))


def _image_masks(shape: tuple[int, ...], rows: list[dict[str, Any]], dropped: dict[int, str]) -> ImageMasks:
    height, width = shape[:2]
    rows = [{"prompt_score": float("nan"), **row} for row in rows]
    return ImageMasks(height=height, width=width, rows=rows, dropped=dropped)
