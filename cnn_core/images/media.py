"""A source of images, listed in parts: a folder, a .zip, Parquet, videos, a file.

A `Media` lists names and numbers only; `reader` reads the pixels of a `Part`. Parts follow from the
listing and their size alone, so an interrupted run finds them again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cnn_core.annotations.tables import image_ids
from cnn_core.images.archives import open_files
from cnn_core.images.decoding import ENDINGS, BadImage
from cnn_core.images.lists import is_list, read_list

VIDEOS = frozenset("asf avi gif m4v mkv mov mp4 mpeg mpg ts wmv webm".split())  # noqa: SIM905
ADVICE = (
    "name a folder, a .zip, a .parquet file or a folder of them, a video, an image, or a .txt or .csv list of images"
)
MAX_BYTES = 1 << 40  # of a .zip, unpacked; it is read entry by entry
ID_COLUMNS = ("image_id", "id")
IMAGE_COLUMNS = ("image", "img", "bytes", "image_bytes", "content", "jpg", "jpeg", "png")

Kind = Literal["files", "zip", "parquet", "video"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Some consecutive images of a source.

    Attributes:
        path: for the kind files, the folder of ``names``; else the file that holds the images.
        names: for the kinds files and zip.
        ids: the images' ids; for a video, the one id that its frames' ids begin with; for Parquet, none.
        start, stop: for Parquet, rows; for a video, frames counted with their stride.
        first: how many images of the source come before this part.
    """

    kind: Kind
    path: str
    start: int
    stop: int
    first: int
    names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        if self.names:
            which = self.names[0] if len(self) == 1 else f"{self.names[0]} to {self.names[-1]} ({len(self):,} images)"
            return f"{self.path}/{which}"
        unit = "frames" if self.kind == "video" else "rows"
        return f"{self.path}, {unit} {self.start:,} to {self.stop - 1:,}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One image to be decoded.

    Attributes:
        file: where it was read, for messages; ``clip.mp4#000012`` for a frame.
        number: in the source, from 0.
        content: a path, encoded bytes, a video's frame (BGR), or why there is nothing.
    """

    image_id: str
    file: str
    number: int
    content: Path | bytes | np.ndarray | BadImage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
    """The listing of a source."""

    spans: tuple[Part, ...]
    left_out: dict[str, int]  # counts of what is not read: files by their ending, hidden ones, …
    signature: str  # changes with names, sizes and times of change
    vid_stride: int = 1  # keep every n-th video frame; readers must use the same stride

    @property
    def count(self) -> int:
        """How many images there should be; a video may end earlier than its header says."""
        return sum(map(len, self.spans))

    @property
    def videos(self) -> list[Part]:
        return [span for span in self.spans if span.kind == "video"]

    def parts(self, size: int) -> list[Part]:
        """Cut the source, in order, into parts of at most ``size`` images."""
        return [
            _cut(span, start, min(start + size, span.stop))
            for span in self.spans
            for start in range(span.start, span.stop, size)
        ]


def _cut(span: Part, start: int, stop: int) -> Part:
    by_name = span.kind in ("files", "zip")
    return dataclasses.replace(
        span,
        start=start,
        stop=stop,
        first=span.first + start - span.start,
        names=span.names[start:stop] if by_name else (),
        ids=span.ids[start:stop] if by_name else span.ids,
    )


def check_source(source: str | Path) -> None:
    """Refuse a pattern: a source must be a file or a folder, on which DVC can depend.

    Raises:
        ValueError: the source is a pattern; the message says what to name instead.
    """
    parts = Path(source).parts
    first = next((index for index, part in enumerate(parts) if set(part) & set("*?[")), None)
    if first is None or Path(source).exists():
        return
    folder, pattern = Path(*parts[:first]), PurePosixPath(*[part for part in parts[first:] if part != "**"])
    raise ValueError(
        f"source must be a folder or a file, not the pattern {str(source)!r}: name the folder {str(folder)!r} and let "
        f"match choose files in it, at any depth: {str(pattern)!r}"
    )


def list_media(source: str | Path, *, match: str = "*", vid_stride: int = 1) -> Media:
    """List the images below ``source``, at any depth, without reading one.

    Args:
        match: which files in a folder or .zip count, as for `PurePath.match`: ``*.jpg``, ``2024-*/*.png``.
        vid_stride: keep every n-th video frame.

    Raises:
        ValueError: nothing is there, or nothing in it is an image; the message says what can be named.
    """
    path = Path(source).expanduser()
    check_source(path)
    if not path.exists():
        raise ValueError(f"the source {source} does not exist: {ADVICE}")
    suffix = _suffix(path.name)
    if path.is_file() and suffix == "parquet":
        return _of_parquet([path], path)
    if path.is_file() and (suffix == "zip" or (suffix not in ENDINGS | VIDEOS and zipfile.is_zipfile(path))):
        return _of_zip(path, match)
    if is_list(path):
        names, again = read_list(path)
        return _of_files(Path(), _matching(names, match, again, source), source, vid_stride, again, strict=False)
    if path.is_file():
        return _of_files(path.parent, [path.name], source, vid_stride, Counter(), strict=False)
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        left_out = Counter(files.left_out)
        names = _matching(files.names, match, left_out, source)
    tables = [name for name in names if _suffix(name) == "parquet"]
    parts = [name for name in tables if Path(name).stem.startswith("part-")]
    if parts and (path / "manifest.json").is_file():  # data/raw/<set>: its other tables hold no images
        return _of_parquet([path / name for name in parts], path)
    if tables and not any(_suffix(name) in ENDINGS | VIDEOS for name in names):
        return _of_parquet([path / name for name in tables], path)
    return _of_files(path, names, source, vid_stride, left_out)


def _matching(names: Sequence[str], match: str, left_out: Counter[str], source: object) -> list[str]:
    matching = [name for name in names if PurePosixPath(name).match(match)]
    if names and not matching:
        raise ValueError(f"no file in {source} matches {match!r}")
    if len(matching) < len(names):
        left_out[f"that do not match {match}"] += len(names) - len(matching)
    return matching


def _suffix(name: str) -> str:
    return Path(name).suffix[1:].lower()


def _of_files(
    base: Path,
    names: Sequence[str],
    source: object,
    vid_stride: int,
    left_out: Counter[str],
    *,
    strict: bool = True,
) -> Media:
    """List files; ``strict`` leaves out those that their ending does not call images or videos."""
    usable = [name for name in names if not strict or _suffix(name) in ENDINGS | VIDEOS]
    read = set(usable)
    left_out = left_out + Counter(f".{_suffix(name)}" for name in names if name not in read)
    if not usable:
        raise ValueError(_no_images(source, left_out))
    ids = dict(zip(usable, image_ids(usable), strict=True))
    pictures = [name for name in usable if _suffix(name) not in VIDEOS]
    spans, first = [], 0
    if pictures:
        first, listed = len(pictures), tuple(ids[name] for name in pictures)
        spans.append(
            Part(kind="files", path=str(base), start=0, stop=first, first=0, names=tuple(pictures), ids=listed)
        )
    for name in usable:
        if _suffix(name) in VIDEOS:
            frames = count_frames(Path(base, name), vid_stride)
            path = str(Path(base, name))
            spans.append(Part(kind="video", path=path, start=0, stop=frames, first=first, ids=(ids[name],)))
            first += frames
    signature = _signature([Path(base, name) for name in usable], vid_stride)
    return Media(spans=tuple(spans), left_out=dict(left_out), signature=signature, vid_stride=vid_stride)


def count_frames(path: Path, vid_stride: int) -> int:
    """Count the frames of a video by its header, or else one by one. At least 1, so that a bad video comes up."""
    capture = cv2.VideoCapture(str(path))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 1
        if count <= 0:
            count = 0
            while capture.grab():
                count += 1
        return max(1, count // vid_stride)
    finally:
        capture.release()


def _no_images(source: object, left_out: Iterable[str]) -> str:
    return f"{source} holds no images (found: {', '.join(sorted(left_out)) or 'nothing'}): {ADVICE}"


def _of_zip(path: Path, match: str) -> Media:
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        left_out = Counter(files.left_out)
        matching = _matching(files.names, match, left_out, path)
    names = [name for name in matching if _suffix(name) in ENDINGS]
    left_out += Counter(f".{_suffix(name)}" for name in matching if _suffix(name) not in ENDINGS)
    if not names:
        raise ValueError(_no_images(path, left_out))
    span = Part(
        kind="zip", path=str(path), start=0, stop=len(names), first=0, names=tuple(names), ids=tuple(image_ids(names))
    )
    return Media(spans=(span,), left_out=dict(left_out), signature=_signature([path]))


def _of_parquet(paths: Sequence[Path], source: Path) -> Media:
    spans, first, ids = [], 0, []
    for path in paths:
        try:
            opened = pq.ParquetFile(path)
            image_column(opened.schema_arrow, path)
            count = opened.metadata.num_rows
            if (column := id_column(opened.schema_arrow)) is not None:
                ids.append(pq.read_table(path, columns=[column])[column].cast(pa.large_string()))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is no whole Parquet file ({error}): get it again") from None
        if count:
            spans.append(Part(kind="parquet", path=str(path), start=0, stop=count, first=first))
        first += count
    if not first:
        raise ValueError(f"{source} holds no images: {ADVICE}")
    chunks = [chunk for column in ids for chunk in column.chunks]
    if chunks and len(pa.chunked_array(chunks).unique()) < sum(map(len, chunks)):
        raise ValueError(f"{source} has an id twice: the ids of images must differ, or leave the column out")
    return Media(spans=tuple(spans), left_out={}, signature=_signature(paths))


def _signature(paths: Sequence[Path], vid_stride: int = 1) -> str:
    exist = [path for path in paths if path.exists()]  # a list may name a file that is gone
    stats = [(str(path), stat.st_size, stat.st_mtime_ns) for path in exist for stat in [path.stat()]]
    return hashlib.sha256(repr((vid_stride, stats)).encode()).hexdigest()


def id_column(schema: pa.Schema) -> str | None:
    return next((name for name in ID_COLUMNS if name in schema.names), None)


def image_column(schema: pa.Schema, path: str | Path) -> str:
    """The column with encoded images: bytes, or a struct with ``bytes`` as Hugging Face writes it.

    Raises:
        ValueError: there is none.
    """
    for name in [*IMAGE_COLUMNS, *schema.names]:
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and (_is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)):
            return name
    raise ValueError(f"{path} has no column of image bytes; it has {', '.join(schema.names)}")


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
