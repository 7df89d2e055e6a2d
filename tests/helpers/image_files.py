"""Small artificial scenes and their folders, for the tests of ingestion."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("buildings", "forest", "glacier", "mountain", "sea", "street")


def scene(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Soft random blotches. No two seeds are near-duplicates, and a resized scene is one of the original."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def intel(folder: Path, train: int = 12, test: int = 3, pred: int = 4, doubled: bool = True) -> Path:
    """Write a valid folder in Kaggle's layout, with ``train`` and ``test`` images in each class."""
    seed = 0
    for part, count in (("seg_train", train), ("seg_test", test), ("seg_pred", pred)):
        inner = folder / part / part if doubled else folder / part
        for parent in [inner] if part == "seg_pred" else [inner / name for name in CLASSES]:
            for number in range(count):
                seed += 1
                put(parent / f"{number}.jpg", encoded(scene(seed), "JPEG", quality=90))
    return folder


def zipped(folder: Path, archive: Path, under: str = "") -> Path:
    """Pack the folder's files, with their folders, into a .zip, below ``under``."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, under + path.relative_to(folder).as_posix())
    return archive
