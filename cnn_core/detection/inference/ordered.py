"""Decode ahead, batch by shape, run beside, and give the results in order."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from cnn_core.detection.inference.results import Detections
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Entry

T = TypeVar("T")
Result = tuple[Entry, np.ndarray | None, Detections | BadImage]
_READ_AHEAD = 2  # batches
_PRESSED = 4  # times what is read ahead: so many may wait for one whose shape is rare


class Decoded(NamedTuple):
    """An image, uint8 (H, W, C) BGR, and the same letterboxed for the network."""

    image: np.ndarray
    letterboxed: np.ndarray


def in_order(
    entries: Iterable[Entry],
    decode: Callable[[Entry], Decoded],
    run: Callable[[list[Decoded]], list[Detections]],
    *,
    batch: int,
    threads: int,
    streams: int,
) -> Iterator[Result]:
    """Detect in batches of one letterboxed shape, and yield the entries in their order.

    A batch starts as soon as it is full. An entry waits for earlier ones only so that the order is
    kept, and few entries are in memory at a time.

    Args:
        decode: called in ``threads`` threads; may raise `BadImage`.
        run: called in ``streams`` threads, with at most ``batch`` images of one letterboxed shape.
    """
    ahead = _READ_AHEAD * batch * streams + threads
    waiting: deque[_Slot] = deque()
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="decode") as decoders,
        ThreadPoolExecutor(streams, thread_name_prefix="detect") as runners,
    ):
        batches = _Batches(batch, run, runners)
        for entry, decoded in decoded_ahead(entries, decode, decoders, ahead):
            slot = _Slot(entry)
            waiting.append(slot)
            if isinstance(decoded, BadImage):
                slot.error = decoded
            else:
                slot.image = decoded.image
                batches.add(slot, decoded)
            while waiting and batches.is_ready(waiting[0], pressed=len(waiting) > _PRESSED * ahead):
                yield waiting.popleft().result()
        batches.start_all()
        while waiting:
            yield waiting.popleft().result()


def decoded_ahead(
    entries: Iterable[Entry], decode: Callable[[Entry], T], decoders: Executor, ahead: int
) -> Iterator[tuple[Entry, T | BadImage]]:
    """Each entry with its pixels or why it has none; ``ahead`` entries are decoded at a time."""
    source = iter(entries)
    decoding: deque[tuple[Entry, Future[T]]] = deque()
    while True:
        for entry in itertools.islice(source, ahead - len(decoding)):
            decoding.append((entry, decoders.submit(decode, entry)))
        if not decoding:
            return
        entry, future = decoding.popleft()
        try:
            yield entry, future.result()
        except BadImage as error:
            yield entry, error


@dataclasses.dataclass
class _Slot:
    """One entry on its way: its batch is not full, runs, or has run."""

    entry: Entry
    image: np.ndarray | None = None
    error: BadImage | None = None
    shape: tuple[int, ...] = ()  # letterboxed
    running: Future[list[Detections]] | None = None
    index: int = 0  # in its batch

    def result(self) -> Result:
        if self.error is not None:
            return self.entry, None, self.error
        assert self.running is not None
        return self.entry, self.image, self.running.result()[self.index]


class _Batches:
    """Images that wait for others of their letterboxed shape."""

    def __init__(self, size: int, run: Callable[[list[Decoded]], list[Detections]], runners: Executor) -> None:
        self.size, self._run, self._runners = size, run, runners
        self._by_shape: dict[tuple[int, ...], list[tuple[_Slot, Decoded]]] = {}

    def add(self, slot: _Slot, decoded: Decoded) -> None:
        slot.shape = decoded.letterboxed.shape
        batch = self._by_shape.setdefault(slot.shape, [])
        batch.append((slot, decoded))
        if len(batch) == self.size:
            self._start(slot.shape)

    def is_ready(self, slot: _Slot, *, pressed: bool) -> bool:
        """Whether to take the slot's result now: it is there, or too many slots wait behind it."""
        if slot.error is not None:
            return True
        if slot.running is None:
            if not pressed:
                return False
            self._start(slot.shape)
        assert slot.running is not None
        return slot.running.done() or pressed

    def start_all(self) -> None:
        for shape in list(self._by_shape):
            self._start(shape)

    def _start(self, shape: tuple[int, ...]) -> None:
        batch = self._by_shape.pop(shape)
        running = self._runners.submit(self._run, [decoded for _, decoded in batch])
        for index, (slot, _) in enumerate(batch):
            slot.running, slot.index = running, index
