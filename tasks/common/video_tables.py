"""The tables of one video of `segment`, written in pieces to save memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from cnn_core.images.decoding import BadImage
from cnn_core.segmentation.segments import HIDDEN, LOW_SCORE
from tasks.common.prediction_parts import DROPPED_PROMPTS, MASK_COLUMNS, write_part, write_rows

if TYPE_CHECKING:
    from cnn_core.segmentation.video.segmenter import TrackedFrame

FRAMES = 512  # whose rows are in memory before they are written
TABLES = ("objects", "images", "bad")


class VideoTables:
    """The tables of a video: ``add`` every frame, then ``close``.

    Attributes:
        frames: the number of frames that could be read.
        last: the number of the last frame that was added.
        unread: the number of rows of ``bad``.
        seen: the objects that have a mask in some frame.
        lost: the numbers of the frames that could not be read.
        dropped: the prompts without a mask, rows of `DROPPED_PROMPTS`.
    """

    def __init__(self, folder: Path, sha256: str) -> None:
        self.folder, self.sha256 = folder, sha256
        self.frames, self.last, self.unread = 0, -1, 0
        self.seen: set[int] = set()
        self.lost: set[int] = set()
        self.dropped: list[dict[str, Any]] = []
        self._pieces: list[Path] = []
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def add(self, tracked: TrackedFrame, rows: list[dict[str, Any]]) -> None:
        """Add a frame and the rows of its objects, which lack model_sha256."""
        frame, self.last = tracked.frame, tracked.frame.number
        named = {"image_id": frame.image_id, "file": frame.file}
        if tracked.segments is None:
            assert isinstance(frame.image, BadImage)
            self.lost.add(frame.number)
            return self.add_bad(frame.image, **named)
        self.frames += 1
        self._rows["images"].append({**named, "width": tracked.segments.width, "height": tracked.segments.height})
        self._rows["objects"] += [{**row, "model_sha256": self.sha256} for row in rows]
        self.seen |= {row["track_id"] for row in rows}
        for number, why in tracked.segments.dropped.items():
            if why not in (HIDDEN, LOW_SCORE):  # the missing row of the object says so
                self.dropped.append({**named, "prompt_id": number, "reason": why})
        if len(self._rows["images"]) >= FRAMES:
            self._flush()
        return None

    def add_bad(self, fault: BadImage, **named: str) -> None:
        self.unread += 1
        self._rows["bad"].append({**named, "reason": fault.reason, "detail": fault.detail})

    def close(self) -> None:
        """Write the remaining rows, and join the pieces."""
        self._flush()
        for name in TABLES:
            files = [piece / f"{name}.parquet" for piece in self._pieces]
            with pq.ParquetWriter(self.folder / f"{name}.parquet", pq.read_schema(files[0])) as writer:
                for file in files:
                    writer.write_table(pq.read_table(file))
        for piece in self._pieces:
            shutil.rmtree(piece)
        write_rows(self.folder / "dropped.parquet", self.dropped, DROPPED_PROMPTS)

    def _flush(self) -> None:
        piece = self.folder / f".piece-{len(self._pieces):05d}"
        piece.mkdir()
        write_part(piece, self._rows["objects"], self._rows["images"], self._rows["bad"], MASK_COLUMNS)
        self._rows = {name: [] for name in TABLES}
        self._pieces.append(piece)
