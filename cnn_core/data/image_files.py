"""Image files, named or found in folders and archives, decoded and made square as a network takes them."""

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
    """Consecutive files: ``names`` with their ``images`` uint8 (N, C, S, S), and those ``refused`` with the reason."""

    names: list[str]
    images: np.ndarray
    refused: list[Refusal]


def read_folder(path: str | Path, shape: tuple[int, int, int]) -> tuple[int, Iterator[Block]]:
    """Read all files of a folder or .zip, at any depth: their number, and blocks of images (C, S, S) = ``shape``.

    Raises:
        ValueError: there is no file, or the .zip is damaged.
    """
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        count = len(files.names)
    if not count:
        raise ValueError(f"{path} has no files: {ADVICE}")
    return count, _folder_blocks(path, shape)


def read_paths(paths: Iterable[str | Path], shape: tuple[int, int, int]) -> tuple[int, Iterator[Block]]:
    """As `read_folder`, for image files, folders and .zip archives in this order; names begin with the path.

    Raises:
        ValueError: one of the paths does not exist, is empty, or is a damaged .zip. A file that is no image is refused.
    """
    sources = [Path(path) for path in paths]
    if missing := [path for path in sources if not path.exists()]:
        raise ValueError(f"{missing[0]} does not exist: name image files, folders or .zip archives")
    parts: list[tuple[int, Iterator[Block]]] = []
    for whole, group in itertools.groupby(sources, lambda path: path.is_dir() or path.suffix.lower() == ".zip"):
        if whole:
            parts += [_below(path, shape) for path in group]
        else:  # neighbours share a block, as thousands of files may be named
            names = [str(path) for path in group]
            parts.append((len(names), _blocks(names, _file_bytes, shape)))
    return sum(count for count, _ in parts), itertools.chain.from_iterable(blocks for _, blocks in parts)


def _below(path: Path, shape: tuple[int, int, int]) -> tuple[int, Iterator[Block]]:
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
            block = names[start : start + BLOCK]
            yield _block(block, [read(name) for name in block], shape, pool)


def _file_bytes(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


def _bytes(files: SourceFiles, name: str) -> bytes:
    with files.open(name) as opened:
        return opened.read()


def _block(names: Sequence[str], contents: list[bytes], shape: tuple[int, int, int], pool: ThreadPoolExecutor) -> Block:
    results = list(pool.map(lambda data: _decode(data, shape), contents))
    good = [(name, image) for name, image in zip(names, results, strict=True) if not isinstance(image, BadImage)]
    return Block(
        names=[name for name, _ in good],
        images=np.stack([image for _, image in good]) if good else np.empty((0, *shape), np.uint8),
        refused=[
            Refusal(id=name, reason=fault.reason, detail=fault.detail)
            for name, fault in zip(names, results, strict=True)
            if isinstance(fault, BadImage)
        ],
    )


def _decode(data: bytes, shape: tuple[int, int, int]) -> np.ndarray | BadImage:
    try:
        return as_square(data, shape)
    except BadImage as fault:
        return fault


def as_square(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode an image file's middle square to uint8 of ``shape`` (C, S, S), grey if C is 1; raises `BadImage`."""
    picture = square(Image.fromarray(decode_rgb(data)), shape[-1])
    pixels = np.asarray(picture.convert("L") if shape[0] == 1 else picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
