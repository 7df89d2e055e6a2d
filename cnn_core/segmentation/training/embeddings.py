"""The maps that a frozen encoder makes of a set's images, computed once and kept on disk, memory-mapped.

<folder>/<split>-0.npy …           float16 (N, C, h, w), one file a map that the decoder takes
         <split>.json              how many maps there are; written after the files are there
         <split>-<rank>-of-<world>.json  how many of its images a process has done, written after them
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cnn_core.distributed import share
from cnn_core.files import reserve
from cnn_core.segmentation.training.data import MaskSet
from cnn_core.segmentation.training.forward import Maps
from cnn_core.segmentation.training.learner import SamLearner

BATCH = 8  # images encoded at a time
POLL_S = 0.2  # between two looks for the files of another process


class Embeddings:
    """The maps of a split's images, computed where they are missing and read where they are there.

    Args:
        local_rank: (rank, world size). Processes of one machine that call this with the same folder each compute a
            part, and wait for the others.
        on_image: called now and then with the images that this process has done, and how many its part has.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        learner: SamLearner,
        data: MaskSet,
        *,
        local_rank: tuple[int, int] = (0, 1),
        on_image: Callable[[int, int], None] = lambda _done, _part: None,
    ) -> None:
        self._device, self._folder, self._split = learner.device, Path(folder), split
        self._folder.mkdir(parents=True, exist_ok=True)
        rank, world = local_rank
        self._files: list[np.memmap] = []
        parts = [share(torch.arange(len(data)), each, world).numpy() for each in range(world)]
        for start in range(self._done(rank, world), len(parts[rank]), BATCH):
            rows = parts[rank][start : start + BATCH]
            maps = learner.maps(torch.from_numpy(data.images[rows]))
            if rank == 0 and not self._maps_note.is_file():
                self._make(len(data), maps)
            self._open()
            for file, values in zip(self._files, maps, strict=True):
                file[rows] = values.to(torch.float16).cpu().numpy()
                file.flush()
            _write(self._note(rank, world), {"done": start + len(rows)})
            on_image(start + len(rows), len(parts[rank]))
        _wait(lambda: all(self._done(each, world) == len(part) for each, part in enumerate(parts)))
        self._open()

    def __getitem__(self, rows: np.ndarray) -> Maps:
        """float32, on the learner's device."""
        return [torch.from_numpy(np.array(file[rows])).to(self._device).float() for file in self._files]

    def _make(self, count: int, maps: Maps) -> None:
        for number, values in enumerate(maps):
            shape = (count, *values.shape[1:])
            np.lib.format.open_memmap(self._file(number), "w+", dtype=np.float16, shape=shape).flush()
            reserve(self._file(number))
        _write(self._maps_note, {"maps": len(maps)})

    def _open(self) -> None:
        if not self._files:
            _wait(self._maps_note.is_file)
            count = json.loads(self._maps_note.read_text())["maps"]
            self._files = [np.lib.format.open_memmap(self._file(number), "r+") for number in range(count)]

    def _file(self, number: int) -> Path:
        return self._folder / f"{self._split}-{number}.npy"

    @property
    def _maps_note(self) -> Path:
        return self._folder / f"{self._split}.json"

    def _note(self, rank: int, world: int) -> Path:
        return self._folder / f"{self._split}-{rank}-of-{world}.json"

    def _done(self, rank: int, world: int) -> int:
        note = self._note(rank, world)
        return int(json.loads(note.read_text())["done"]) if note.is_file() else 0


def _write(note: Path, value: dict[str, int]) -> None:
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.replace(note)


def _wait(ready: Callable[[], bool]) -> None:
    """Wait for the other processes; a barrier gives up after minutes, and a rank's thousands of images take longer."""
    while not ready():
        time.sleep(POLL_S)
