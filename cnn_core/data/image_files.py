"""Image files as a network takes them: named, or found in folders and archives; decoded, made square."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_core.data.validation import Refusal
from cnn_core.images.archives import SourceFiles, open_files
from cnn_core.images.decoding import BadImage, decode_rgb, square

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


def read_paths(paths: Iterable[str | Path], shape: tuple[int, int, int]) -> tuple[int, Iterator[Block]]:
    """How many files ``paths`` name, and those files as (C, S, S) = ``shape``, in the order of ``paths``.

    Args:
        paths: image files, folders and .zip archives. What is found in these two is called ``<path>/<its name>``.

    Raises:
        ValueError: one of them does not exist, is empty, or is a damaged .zip. What is no image is a refusal.
    """
    paths = [Path(path) for path in paths]
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"{missing[0]} does not exist: name image files, folders or .zip archives")
    parts: list[tuple[int, Iterator[Block]]] = []
    for single, group in itertools.groupby(paths, _is_image_file):
        if single:  # neighbours share a block: thousands of files may be named
            names = [str(path) for path in group]
            parts.append((len(names), _blocks(names, _file_bytes, shape)))
        else:
            parts += [_below(path, shape) for path in group]
    return sum(count for count, _ in parts), itertools.chain.from_iterable(blocks for _, blocks in parts)


def _is_image_file(path: Path) -> bool:
    return not path.is_dir() and path.suffix.lower() != ".zip"


def _below(path: Path, shape: tuple[int, int, int]) -> tuple[int, Iterator[Block]]:
    """`read_folder` with names that say where."""
    count, blocks = read_folder(path, shape)
    return count, (
        Block(
            names=[f"{path}/{name}" for name in block.names],
            images=block.images,
            refused=[dataclasses.replace(entry, id=f"{path}/{entry.id}") for entry in block.refused],
        )
        for block in blocks
    )


def _folder_blocks(path: str | Path, shape: tuple[int, int, int]) -> Iterator[Block]:
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        yield from _blocks(files.names, lambda name: _bytes(files, name), shape)


def _blocks(names: Sequence[str], read: Callable[[str], bytes], shape: tuple[int, int, int]) -> Iterator[Block]:
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), BLOCK):
            some = names[start : start + BLOCK]
            yield _block(some, [read(name) for name in some], shape, pool)


def _file_bytes(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


def _bytes(files: SourceFiles, name: str) -> bytes:
    with files.open(name) as opened:
        return opened.read()


def _block(names: Sequence[str], contents: list[bytes], shape: tuple[int, int, int], pool: ThreadPoolExecutor) -> Block:
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
        BadImage: as `cnn_core.images.decoding.read_picture`.
    """
    picture = square(Image.fromarray(decode_rgb(data)), shape[-1])
    pixels = np.asarray(picture.convert("L") if shape[0] == 1 else picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
