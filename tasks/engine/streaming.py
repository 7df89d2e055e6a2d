"""Training images that do not fit into memory: Ray Data reads them by blocks of rows, ahead of the training.

Which rows a rank gets follows from the seed, the epoch, the rank and the world size alone. So an interrupted run
continues with the right rows, and an epoch that draws each image once has each exactly once.

    driver    datasets(folder)         -> TorchTrainer(datasets=...)
    worker    Stream.of(name, folder)  -> a `Feed` for the training loop, from ray.train.get_dataset_shard

Ray Data plans an epoch anew each time it is iterated over, and calls `Rows.get_read_tasks` for it. The requested rows
go there through the data set's own `DataContext`. The module imports Ray, so it is imported where it is needed only.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray.data
import torch
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from torch import Tensor

from cnn_core.classification.training.batches import RankBatch, steps_per_epoch
from cnn_core.data.augmented import SPLITS, read_dataset
from cnn_core.seeds import generator, mixed_seed

if TYPE_CHECKING:
    from ray.data import DataContext, DataIterator

Span = tuple[str, int, int]  # split, first row, row after the last

BLOCK_BYTES = 4 * 2**20  # read at a time, at most
# The order of the blocks is half of the shuffling, so there are at least so many. The other half is a random draw from
# a buffer of so many bytes on each rank.
FEWEST_BLOCKS = 64
SHUFFLED_BYTES = 64 * 2**20
READERS = 2  # reading tasks of each rank at the same time
READER_CPUS = 0.05
POSITIONS = "gridflow_positions"  # key of an epoch's (seed, first position, position after the last)
TRAIN, ALL_SPLITS = ("train",), SPLITS


def datasets(folder: str | Path, *, refit: bool) -> dict[str, ray.data.Dataset]:
    """Return the trainer's data sets without reading them: ``train``, and for a second fit ``refit``, all images."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # blocks come as they were asked for, not as they were read
    splits_of = {"train": TRAIN, **({"refit": ALL_SPLITS} if refit else {})}
    return {
        name: ray.data.read_datasource(Rows(folder, splits), num_cpus=READER_CPUS, concurrency=READERS)
        for name, splits in splits_of.items()
    }


class Rows(Datasource):
    """The rows of some splits of an AUGMENTED set, read by blocks: ``image`` uint8 (C, H, W), ``label`` int64.

    It reads the positions at the key `POSITIONS` of an endless sequence of passes, each of which has every block once,
    in an order of its own. Without that key it reads every row once, in the order of the files.
    """

    def __init__(self, folder: str | Path, splits: Iterable[str]) -> None:
        super().__init__()
        dataset = read_dataset(folder)
        self.folder, self.image_bytes = str(folder), math.prod(dataset["shape"])
        counts = {split: dataset["counts"][split] for split in splits}
        self.count = sum(counts.values())
        rows = max(1, min(BLOCK_BYTES // self.image_bytes, math.ceil(self.count / FEWEST_BLOCKS)))
        self.blocks: list[Span] = [
            (split, start, min(start + rows, count))
            for split, count in counts.items()
            for start in range(0, count, rows)
        ]

    def estimate_inmemory_data_size(self) -> int:
        return self.count * self.image_bytes

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        positions = data_context.get_config(POSITIONS) if data_context else None
        spans = endless(self.blocks, *positions) if positions else self.blocks
        return [self._task(span) for span in spans]

    def _task(self, span: Span) -> ReadTask:
        rows = span[2] - span[1]
        size = rows * self.image_bytes
        metadata = BlockMetadata(num_rows=rows, size_bytes=size, input_files=None, exec_stats=None)
        return ReadTask(functools.partial(_read, self.folder, span), metadata)


def endless(blocks: list[Span], seed: int, first: int, last: int) -> Iterator[Span]:
    """Yield the spans at the positions ``first`` to ``last`` of an endless sequence of passes over the blocks."""
    count = sum(stop - start for _, start, stop in blocks)
    for number in range(first // count, math.ceil(last / count)):
        position = number * count
        order = torch.randperm(len(blocks), generator=generator(torch.device("cpu"), seed, "blocks", number))
        for split, start, stop in (blocks[index] for index in order):
            low, high = max(first - position, 0), min(last - position, stop - start)
            if low < high:
                yield split, start + low, start + high
            position += stop - start


def _read(folder: str, span: Span) -> list[Block]:
    split, start, stop = span
    batch = {}
    for column in ("image", "label"):
        batch[column] = np.array(np.load(Path(folder, f"{split}_{column}s.npy"), mmap_mode="r")[start:stop])
    return [BlockAccessor.batch_to_block(batch)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """A `Feed` of the ``count`` rows that ``shard`` reads, which comes from `ray.train.get_dataset_shard`."""

    shard: DataIterator
    count: int
    image_bytes: int

    @classmethod
    def of(cls, name: str, folder: str | Path) -> Stream:
        """Return the stream of the trainer's data set ``name``, train or refit; called in a training worker."""
        from ray.train import get_dataset_shard

        dataset = read_dataset(folder)
        splits = {"train": TRAIN, "refit": ALL_SPLITS}[name]
        count = sum(dataset["counts"][split] for split in splits)
        return cls(shard=get_dataset_shard(name), count=count, image_bytes=math.prod(dataset["shape"]))

    def __len__(self) -> int:
        return self.count

    def epoch(
        self, *, draws: int, batch_size: int, seed: int, epoch: int, rank: int, world: int, device: torch.device
    ) -> Iterator[RankBatch]:
        """Yield this rank's batches, as `Feed` says.

        Each rank's part of the epoch is cut into equally many batches, which differ by one image.

        Raises:
            ValueError: a batch has fewer images than there are ranks.
        """
        draws = draws or self.count
        sizes = shares(draws, batch_size, world)
        if min(map(min, sizes)) < 1:
            raise ValueError(
                f"batches of {draws // len(sizes[0])} images cannot be shared by {world} workers; lower num_workers"
            )
        first = epoch * draws + sum(map(sum, sizes[:rank]))
        self.shard.get_context().set_config(POSITIONS, (seed, first, first + sum(sizes[rank])))
        read = self.shard.iter_torch_batches(
            batch_size=max(sizes[rank]),
            device=device,
            local_shuffle_buffer_size=max(1, SHUFFLED_BYTES // self.image_bytes),
            local_shuffle_seed=mixed_seed(seed, "buffer", epoch, rank) % 2**32,
        )
        batches = resized(((batch["image"], batch["label"]) for batch in read), sizes[rank])
        global_sizes = map(sum, zip(*sizes, strict=True))
        for (images, labels), global_batch_size in zip(batches, global_sizes, strict=True):
            yield images, labels, global_batch_size


def shares(draws: int, batch_size: int, world: int) -> list[list[int]]:
    """Return how many images each rank has in each batch of an epoch of ``draws``: (world, steps)."""
    steps = steps_per_epoch(draws, batch_size)
    return [_evenly(rows, steps) for rows in _evenly(draws, world)]


def _evenly(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def resized(batches: Iterable[tuple[Tensor, Tensor]], sizes: Iterable[int]) -> Iterator[tuple[Tensor, Tensor]]:
    source = iter(batches)
    images, labels = next(source)
    for size in sizes:
        while len(labels) < size:
            following = next(source, None)
            assert following is not None, "as many rows were requested as the sizes say"
            images, labels = torch.cat([images, following[0]]), torch.cat([labels, following[1]])
        yield images[:size], labels[:size]
        images, labels = images[size:], labels[size:]
