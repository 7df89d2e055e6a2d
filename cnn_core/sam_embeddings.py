"""What a frozen encoder makes of a set's images, computed once and kept on disk, memory-mapped.

<folder>/<split>-0.npy …   float16 (N, C, h, w), one file a map that the decoder takes
         <split>.json      how many images are done, written after them
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnn_core.sam_data import MaskSet
from cnn_core.sam_learner import Learner, Maps

AT_A_TIME = 8  # images encoded


class Embeddings:
    """The maps of a split's images: computed where they are missing, read where they are there.

    Args:
        folder: of the run; what an interrupted run had computed is gone on with.
        on_image: called now and then with the images done.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        learner: Learner,
        data: MaskSet,
        *,
        on_image: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._device = learner.device
        self._note = Path(folder, f"{split}.json")
        Path(folder).mkdir(parents=True, exist_ok=True)
        done = json.loads(self._note.read_text())["done"] if self._note.is_file() else 0
        self._files: list[np.memmap] = []
        paths = [Path(folder, f"{split}-{number}.npy") for number in range(len(list(Path(folder).glob(f"{split}-*"))))]
        if done:
            self._files = [np.lib.format.open_memmap(path, "r+") for path in paths]
        for start in range(done, len(data), AT_A_TIME):
            stop = min(start + AT_A_TIME, len(data))
            maps = learner.maps(torch.from_numpy(data.images[start:stop]))
            if not self._files:
                self._files = [_made(Path(folder, f"{split}-{n}.npy"), len(data), m) for n, m in enumerate(maps)]
            for file, found in zip(self._files, maps, strict=True):
                file[start:stop] = found.to(torch.float16).cpu().numpy()
                file.flush()
            self._write_note(stop)
            on_image(stop)

    def __getitem__(self, rows: np.ndarray) -> Maps:
        """float32, on the learner's device."""
        return [torch.from_numpy(np.array(file[rows])).to(self._device).float() for file in self._files]

    def _write_note(self, done: int) -> None:
        partial = self._note.with_suffix(".partial")
        partial.write_text(json.dumps({"done": done}))
        partial.replace(self._note)


def _made(path: Path, count: int, found: Tensor) -> np.memmap:
    return np.lib.format.open_memmap(path, "w+", dtype=np.float16, shape=(count, *found.shape[1:]))
