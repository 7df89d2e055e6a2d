"""Image files, named or found in folders and archives, decoded and made square as a network takes them."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from cnn_core.data.sources import blocks
from cnn_core.data.validation import Refusal
from cnn_core.images.archives import SourceFiles, open_files
from cnn_core.images.decoding import (
    UNREADABLE,
    BadImage,
    decode_rgb,
    decode_square,
    has_image_header,
    is_image_name,
    read_file,
)
from cnn_core.images.lists import is_list, read_list

ADVICE = "name a folder or a .zip of images"
MAX_BYTES = 64 << 30
# A picture uint8 (H, W, 3) and its middle square uint8 (C, S, S) -> what the network takes, uint8 (C, S, S).
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]
BLOCK, BLOCK_BYTES = 256, 64 << 20  # files at a time, and their bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive files: ``names`` with their ``images`` uint8 (N, C, S, S), and those ``refused`` with the reason."""

    names: list[str]
    images: np.ndarray
    refused: list[Refusal]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """The images of a folder, .zip or list of files.

    Attributes:
        count: of the images that ``blocks`` yield or refuse.
        left_out: counts of the other files, by what they are.
    """

    count: int
    left_out: Mapping[str, int]
    blocks: Iterator[Block]


def read_folder(
    path: str | Path, shape: tuple[int, int, int], fit: Fit | None = None, *, threads: int | None = None
) -> ImageFiles:
    """Read the images of a folder or .zip, at any depth, or of a .txt or .csv file that lists images, as ``shape``.

    The images are the files' middle squares, or what ``fit`` makes of the files; ``threads`` decode them.

    Raises:
        ValueError: there is no image, or the .zip is damaged.
    """
    if is_list(path):
        names, left_out = read_list(path)
        return ImageFiles(count=len(names), left_out=left_out, blocks=_file_blocks(names, shape, fit, threads))
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        names, left_out = image_names(files)
        left_out += Counter(files.left_out)
    if not names:
        others = f" (there are {describe(left_out)})" if left_out else ""
        raise ValueError(f"{path} has no images{others}: {ADVICE}")
    return ImageFiles(count=len(names), left_out=left_out, blocks=_folder_blocks(path, names, shape, fit, threads))


def image_names(files: SourceFiles) -> tuple[list[str], Counter[str]]:
    """The files that are images, by their ending or else by their first bytes, and counts of the others by ending."""
    names: list[str] = []
    left_out: Counter[str] = Counter()
    for name in files.names:
        if is_image_name(name):
            names.append(name)
            continue
        with files.open(name) as opened:
            is_image = has_image_header(opened)
        if is_image:
            names.append(name)
        else:
            left_out[PurePosixPath(name).suffix.lower() or "no ending"] += 1
    return names, left_out


def describe(left_out: Mapping[str, int]) -> str:
    """Counts in words: ``3 .xml, 1 hidden``."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()) if count)


def read_paths(paths: Iterable[str | Path], shape: tuple[int, int, int], fit: Fit | None = None) -> ImageFiles:
    """As `read_folder`, for image files, folders, lists and .zip archives in this order; names begin with the path.

    Raises:
        ValueError: one of the paths does not exist, has no image, or is a damaged .zip. A file that is no image is
            refused.
    """
    sources = [Path(path).expanduser() for path in paths]
    if missing := [path for path in sources if not path.exists()]:
        raise ValueError(f"{missing[0]} does not exist: name image files, folders or .zip archives")
    parts: list[ImageFiles] = []
    for whole, group in itertools.groupby(sources, _holds_images):
        if whole:
            parts += [_below(path, shape, fit) for path in group]
        else:  # neighbours share a block, as thousands of files may be named
            names = [str(path) for path in group]
            parts.append(ImageFiles(count=len(names), left_out={}, blocks=_file_blocks(names, shape, fit)))
    return ImageFiles(
        count=sum(part.count for part in parts),
        left_out=sum((Counter(part.left_out) for part in parts), Counter()),
        blocks=itertools.chain.from_iterable(part.blocks for part in parts),
    )


def _holds_images(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() == ".zip" or is_list(path)


def _below(path: Path, shape: tuple[int, int, int], fit: Fit | None) -> ImageFiles:
    files = read_folder(path, shape, fit)
    if is_list(path):
        return files
    renamed = (
        Block(
            names=[f"{path}/{name}" for name in block.names],
            images=block.images,
            refused=[dataclasses.replace(entry, id=f"{path}/{entry.id}") for entry in block.refused],
        )
        for block in files.blocks
    )
    return dataclasses.replace(files, blocks=renamed)


def _file_blocks(
    names: Sequence[str], shape: tuple[int, int, int], fit: Fit | None, threads: int | None = None
) -> Iterator[Block]:
    return _blocks(names, _file_size, _file_bytes, shape, fit, threads)


def _folder_blocks(
    path: str | Path, names: Sequence[str], shape: tuple[int, int, int], fit: Fit | None, threads: int | None
) -> Iterator[Block]:
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        yield from _blocks(names, files.size, lambda name: read_entry(files, name), shape, fit, threads)


def _blocks(
    names: Sequence[str],
    size: Callable[[str], int],
    read: Callable[[str], bytes | BadImage],
    shape: tuple[int, int, int],
    fit: Fit | None,
    threads: int | None,
) -> Iterator[Block]:
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks(names, size, most=BLOCK, most_bytes=BLOCK_BYTES):
            contents = zip(block, [read(name) for name in block], strict=True)
            yield _block(block, list(pool.map(lambda entry: _decode(entry[0], entry[1], shape, fit), contents)), shape)


def _file_size(name: str) -> int:
    path = Path(name)
    return path.stat().st_size if path.is_file() else 0


def _file_bytes(name: str) -> bytes | BadImage:
    try:
        with Path(name).open("rb") as file:
            return read_file(file, _file_size(name), name)
    except OSError as error:
        return BadImage(UNREADABLE, str(error.strerror))
    except BadImage as fault:
        return fault


def read_entry(files: SourceFiles, name: str) -> bytes | BadImage:
    """An image file's bytes, or why the limits refuse it."""
    with files.open(name) as opened:
        try:
            return read_file(opened, files.size(name), name)
        except BadImage as fault:
            return fault


def _block(names: Sequence[str], results: Sequence[np.ndarray | BadImage], shape: tuple[int, int, int]) -> Block:
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


def _decode(name: str, data: bytes | BadImage, shape: tuple[int, int, int], fit: Fit | None) -> np.ndarray | BadImage:
    if isinstance(data, BadImage):
        return data
    try:
        middle = decode_square(data, shape[-1], "L" if shape[0] == 1 else "RGB", name)
        return fit(decode_rgb(data, name), middle) if fit else middle
    except BadImage as fault:
        return fault
