"""AUGMENTED data sets, as `augment` writes them: decoded uint8 arrays to train from, memory-mapped.

    data/augmented/<set>/{train,val,test}_images.npy   uint8 (N, C, H, W)
                         {train,val,test}_labels.npy   int64 (N,), or zeros and ones uint8 (N, K) (`multilabel`)
                         {train,val,test}_ids.json     N ids; copy k of an image is called <id>+k
                         dataset.json                  written last

train holds the originals first, then their copies: all first copies in the originals' order, then all second ones, …
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cnn_core.files import read_json, reserve, sha256_files, whole_folder, write_json

SPLITS = ("train", "val", "test")
_BLOCK = 4096  # images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays:
    """One split of an AUGMENTED set: ``images`` uint8 (N, C, H, W), memory-mapped, and ``labels`` int64 (N,).

    Where an image may have several labels of K, they are zeros and ones, uint8 (N, K).
    """

    images: np.ndarray
    labels: np.ndarray
    ids: list[str]


def read_dataset(folder: str | Path) -> dict[str, Any]:
    """Read ``dataset.json``: set, classes, shape [C, H, W], mean and std (per channel in 0..1, of train's originals),
    counts (arrays' lengths), originals (train's without the copies), copies, content_sha256, and multilabel (true)
    where an image may have several labels or none.

    Raises:
        ValueError: it is missing, so the folder is missing or incomplete.
    """
    return read_json(Path(folder) / "dataset.json", made_by="augment")


def load_arrays(folder: str | Path, split: str) -> Arrays:
    """Load one split of an AUGMENTED set.

    Raises:
        ValueError: there is no such split, or the folder is missing or incomplete.
    """
    if split not in SPLITS:
        raise ValueError(f"{split!r} is no split of augmented data; there are {', '.join(SPLITS)}")
    folder, counts = Path(folder), read_dataset(folder)["counts"]
    images = folder / f"{split}_images.npy"
    return Arrays(
        images=np.load(images, mmap_mode="r" if counts[split] else None),  # an empty file cannot be mapped
        labels=np.load(folder / f"{split}_labels.npy"),
        ids=json.loads((folder / f"{split}_ids.json").read_text(encoding="utf-8")),
    )


class ArraysWriter:
    """Writes the arrays of one AUGMENTED set; `arrays_writer` makes one."""

    def __init__(self, folder: Path, *, name: str, classes: Sequence[str], shape: Sequence[int], copies: int) -> None:
        self.folder, self.name, self.classes = folder, name, list(classes)
        self.multilabel = False  # as the labels that are added say
        self.shape, self.copies = tuple(shape), copies
        self._images: dict[str, np.ndarray] = {}
        self._originals: dict[str, int] = {}

    def add(self, split: str, ids: Sequence[str], labels: np.ndarray) -> np.ndarray:
        """Create the array of one split, uint8 (N, C, H, W), which the caller must fill, originals first.

        N is the number of originals, for train times (1 + copies).
        """
        assert split in SPLITS
        assert len(ids) == len(labels)
        copies = self.copies if split == "train" else 0
        all_ids = [*ids, *(f"{id_}+{copy}" for copy in range(1, copies + 1) for id_ in ids)]
        labels = np.asarray(labels)
        self.multilabel = labels.ndim == 2
        repeated = np.concatenate([labels] * (1 + copies)).astype(np.uint8 if self.multilabel else np.int64)
        np.save(self.folder / f"{split}_labels.npy", repeated)
        (self.folder / f"{split}_ids.json").write_text(json.dumps(all_ids) + "\n", encoding="utf-8")
        self._originals[split] = len(ids)
        self._images[split] = _new_array(self.folder / f"{split}_images.npy", (len(all_ids), *self.shape))
        return self._images[split]

    def _finish(self) -> None:
        assert set(self._images) == set(SPLITS), "every split must be added, an empty one too"
        mean, std = _mean_std(self._images["train"][: self._originals["train"]])
        counts = {split: len(self._images[split]) for split in SPLITS}
        for array in self._images.values():
            if isinstance(array, np.memmap):
                array.flush()
        names = [f"{split}_{kind}" for split in SPLITS for kind in ("images.npy", "labels.npy", "ids.json")]
        dataset = {
            "set": self.name,
            "classes": self.classes,
            **({"multilabel": True} if self.multilabel else {}),
            "shape": list(self.shape),
            "mean": mean,
            "std": std,
            "counts": counts,
            "originals": self._originals["train"],
            "copies": self.copies,
            "content_sha256": sha256_files(self.folder, names),
        }
        write_json(self.folder / "dataset.json", dataset)


@contextmanager
def arrays_writer(
    folder: str | Path, *, name: str, classes: Sequence[str], shape: Sequence[int], copies: int
) -> Iterator[ArraysWriter]:
    """``with arrays_writer(...) as writer: writer.add("train", ids, labels)[:] = images`` for each of train, val, test.

    ``folder`` is replaced when the block ends without an error, and only then.
    """
    with whole_folder(folder) as partial:
        writer = ArraysWriter(partial, name=name, classes=classes, shape=shape, copies=copies)
        yield writer
        writer._finish()


def refuse_multilabel(dataset: dict[str, Any], section: str) -> None:
    """Raises ValueError if the images of a set may have several labels; ``section`` names who takes one label alone."""
    if dataset.get("multilabel"):
        raise ValueError(
            f"the images of {dataset['set']} may have several labels, and {section} works with one label an image: "
            "name another set and model there, or take that entry out of params.yaml"
        )


def rows_of_class(labels: np.ndarray, number: int) -> np.ndarray:
    """Which rows of `Arrays.labels` have a class, bool (N,)."""
    return labels[:, number] == 1 if labels.ndim == 2 else labels == number


def _new_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if shape[0]:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        reserve(path)
        return array
    empty = np.empty(shape, np.uint8)
    np.save(path, empty)
    return empty


def _mean_std(images: np.ndarray) -> tuple[list[float], list[float]]:
    """The mean and standard deviation of each channel, in 0..1; from a histogram, the same on every machine."""
    values, means, stds = np.arange(256) / 255.0, [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _BLOCK):
            counts += np.bincount(images[start : start + _BLOCK, channel].ravel(), minlength=256)
        share = counts / max(counts.sum(), 1)
        mean = float(share @ values)
        means.append(round(mean, 6))
        # At least one grey level: for a constant channel it would be a division by zero.
        stds.append(round(max(float(np.sqrt(share @ (values - mean) ** 2)), 1 / 255), 6))
    return means, stds
