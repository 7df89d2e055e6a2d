"""Which images go into which batch, the same on every rank, and what the ranks add up among themselves."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from cnn_core.distributed import share
from cnn_core.seeds import generator

T = TypeVar("T")

RESIDENT_SHARE = 0.5  # of a GPU's free memory that the images of one split may take; the rest is the network's
AHEAD = 3  # batches made ready while an earlier one is computed with, where images come from the host to a GPU

# uint8 (n, C, H, W) and int64 (n,) of this rank, on the training device, and how many images the global batch has
RankBatch = tuple[Tensor, Tensor, int]


class Feed(Protocol):
    """Where training images come from: `Split`, or anything else that hands out an epoch's batches, e.g. a stream."""

    def __len__(self) -> int: ...

    def epoch(
        self, *, draws: int, batch_size: int, seed: int, epoch: int, rank: int, world: int, device: torch.device
    ) -> Iterator[RankBatch]:
        """The rank's share of each global batch of an epoch (from 0); on every rank the same number of batches."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,), on one device: the one that trains, or in the host's memory
    (memory-mapped files included) where that device has no room for them."""

    images: Tensor
    labels: Tensor

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray, device: torch.device) -> Split:
        """Resident on a GPU that has room for them, else in the host's memory: memory-mapped arrays stay on disk, and
        what the workers of one machine read of them they share."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only: nothing here writes to them
            pixels = torch.from_numpy(images)
        classes = torch.from_numpy(np.array(labels, dtype=np.int64))
        if device.type == "cuda" and pixels.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            return cls(images=pixels.to(device), labels=classes.to(device))
        return cls(images=pixels, labels=classes)

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, *others: Split) -> Split:
        every = [self, *others]
        return Split(images=torch.cat([s.images for s in every]), labels=torch.cat([s.labels for s in every]))

    def take(self, numbers: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """The images and labels of these numbers, on ``device``."""
        numbers = numbers.to(self.images.device)
        images, labels = self.images[numbers], self.labels[numbers]
        if images.device == device:
            return images, labels
        if device.type == "cuda":  # pinned memory, so that the copy runs beside the computing
            return images.pin_memory().to(device, non_blocking=True), labels.pin_memory().to(device, non_blocking=True)
        return images.to(device), labels.to(device)

    def parts(
        self, size: int, device: torch.device, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's images once each, in blocks: over all ranks each image exactly once, whatever their number."""
        mine = torch.arange(rank, len(self), world)
        yield from self._loaded(mine.split(size), lambda part: self.take(part, device), device)

    def epoch(
        self, *, draws: int, batch_size: int, seed: int, epoch: int, rank: int, world: int, device: torch.device
    ) -> Iterator[RankBatch]:
        """See `Feed`.

        Raises:
            ValueError: a batch has fewer images than there are ranks.
        """
        batches = epoch_batches(count=len(self), draws=draws, batch_size=batch_size, seed=seed, epoch=epoch)
        if len(batches[-1]) < world:
            raise ValueError(
                f"batches of {len(batches[-1])} images cannot be shared by {world} workers; lower num_workers"
            )

        def load(batch: Tensor) -> RankBatch:
            return *self.take(share(batch, rank, world), device), len(batch)

        yield from self._loaded(batches, load, device)

    def _loaded(self, batches: Iterable[Tensor], load: Callable[[Tensor], T], device: torch.device) -> Iterator[T]:
        if device.type == "cuda" and self.images.device.type != "cuda":
            return ahead(load, batches)
        return map(load, batches)  # where the images are on the spot there is nothing to wait for


def ahead(load: Callable[[Tensor], T], batches: Iterable[Tensor]) -> Iterator[T]:
    """``map(load, batches)``, done by a thread that is up to `AHEAD` results in front of who takes them."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        waiting: deque[Future[T]] = deque()
        try:
            for batch in batches:
                waiting.append(thread.submit(load, batch))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def epoch_batches(*, count: int, draws: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The image numbers of each global batch of an epoch (from 0), identical on every rank.

    The epochs read on through an endless row of permutations of the ``count`` images, ``draws`` at a time (0 = all), so
    every image comes equally often. The batches of an epoch differ by one image at most: none is a small remainder,
    which batch norm would take as seriously as a whole one.
    """
    draws = draws or count
    first, last = epoch * draws, (epoch + 1) * draws
    rounds = range(first // count, math.ceil(last / count))
    row = torch.cat([torch.randperm(count, generator=generator(torch.device("cpu"), seed, "order", r)) for r in rounds])
    drawn = row[first - rounds.start * count :][:draws]
    return list(torch.tensor_split(drawn, steps_per_epoch(draws, batch_size)))


def steps_per_epoch(draws: int, batch_size: int) -> int:
    return math.ceil(draws / batch_size)
