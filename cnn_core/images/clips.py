"""Clips: videos and folders of frames, read forwards and backwards, never all at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import cv2
import numpy as np

from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Media, Part
from cnn_core.images.reader import Imread, Reader, pixels

T = TypeVar("T")
CHUNK = 32  # frames in memory when a clip is read backwards
FPS = 25.0  # of a folder's frames, and of a video whose header has none
CUT_SHORT = "ends early"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame: its number from 0, and its image, uint8 (H, W, 3) BGR, or why it has none."""

    number: int
    image_id: str
    file: str
    image: np.ndarray | BadImage


class Clip:
    """The frames of a whole video, or of files in their order, which ``imread`` reads."""

    def __init__(self, part: Part, *, vid_stride: int = 1, imread: Imread | None = None) -> None:
        self.part = dataclasses.replace(part, first=0)
        self.vid_stride, self._imread = vid_stride, imread or (lambda _: None)

    def __len__(self) -> int:
        """How many frames there should be; a video may end earlier than its header says."""
        return len(self.part)

    @property
    def name(self) -> str:
        """What the ids of its frames have in common: a video's id, or the folder of files."""
        if self.part.kind == "video":
            return self.part.ids[0]
        return str(PurePosixPath(self.part.ids[0]).parent) if "/" in self.part.ids[0] else Path(self.part.path).name

    @property
    def fps(self) -> float:
        """Frames in a second, counting those that are read."""
        if self.part.kind != "video":
            return FPS
        capture = cv2.VideoCapture(self.part.path)
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
        finally:
            capture.release()
        return (fps if 0 < fps < 1000 else FPS) / self.vid_stride

    @property
    def image_ids(self) -> list[str]:
        if self.part.kind == "video":
            return [f"{self.part.ids[0]}#{number:06d}" for number in range(1, len(self) + 1)]
        return list(self.part.ids)

    @property
    def names(self) -> set[str]:
        """The names by which a person may call it."""
        path = Path(self.part.path)
        if self.part.kind == "files":
            path /= PurePosixPath(self.part.names[0]).parent
        return {self.name, str(path), path.name, path.stem}

    def __iter__(self) -> Iterator[Frame]:
        return self._frames(self.part, Reader(vid_stride=self.vid_stride))

    def backwards(self, last: int, keep: Callable[[Frame], T]) -> Iterator[T]:
        """Yield ``keep(frame)`` from frame ``last`` down to frame 0; `CHUNK` are in memory.

        A video is decoded from its beginning for every chunk: seeking is not exact in all formats,
        and decoding is quick beside what is done with the frames.
        """
        parts = Media(spans=(self.part,), left_out={}, signature="").parts(CHUNK)
        for part in reversed(parts[: last // CHUNK + 1]):
            frames = self._frames(part, Reader(vid_stride=self.vid_stride))
            yield from reversed([keep(frame) for frame in frames if frame.number <= last])

    def _frames(self, part: Part, reader: Reader) -> Iterator[Frame]:
        for entry in reader(part):
            image: np.ndarray | BadImage
            try:
                image = _coloured(pixels(entry, self._imread))
            except BadImage as error:
                image = error
            yield Frame(number=entry.number, image_id=entry.image_id, file=entry.file, image=image)


def _coloured(image: np.ndarray) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] == 3:
        return image
    return np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, axis=2)


def clip_parts(media: Media, *, folders: bool) -> list[Part]:
    """One part for every video; with ``folders`` also one for every folder of images, in `natural` order.

    Raises:
        ValueError: ``folders``, and images are in a .zip or Parquet file.
    """
    parts = []
    for span in media.spans:
        if span.kind == "video":
            parts.append(span)
        elif folders and span.kind == "files":
            parts += _by_folder(span)
        elif folders:
            raise ValueError(
                f"{span.path}: frames of a video are read from a folder or a video, not from a {span.kind}"
            )
    return parts


def _by_folder(span: Part) -> list[Part]:
    folders: dict[str, list[tuple[str, str]]] = {}
    for name, image_id in zip(span.names, span.ids, strict=True):
        folders.setdefault(str(PurePosixPath(name).parent), []).append((name, image_id))
    parts, first = [], span.first
    for files in folders.values():
        names, ids = zip(*sorted(files, key=lambda file: natural(file[0])), strict=True)
        parts.append(dataclasses.replace(span, start=0, stop=len(names), first=first, names=names, ids=ids))
        first += len(names)
    return parts


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts digits by their value, so that 2 comes before 10."""
    pieces = re.split(r"(\d+)", name)
    return [(int(piece), "") if index % 2 else (-1, piece) for index, piece in enumerate(pieces)]


def shortfall(clip: Clip, read: int) -> BadImage | None:
    """Say why a video is not whole. Headers are often wrong by a frame or two, or by a hundredth: that is none."""
    missing = len(clip) - read
    if clip.part.kind != "video" or read == 0 or missing <= max(2, len(clip) // 100):
        return None
    detail = f"its header says {len(clip):,} frames, and {read:,} can be read: it is cut short or damaged there"
    return BadImage(CUT_SHORT, detail)
