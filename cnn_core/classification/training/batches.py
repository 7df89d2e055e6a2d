"""The batches of an epoch: which images each has, the same on every rank, and how they reach the training device."""

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

RESIDENT_SHARE = 0.5  # of a GPU's free memory that the images of one split may take; the rest is for the network
AHEAD = 3  # batches made ready during the step of an earlier one, where images come from the host to a GPU

# uint8 (n, C, H, W) and labels, int64 (n,) or uint8 (n, K), of this rank, on the training device, and how many images
# the global batch has
RankBatch = tuple[Tensor, Tensor, int]


class Feed(Protocol):
    """A source of training images: `Split`, or anything else that yields the batches of an epoch, such as a stream."""

    def __len__(self) -> int: ...

    def epoch(
        self, *, draws: int, batch_size: int, seed: int, epoch: int, rank: int, world: int, device: torch.device
    ) -> Iterator[RankBatch]:
        """Yield the rank's share of each global batch of an epoch (from 0); every rank has as many batches."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,), on the training device or, without room there, on the host.

    Where an image may have several labels of K, they are zeros and ones, uint8 (N, K).
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray, device: torch.device) -> Split:
        """Put the images on a GPU that has room for them, else leave them on the host.

        Memory-mapped arrays stay on disk then, and the workers of one machine share what they read of them.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of read-only arrays; nothing here writes to them
            pixels = torch.from_numpy(images)
        classes = torch.from_numpy(np.array(labels, dtype=np.int64 if labels.ndim == 1 else np.uint8))
        if device.type == "cuda" and pixels.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            return cls(images=pixels.to(device), labels=classes.to(device))
        return cls(images=pixels, labels=classes)

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, *others: Split) -> Split:
        splits = [self, *others]
        return Split(images=torch.cat([s.images for s in splits]), labels=torch.cat([s.labels for s in splits]))

    def take(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        indices = indices.to(self.images.device)
        images, labels = self.images[indices], self.labels[indices]
        if images.device == device:
            return images, labels
        if device.type == "cuda":  # pinned memory, so that the copy runs during the step
            return images.pin_memory().to(device, non_blocking=True), labels.pin_memory().to(device, non_blocking=True)
        return images.to(device), labels.to(device)

    def parts(
        self, size: int, device: torch.device, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's images in blocks of ``size``. Over all ranks, each image comes exactly once."""
        indices = torch.arange(rank, len(self), world)
        yield from self._loaded(indices.split(size), lambda part: self.take(part, device), device)

    def epoch(
        self, *, draws: int, batch_size: int, seed: int, epoch: int, rank: int, world: int, device: torch.device
    ) -> Iterator[RankBatch]:
        """Yield the rank's share of each global batch, as `Feed` says.

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
        return map(load, batches)  # the images are where they are used: there is nothing to wait for


def ahead(load: Callable[[Tensor], T], batches: Iterable[Tensor]) -> Iterator[T]:
    """Yield ``map(load, batches)``, computed by a thread that runs up to `AHEAD` results ahead of the consumer."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        queue: deque[Future[T]] = deque()
        try:
            for batch in batches:
                queue.append(thread.submit(load, batch))
                if len(queue) > AHEAD:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()


def epoch_batches(*, count: int, draws: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The image indices of each global batch of an epoch (from 0), identical on every rank.

    The epochs read on through an endless sequence of permutations of the ``count`` images, ``draws`` at a time (0 =
    ``count``), so every image comes equally often. The batches of an epoch differ by one image at most: none is a small
    remainder, to which batch norm would give as much weight as to a full batch.
    """
    draws = draws or count
    first, last = epoch * draws, (epoch + 1) * draws
    rounds = range(first // count, math.ceil(last / count))
    cpu = torch.device("cpu")
    order = torch.cat([torch.randperm(count, generator=generator(cpu, seed, "order", r)) for r in rounds])
    indices = order[first - rounds.start * count :][:draws]
    return list(torch.tensor_split(indices, steps_per_epoch(draws, batch_size)))


def steps_per_epoch(draws: int, batch_size: int) -> int:
    return math.ceil(draws / batch_size)
