"""Images -> boxes, classes, scores and masks, as Ultralytics gives them for one image at a time, but in batches.

The reference is `YOLO(weights).predict(file)`: its reader, its rectangular letterbox, its non-maximum suppression and
its scaling back are used. Only images whose letterboxed shapes are equal share a batch, so a batch changes nothing.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnn_core.annotations.masks import encode_mask
from cnn_core.detection.inference.engines import UNKNOWN_SIDE, Backend, open_engine
from cnn_core.detection.inference.exports import Calibration
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import DetectorParams
from cnn_core.detection.yolo import quiet
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Entry
from cnn_core.images.reader import pixels

_READ_AHEAD = 2  # batches


class Detector:
    """``Detector(weights, params, ...)(images)``. Loads, and exports where need be, when it is made.

    Args:
        device, threads: what it may use; on a CPU the threads are shared by decoding and the network.
        cache: folder of exported engines (`cnn_core.detection.inference.engines`).
        settings: folder for Ultralytics' own settings.
        batch: images of a forward pass; 0 = what suits the engine.
        calibration: for int8, gives images (BGR).

    Raises:
        ValueError: as `engines.open_engine`; or a class asked for is not one of the network's.
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
        from cnn_core.detection.inference import steps

        self.steps = steps
        self.params, self.threads = params, max(1, threads)
        wanted = params.half is True or (params.half == "auto" and device.type == "cuda")
        self.engine = open_engine(
            weights,
            backend=backend,
            precision="int8" if params.int8 else "half" if wanted else "float32",
            device=device,
            threads=self.threads,
            cache=cache,
            imgsz=params.imgsz,
            calibration=self._calibration(calibration),
        )
        info = self.info = self.engine.info
        self.batch = batch or self.engine.batch
        if unknown := [number for number in params.classes if number not in info.names]:
            raise ValueError(f"classes has {unknown[0]}, but {weights} knows 0 to {len(info.names) - 1}")
        self.letterbox = steps.letterbox(info, params.imgsz or info.imgsz or UNKNOWN_SIDE)
        self.imread = steps.reader(info.channels)
        if self.engine.streams > 1:
            torch.set_num_threads(1)  # each stream suppresses its own boxes; a core is all that it has

    def _calibration(self, images: Callable[[], Iterable[np.ndarray]] | None) -> Calibration | None:
        return None if images is None else lambda side: self.steps.squares(list(images()), side)

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """uint8 (H, W, C) BGR each, of any sizes."""
        entries = (
            Entry(image_id=str(number), file="", number=number, content=image) for number, image in enumerate(images)
        )
        return [found for _, _, found in self.stream(entries) if isinstance(found, Detections)]

    def stream(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, np.ndarray | None, Detections | BadImage]]:
        """Entries in order, each with its pixels and what was found, or why not. Few are in memory at a time.

        Decoding runs beside the network, and ahead of it; a batch starts as soon as it is full, so the entries wait
        for each other only in order to be given in order.
        """
        ahead = _READ_AHEAD * self.batch * self.engine.streams + self.threads
        waiting: deque[_Slot] = deque()  # all that is decoded or being detected, in order
        groups: Groups = {}
        with (
            ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as decoders,
            ThreadPoolExecutor(self.engine.streams, thread_name_prefix="detect") as runners,
        ):
            source = iter(entries)
            decoding: deque[_Slot] = deque()
            while True:
                for entry in itertools.islice(source, ahead - len(decoding)):
                    decoding.append(_Slot(entry, decoders.submit(self._decode, entry)))
                if not decoding:
                    break
                slot = decoding.popleft()
                waiting.append(slot)
                self._place(slot, groups, runners)
                while waiting and waiting[0].ready(len(waiting) > 4 * ahead, groups, self, runners):
                    yield waiting.popleft().taken()
            for group in groups.values():
                self._start(group, runners)
            while waiting:
                yield waiting.popleft().taken()

    def _decode(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        image = pixels(entry, self.imread)
        return image, self.letterbox(image)

    def _place(self, slot: _Slot, groups: Groups, runners: ThreadPoolExecutor) -> None:
        if not slot.decode():
            return
        assert slot.boxed is not None
        group = groups.setdefault(slot.boxed.shape, [])
        group.append(slot)
        if len(group) == self.batch:
            self._start(groups.pop(slot.boxed.shape), runners)

    def _start(self, group: list[_Slot], runners: ThreadPoolExecutor) -> None:
        assert all(slot.boxed is not None and slot.image is not None for slot in group)
        result = runners.submit(self._run, [slot.boxed for slot in group], [slot.image for slot in group])
        for number, slot in enumerate(group):
            slot.result, slot.place, slot.boxed = result, number, None

    @torch.inference_mode()
    def _run(self, boxed: list[np.ndarray], images: list[np.ndarray]) -> list[Detections]:
        raw, protos = self.engine(np.stack(boxed) if len(boxed) > 1 else boxed[0][None])
        kept = self.steps.suppress(raw, self.params, self.info)
        each = protos if protos is not None else [None] * len(kept)
        return [self._found(*one, boxed[0].shape[:2]) for one in zip(kept, each, images, strict=True)]

    def _found(self, rows: torch.Tensor, protos: Any, image: np.ndarray, shape: tuple[int, int]) -> Detections:
        table, masks = self.steps.in_original(rows, protos, shape, image.shape)
        return Detections(
            height=image.shape[0],
            width=image.shape[1],
            boxes=table[:, :4],
            scores=table[:, 4],
            classes=table[:, 5].astype(np.int64),
            masks=None if masks is None else [encode_mask(mask) for mask in masks],
        )


class _Slot:
    """One entry on its way: decoded, in a group that waits to be full, in a batch that runs."""

    def __init__(self, entry: Entry, decoded: Future[tuple[np.ndarray, np.ndarray]]) -> None:
        self.entry, self.decoded = entry, decoded
        self.image: np.ndarray | None = None
        self.boxed: np.ndarray | None = None
        self.fault: BadImage | None = None
        self.result: Future[list[Detections]] | None = None
        self.place = 0

    def decode(self) -> bool:
        """Wait for the pixels; False when the image is a bad one."""
        try:
            self.image, self.boxed = self.decoded.result()
        except BadImage as fault:
            self.fault = fault
        return self.fault is None

    def ready(
        self, pressed: bool, groups: dict[tuple[int, ...], list[_Slot]], detector: Detector, runners: Any
    ) -> bool:
        """Whether it can be given now. When too many wait for the first, whose shape is rare, its batch starts."""
        if self.fault is not None:
            return True
        if self.result is None:
            if not pressed:
                return False
            assert self.boxed is not None
            detector._start(groups.pop(self.boxed.shape), runners)
        assert self.result is not None
        return self.result.done() or pressed

    def taken(self) -> tuple[Entry, np.ndarray | None, Detections | BadImage]:
        if self.fault is not None:
            return self.entry, None, self.fault
        assert self.result is not None
        return self.entry, self.image, self.result.result()[self.place]


Groups = dict[tuple[int, ...], list[_Slot]]  # by letterboxed shape, each less than a batch
