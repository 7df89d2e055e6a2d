"""Read the images of a `cnn_core.images.media.Part`, one after the other, and decode them."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cnn_core.images.archives import DAMAGE
from cnn_core.images.decoding import (
    DAMAGED,
    EMPTY,
    ENDINGS,
    NOT_AN_IMAGE,
    UNREADABLE,
    BadImage,
    check_header,
    decode_rgb,
    read_file,
)
from cnn_core.images.media import Entry, Part, id_column, image_column

Imread = Callable[[str], "np.ndarray | None"]  # a path -> uint8 (H, W, C), BGR, or None
_MEMORY = Path("/dev/shm")
ROOM = 16  # so many times the size of a file must be free there, as others write at the same time


class Reader:
    """Reads parts. A video or Parquet file stays open, to read parts in order in one go."""

    def __init__(self, *, vid_stride: int = 1) -> None:
        self.vid_stride = vid_stride
        self._open: tuple[str, int, Iterator[Any]] | None = None  # path, position, rest of the file

    def __call__(self, part: Part) -> Iterator[Entry]:
        """Yield the entries of a part in order; the content of a bad one is a `BadImage`."""
        if part.kind == "files":
            for number, (name, image_id) in enumerate(zip(part.names, part.ids, strict=True), part.first):
                path = Path(part.path, name)
                yield Entry(image_id=image_id, file=str(path), number=number, content=path)
        elif part.kind == "zip":
            yield from self._zip(part)
        elif part.kind == "parquet":
            for row, (image_id, name, data) in zip(range(part.start, part.stop), self._sequence(part), strict=False):
                content = data if data is not None else BadImage(EMPTY, "no bytes")
                number = part.first + row - part.start
                yield Entry(image_id=image_id, file=name, number=number, content=content)
        else:
            yield from self._video(part)

    def _zip(self, part: Part) -> Iterator[Entry]:
        with zipfile.ZipFile(part.path) as archive:
            entries = {entry.filename.replace("\\", "/"): entry for entry in archive.infolist()}
            for number, (name, image_id) in enumerate(zip(part.names, part.ids, strict=True), part.first):
                content: bytes | BadImage
                try:
                    with archive.open(entries[name]) as file:
                        content = read_file(file, entries[name].file_size, name)
                except BadImage as fault:
                    content = fault
                except (*DAMAGE, NotImplementedError, RuntimeError, OSError) as error:
                    content = BadImage(DAMAGED, f"{type(error).__name__}: {error}")
                yield Entry(image_id=image_id, file=f"{part.path}/{name}", number=number, content=content)

    def _video(self, part: Part) -> Iterator[Entry]:
        """Yield the frames, numbered from 1 as they are read, as Ultralytics numbers them."""
        read = -1
        for read, frame in enumerate(self._sequence(part)):
            if read == len(part):
                break
            name = f"#{part.start + read + 1:06d}"
            number = part.first + read
            yield Entry(image_id=part.ids[0] + name, file=part.path + name, number=number, content=frame)
            if read + 1 == len(part):
                return
        if read < 0 and part.start == 0:
            fault = BadImage(UNREADABLE, "no frame of this video can be decoded")
            yield Entry(image_id=part.ids[0] + "#000001", file=part.path, number=part.first, content=fault)

    def _sequence(self, part: Part) -> Iterator[Any]:
        """Yield the items of the part's file, going on where the last part ended if that fits."""
        if self._open is None or self._open[0] != part.path or self._open[1] > part.start:
            rest = frames(part.path, self.vid_stride) if part.kind == "video" else rows(part.path)
            self._open = (part.path, 0, rest)
        path, position, rest = self._open
        for _ in range(part.start - position):
            next(rest, None)
        position = part.start
        while position < part.stop and (item := next(rest, None)) is not None:
            position += 1
            self._open = (path, position, rest)
            yield item


def sizes_together(entries: Iterable[Entry]) -> list[Entry]:
    """Sort entries by the sizes in the files' headers; entries without a size come first."""
    return sorted(entries, key=_header_size)


def _header_size(entry: Entry) -> tuple[int, int]:
    if not isinstance(entry.content, Path):
        return 0, 0
    try:
        with Image.open(entry.content) as image:
            return image.size
    except Exception:  # decoding it later says what is wrong
        return 0, 0


def frames(path: str, vid_stride: int) -> Iterator[np.ndarray]:
    """A video's frames, uint8 (H, W, 3) BGR, as Ultralytics' loader yields them at this stride."""
    capture = cv2.VideoCapture(path)
    try:
        while all(capture.grab() for _ in range(vid_stride)):
            good, frame = capture.retrieve()
            if good and frame is not None:
                yield frame
    finally:
        capture.release()


