"""Image files as a network takes them: found in folders and archives, decoded, made square."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_core.datasets import square
from cnn_core.images import BadImage, decode_rgb
from cnn_core.sources import SourceFiles, open_files
from cnn_core.validation import Refusal

ADVICE = "name a folder or a .zip of images"
MAX_BYTES = 64 << 30
BLOCK = 256  # files at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Some files: ``names`` and their ``images`` uint8 (N, C, S, S), and those ``refused`` with the reason."""

    names: list[str]
    images: np.ndarray
    refused: list[Refusal]


def read_folder(path: str | Path, shape: tuple[int, int, int]) -> tuple[int, Iterator[Block]]:
    """How many files the folder or .zip at ``path`` holds, at any depth, and those files as (C, S, S) = ``shape``.

    Raises:
        ValueError: there is nothing, or a damaged .zip.
    """
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        count = len(files.names)
    if not count:
        raise ValueError(f"{path} has no files: {ADVICE}")
    return count, _folder_blocks(path, shape)


def _folder_blocks(path: str | Path, shape: tuple[int, int, int]) -> Iterator[Block]:
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files, ThreadPoolExecutor() as pool:
        for start in range(0, len(files.names), BLOCK):
            names = files.names[start : start + BLOCK]
            yield _block(names, [_bytes(files, name) for name in names], shape, pool)


def _bytes(files: SourceFiles, name: str) -> bytes:
    with files.open(name) as opened:
        return opened.read()


def _block(names: list[str], contents: list[bytes], shape: tuple[int, int, int], pool: ThreadPoolExecutor) -> Block:
    read = list(pool.map(lambda data: _judge(data, shape), contents))
    good = [(name, found) for name, found in zip(names, read, strict=True) if not isinstance(found, BadImage)]
    return Block(
        names=[name for name, _ in good],
        images=np.stack([image for _, image in good]) if good else np.empty((0, *shape), np.uint8),
        refused=[
            Refusal(id=name, reason=found.reason, detail=found.detail)
            for name, found in zip(names, read, strict=True)
            if isinstance(found, BadImage)
        ],
    )


def _judge(data: bytes, shape: tuple[int, int, int]) -> np.ndarray | BadImage:
    try:
        return as_square(data, shape)
    except BadImage as fault:
        return fault


def as_square(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file's bytes -> uint8 of ``shape`` (C, S, S): its middle square, grey when C is 1.

    Raises:
        BadImage: as `cnn_core.images.read_picture`.
    """
    picture = square(Image.fromarray(decode_rgb(data)), shape[-1])
    pixels = np.asarray(picture.convert("L") if shape[0] == 1 else picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
