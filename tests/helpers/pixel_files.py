"""Small artificial digits and their files, for the tests of ingestion."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
from pathlib import Path

import numpy as np

HEADER = ["label", *(f"pixel{number}" for number in range(784))]


def digits(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make ``count`` different noisy squares, uint8 (N, 28, 28), and labels 0, 1, … 9, 0, …"""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 6:20, 8:20] = rng.integers(0, 256, (count, 14, 12))
    return images, np.arange(count) % 10


def rows(images: np.ndarray, labels: np.ndarray | None) -> list[list[str]]:
    """The cells of a table, as texts that a test can spoil."""
    flat = images.reshape(len(images), -1)
    return [list(map(str, row)) for row in (flat if labels is None else np.column_stack([labels, flat])).tolist()]


def write_rows(path: Path, cells: list[list[str]], header: list[str] | None = None, end: str = "\n") -> Path:
    """Write a CSV, by default with Kaggle's header."""
    side = math.isqrt(len(cells[0]))
    header = header or ["label"] * (len(cells[0]) - side**2) + [f"pixel{number}" for number in range(side**2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(",".join(row) + end for row in [header, *cells]).encode())
    return path


def kaggle(folder: Path, count: int = 100, unlabelled: int = 10) -> Path:
    """Write a valid folder in Kaggle's layout."""
    images, labels = digits(count + unlabelled)
    write_rows(folder / "train.csv", rows(images[:count], labels[:count]))
    if unlabelled:
        write_rows(folder / "test.csv", rows(images[count:], None))
    return folder


def idx(array: np.ndarray) -> bytes:
    """An array in MNIST's format: a magic number, the dimensions, the bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def mnist(folder: Path, count: int = 100, test: int = 20, packed: bool = True) -> Path:
    """Write a valid folder of MNIST's four files."""
    images, labels = digits(count + test)
    folder.mkdir(parents=True, exist_ok=True)
    for part, selected in (("train", slice(0, count)), ("t10k", slice(count, None))):
        for kind, array in (("images-idx3", images[selected]), ("labels-idx1", labels[selected])):
            data = gzip.compress(idx(array)) if packed else idx(array)
            (folder / f"{part}-{kind}-ubyte{'.gz' if packed else ''}").write_bytes(data)
    return folder


def zipped(folder: Path, archive: Path, under: str = "") -> Path:
    """Pack the folder's files into a .zip, below ``under``."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, under + path.name)
    return archive