def rows(path: str) -> Iterator[tuple[str, str, bytes | None]]:
    """(id, name, bytes) of each row of a Parquet file.

    The file is read in pieces: a row group may be larger than the memory.
    """
    opened = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    image, ids = image_column(opened.schema_arrow, path), id_column(opened.schema_arrow)
    row, stem = 0, Path(path).stem
    for batch in opened.iter_batches(batch_size=32, columns=[image, *([ids] if ids else [])], use_threads=False):
        images, names = batch.column(image), batch.column(ids).to_pylist() if ids else [None] * len(batch)
        paths: Sequence[str | None] = [None] * len(batch)
        if pa.types.is_struct(images.type):
            if images.type.get_field_index("path") >= 0:
                paths = images.field("path").to_pylist()
            images = images.field("bytes")
        for name, inner, data in zip(names, paths, images.to_pylist(), strict=True):
            image_id = str(name) if name is not None else f"{stem}:{row}"
            yield image_id, f"{path}/{inner or image_id}", data
            row += 1


def read_image(file: str | Path) -> np.ndarray:
    """Read an image file as `pixels` does, in three colours: uint8 (H, W, 3), BGR. Raises BadImage."""
    return pixels(Entry(image_id="", file=str(file), number=0, content=Path(file)), imread_colour)


def imread_colour(path: str) -> np.ndarray | None:
    return cv2.imread(path, cv2.IMREAD_COLOR)


def pixels(entry: Entry, imread: Imread) -> np.ndarray:
    """Decode an entry: uint8 (H, W, C) in OpenCV's order (BGR).

    ``imread`` (for detection, that of Ultralytics) decodes whatever it can, so that the result is the same as its
    own; `decode_rgb` decodes the rest. A file that is cut short is refused, as decoders fill with grey what is missing.

    Raises:
        BadImage: empty, no image, damaged or cut short.
    """
    content = entry.content
    if isinstance(content, np.ndarray):
        return content
    if isinstance(content, BadImage):
        raise content
    if isinstance(content, Path):
        return _read(content, imread)
    if not content:
        raise BadImage(EMPTY, "0 bytes")
    # Through a file in memory, because readers choose their way by a file's ending.
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > ROOM * len(content)
    folder = _MEMORY if in_memory else None  # a container may have only 64 MB there
    with tempfile.NamedTemporaryFile(suffix=_ending(entry.file, content), dir=folder) as file:
        file.write(content)
        file.flush()
        return _read(Path(file.name), imread)


def _ending(name: str, data: bytes) -> str:
    if (suffix := Path(name).suffix.lower())[1:] in ENDINGS:
        return suffix
    if data[:4] in (b"II*\0", b"MM\0*"):
        return ".tif"
    return ".heic" if data[4:8] == b"ftyp" else ""


def _read(path: Path, imread: Imread) -> np.ndarray:
    try:
        with path.open("rb") as file:
            head = file.read(8)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16))
            tail = file.read()
            misread_elsewhere = check_header(file, size, path.name)
    except OSError as error:
        raise BadImage(UNREADABLE, str(error.strerror)) from None
    if not size:
        raise BadImage(EMPTY, "0 bytes")
    if _seems_cut(head, tail):
        try:
            _decoded(path)
        except BadImage as error:
            if error.reason in (DAMAGED, NOT_AN_IMAGE):
                raise
    if misread_elsewhere:
        return np.ascontiguousarray(_decoded(path)[..., ::-1])
    try:
        image = imread(str(path))
    except (cv2.error, OSError, ValueError, SyntaxError) as error:
        raise BadImage(DAMAGED, " ".join(str(error).split())) from None
    if image is not None:
        return image
    return np.ascontiguousarray(_decoded(path)[..., ::-1])


def _seems_cut(head: bytes, tail: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end mark. Some good files do, or carry more behind it."""
    if head[:2] == b"\xff\xd8":
        return not tail.rstrip(b"\0").endswith(b"\xff\xd9")
    return head[:4] == b"\x89PNG" and b"IEND" not in tail


def _decoded(path: Path) -> np.ndarray:
    try:
        return decode_rgb(path.read_bytes(), path.name)
    except BadImage as error:
        if "pi_heif" in error.detail:  # which Ultralytics' Image.open would install to read what is no image
            raise BadImage(NOT_AN_IMAGE, "not in a format that can be read") from None
        raise
