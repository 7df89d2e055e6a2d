"""Images and their prompts -> rows of masks, by whichever network there is: SAM, SAM 2, FastSAM or YOLO ``-seg``."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask

from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import DetectorParams
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Entry
from cnn_core.images.reader import Imread, pixels
from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.inference.yolo_prompting import PromptMatcher
from cnn_core.segmentation.params import SegmenterParams
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from cnn_core.segmentation.prompts.table import ImagePrompts
from cnn_core.segmentation.sam.weights import family
from cnn_core.segmentation.segments import Segments

NO_MASK_THERE = "no mask in its place"  # of the masks that FastSAM or YOLO finds by itself
MAX_DET = 300  # masks an image, of those: Ultralytics' own value
_AHEAD = 2  # images decoded while another is segmented
ByImage = Mapping[str, ImagePrompts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMasks:
    """What was found in one image.

    Attributes:
        rows: of `annotations.OBJECTS` without the image, with area, stability, prompt_id and prompt_score.
        dropped: prompt_id -> why it has no mask.
    """

    height: int
    width: int
    rows: list[dict[str, Any]]
    dropped: dict[int, str]


class MaskPredictor(Protocol):
    """``names``: the network's own classes, where it has some."""

    family: Literal["sam", "sam2", "yolo"]
    name: str
    sha256: str
    names: dict[int, str] | None

    def stream(
        self, entries: Iterable[Entry], prompts: ByImage | None
    ) -> Iterator[tuple[Entry, np.ndarray | None, ImageMasks | BadImage]]:
        """Entries in order, each with its pixels (BGR) and what was found, or why not.

        Args:
            prompts: by image_id; None = everything.
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
    backend: Any = "auto",
) -> MaskPredictor:
    """
    Args:
        threads, cache, backend: of a YOLO network, as `Detector` takes them.
        batch: prompts, or images of a YOLO network, at a time; 0 = what suits.

    Raises:
        ValueError: the weights are missing, damaged, not to be trusted, or of another kind of network.
    """
    if family(weights) != "yolo":
        return SamPredictor(Segmenter(weights, params, device=device, settings=settings, batch=batch))
    wanted = DetectorParams(
        imgsz=params.imgsz,
        conf=params.conf,
        iou=params.everything.iou,
        max_det=MAX_DET,
        classes=(),
        agnostic_nms=False,
        half=params.half,
        int8=False,
    )
    options = {"device": device, "threads": threads, "cache": cache, "settings": settings, "batch": batch}
    return YoloPredictor(Detector(weights, wanted, backend=backend, **options), weights)  # type: ignore[arg-type]


class SamPredictor:
    """SAM and SAM 2: each image encoded once for all its prompts, while the next ones are decoded."""

    names = None

    def __init__(self, segmenter: Segmenter) -> None:
        from cnn_core.detection.inference.steps import reader  # imports Ultralytics: only after `quiet`

        self.segmenter, loaded = segmenter, segmenter.loaded
        self.family, self.name, self.sha256 = loaded.family, loaded.name, loaded.sha256
        self.imread = reader(3)

    def stream(
        self, entries: Iterable[Entry], prompts: ByImage | None
    ) -> Iterator[tuple[Entry, np.ndarray | None, ImageMasks | BadImage]]:
        for entry, image in decode_ahead(entries, self.imread):
            if isinstance(image, BadImage):
                yield entry, None, image
                continue
            try:
                answer = self._one(image, None if prompts is None else prompts.get(entry.image_id), prompts is None)
            except BadImage as fault:
                yield entry, None, fault
            else:
                yield entry, image, answer

    def _one(self, image: np.ndarray, prompts: ImagePrompts | None, everything: bool) -> ImageMasks:
        if everything:
            return _of_everything(self.segmenter.everything(self.segmenter.embed(image)))
        if prompts is None:
            return _nothing(image)
        embedding = self.segmenter.embed(image)
        return _of_prompts(image, prompts, lambda arrays: self.segmenter.masks(embedding, **arrays))


class YoloPredictor:
    """FastSAM and YOLO ``-seg``: they find their masks by themselves; a prompt chooses among these."""

    family: Literal["yolo"] = "yolo"

    def __init__(self, detector: Detector, weights: str | Path) -> None:
        about = detector.info
        if about.task != "segment":
            raise ValueError(f"{weights} finds boxes, no masks: name a -seg network, FastSAM, SAM or SAM 2")
        self.detector, self.choose = detector, PromptMatcher()
        self.names, self.sha256, self.name = about.names, about.sha256, Path(weights).stem

    def stream(
        self, entries: Iterable[Entry], prompts: ByImage | None
    ) -> Iterator[tuple[Entry, np.ndarray | None, ImageMasks | BadImage]]:
        for entry, image, found in self.detector.stream(entries):
            if image is None or isinstance(found, BadImage):
                assert isinstance(found, BadImage)
                yield entry, None, found
            else:
                own = None if prompts is None else prompts.get(entry.image_id)
                yield entry, image, self._one(image, found, own, prompts is None)

    def _one(self, image: np.ndarray, found: Detections, prompts: ImagePrompts | None, everything: bool) -> ImageMasks:
        if everything:
            about = [{"class_id": int(n), "class_name": self.names[int(n)]} for n in found.classes]
            return _of_everything(_segments(found), about)
        if prompts is None:
            return _nothing(image)
        return _of_prompts(image, prompts, lambda arrays: self._chosen(_segments(found), arrays))

    def _chosen(self, found: Segments, arrays: Mapping[str, np.ndarray]) -> Segments:
        given = [arrays.get(name) for name in ("boxes", "points", "labels")]
        prompts = CheckedPrompts.checked(*given, found.height, found.width)
        places = self.choose(found, prompts)
        numbers = [int(number) for number in prompts.numbers]
        good = [(number, place) for number, place in zip(numbers, places, strict=True) if place is not None]
        dropped = {number: NO_MASK_THERE for number, place in zip(numbers, places, strict=True) if place is None}
        chosen = [place for _, place in good]
        return dataclasses.replace(
            found,
            masks=[found.masks[place] for place in chosen],
            boxes=found.boxes[chosen].reshape(-1, 4),
            areas=found.areas[chosen],
            scores=found.scores[chosen],
            stability=found.stability[chosen],
            prompts=np.array([number for number, _ in good], np.int64),
            dropped={**prompts.dropped, **dropped},
        )


def decode_ahead(entries: Iterable[Entry], imread: Imread) -> Iterator[tuple[Entry, np.ndarray | BadImage]]:
    """Entries in order with their pixels, a few of them read ahead."""

    def read(entry: Entry) -> np.ndarray | BadImage:
        try:
            return pixels(entry, imread)
        except BadImage as fault:
            return fault

    source, waiting = iter(entries), deque[tuple[Entry, Future[Any]]]()
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
        while True:
            for entry in itertools.islice(source, _AHEAD - len(waiting)):
                waiting.append((entry, decoder.submit(read, entry)))
            if not waiting:
                return
            entry, future = waiting.popleft()
            yield entry, future.result()


def _segments(found: Detections) -> Segments:
    """What a detector found, with the boxes of the masks themselves."""
    runs = [{"size": [found.height, found.width], "counts": mask.encode("ascii")} for mask in found.masks or []]
    boxes = np.array([coco_mask.toBbox(run) for run in runs], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Segments(
        height=found.height,
        width=found.width,
        masks=list(found.masks or []),
        boxes=boxes,
        areas=np.array([coco_mask.area(run) for run in runs], np.int64),
        scores=found.scores.astype(np.float32),
        stability=np.full(len(runs), np.nan, np.float32),
        prompts=np.arange(len(runs)),
        dropped={},
    )


def _of_everything(found: Segments, about: list[dict[str, Any]] | None = None) -> ImageMasks:
    """A mask's prompt_id is its place: a point of the grid may have several masks."""
    rows = [{**row, **(about[place] if about else {}), "prompt_id": place} for place, row in enumerate(found.rows())]
    return _answer(found, rows, {})


def _of_prompts(image: np.ndarray, prompts: ImagePrompts, masks: Callable[[dict[str, Any]], Segments]) -> ImageMasks:
    rows: list[dict[str, Any]] = []
    dropped: dict[int, str] = {}
    for about, arrays in prompts.groups():
        found = masks(arrays)
        rows += found.rows(about)
        dropped |= {int(about[number]["prompt_id"]): reason for number, reason in found.dropped.items()}
    rows.sort(key=lambda row: row["prompt_id"])
    return _answer(image, rows, dict(sorted(dropped.items())))


def _nothing(image: np.ndarray) -> ImageMasks:
    return _answer(image, [], {})


def _answer(of: np.ndarray | Segments, rows: list[dict[str, Any]], dropped: dict[int, str]) -> ImageMasks:
    height, width = of.shape[:2] if isinstance(of, np.ndarray) else (of.height, of.width)
    rows = [{"prompt_score": float("nan"), **row} for row in rows]
    return ImageMasks(height=height, width=width, rows=rows, dropped=dropped)
