"""Detect as Ultralytics does for one image at a time, but in batches.

The reference is `YOLO(weights).predict(file)`: its reader, its rectangular letterbox, its
non-maximum suppression and its scaling back are used. Only images whose letterboxed shapes are
equal share a batch, so a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnn_core.annotations.masks import encode_mask
from cnn_core.detection.inference.engines import UNKNOWN_SIDE, open_engine
from cnn_core.detection.inference.ordered import Decoded, Result, in_order
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import Backend, DetectorParams
from cnn_core.detection.yolo import quiet
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Entry
from cnn_core.images.reader import pixels

OTHER_CHANNELS = "other channels"


class Detector:
    """A detector that is loaded once and called many times.

    If its backend needs an export of the weights, it is made when the detector is.

    Args:
        weights: a model folder, an Ultralytics ``.pt``, or an exported engine.
        threads: on a CPU, decoding and the network share them.
        cache: folder of exported engines (`cnn_core.detection.inference.exports`).
        settings: folder for Ultralytics' own settings.
        batch: images of a forward pass; 0 = what suits the engine.
        calibration: gives the images (BGR) that int8 is calibrated with.

    Raises:
        ValueError: as `engines.open_engine`; or the network does not know one of ``params.classes``.

    Examples:
        >>> import cv2
        >>> import torch
        >>> from cnn_core.detection.inference.detector import Detector
        >>> from cnn_core.detection.params import DetectorParams
        >>> params = DetectorParams(
        ...     imgsz=0, conf=0.25, iou=0.7, max_det=300, classes=(), agnostic_nms=False, half="auto", int8=False
        ... )
        >>> options = {"device": torch.device("cpu"), "threads": 2, "cache": "engines", "settings": "settings"}
        >>> detector = Detector("data/models/detector", params, backend="torch", **options)
        >>> [detections] = detector([cv2.imread("photo.jpg")])
        >>> (detections.height, detections.width)
        (480, 640)
        >>> detections.boxes.shape == (len(detections.scores), 4)
        True
        >>> names = [detector.info.names[number] for number in detections.classes]
    """

    def __init__(
        self,
        weights: str | Path,
        params: DetectorParams,
        *,
        backend: Backend,
        device: torch.device,
        threads: int,
        cache: str | Path,
        settings: str | Path,
        batch: int = 0,
        calibration: Callable[[], Iterable[np.ndarray]] | None = None,
    ) -> None:
        quiet(settings)
        from cnn_core.detection.inference import steps  # imports Ultralytics: only after `quiet`

        self._steps = steps
        self.params, self.threads = params, max(1, threads)
        half = params.half is True or (params.half == "auto" and device.type == "cuda")
        self.engine = open_engine(
            weights,
            backend=backend,
            precision="int8" if params.int8 else "half" if half else "float32",
            device=device,
            threads=self.threads,
            cache=cache,
            imgsz=params.imgsz,
            calibration=None if calibration is None else lambda side: steps.squares(list(calibration()), side),
        )
        self.info = self.engine.info
        self.batch = batch or self.engine.batch
        if unknown := [number for number in params.classes if number not in self.info.names]:
            raise ValueError(f"classes has {unknown[0]}, but {weights} knows 0 to {len(self.info.names) - 1}")
        self._letterbox = steps.letterbox(self.info, params.imgsz or self.info.imgsz or UNKNOWN_SIDE)
        self._imread = steps.reader(self.info.channels)
        if self.engine.streams > 1:
            torch.set_num_threads(1)  # each stream suppresses its own boxes; a core is all that it has

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detect in images of any sizes, uint8 (H, W, C) BGR each; a ValueError for one of other channels."""
        entries = (
            Entry(image_id=str(number), file="", number=number, content=image) for number, image in enumerate(images)
        )
        results = []
        for entry, _, detections in self.stream(entries):
            if not isinstance(detections, Detections):
                raise ValueError(f"image {entry.number}: {detections}")
            results.append(detections)
        return results

    def stream(self, entries: Iterable[Entry]) -> Iterator[Result]:
        """Yield the entries in order, each with pixels and detections, or None and why it is bad.

        Decoding runs beside the network and ahead of it; few images are in memory at a time.
        """
        return in_order(
            entries, self._decode, self._run, batch=self.batch, threads=self.threads, streams=self.engine.streams
        )

    def _decode(self, entry: Entry) -> Decoded:
        image = pixels(entry, self._imread)
        channels = image.shape[2] if image.ndim == 3 else 1
        if channels != self.info.channels:
            raise BadImage(
                OTHER_CHANNELS, f"the image has {channels} channels, and the network takes {self.info.channels}"
            )
        return Decoded(image, self._letterbox(image))

    @torch.inference_mode()
    def _run(self, batch: list[Decoded]) -> list[Detections]:
        inputs = [letterboxed for _, letterboxed in batch]
        raw, protos = self.engine(np.stack(inputs) if len(inputs) > 1 else inputs[0][None])
        rows = self._steps.suppress(raw, self.params, self.info)
        masks = protos if protos is not None else [None] * len(rows)
        return [self._detections(*each) for each in zip(rows, masks, batch, strict=True)]

    def _detections(self, rows: Tensor, protos: Tensor | None, decoded: Decoded) -> Detections:
        height, width = decoded.letterboxed.shape[:2]
        table, masks = self._steps.in_original(rows, protos, (height, width), decoded.image.shape)
        return Detections(
            height=decoded.image.shape[0],
            width=decoded.image.shape[1],
            boxes=table[:, :4],
            scores=table[:, 4],
            classes=table[:, 5].astype(np.int64),
            masks=None if masks is None else [encode_mask(mask) for mask in masks],
        )
