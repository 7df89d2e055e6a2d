"""Which images of a source a table is about, by their ids or by their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from cnn_core.images.media import Media, id_column


class SourceImages:
    """The images of a source by their names.

    Attributes:
        matched: whether a table had a row of one of them.
        unknown: names in tables that are none of them, in order.
    """

    def __init__(self, media: Media) -> None:
        self.ids: set[str] = set()
        self.by_file: dict[str, str] = {}
        self.matched, self.unknown = False, dict[str, None]()
        for span in media.spans:
            if span.kind == "parquet":
                self.ids.update(_parquet_ids(span.path))
                continue
            if span.kind == "video":
                names = [f"#{number:06d}" for number in range(1, len(span) + 1)]
                pairs = [(span.ids[0] + name, span.path + name) for name in names]
            else:
                files = [str(Path(span.path, name)) for name in span.names]
                pairs = list(zip(span.ids, map(_plain, files), strict=True))
            self.ids.update(image_id for image_id, _ in pairs)
            self.by_file.update((file, image_id) for image_id, file in pairs)
        self.example = min(self.ids)
        self._by_name: dict[str, set[str]] | None = None

    def resolved(self, frame: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Keep the rows of images of this source, with the ``image_id`` of each; ``path`` is named in messages.

        Raises:
            ValueError: the rows have no column ``image_id`` or ``file``, or a file's name is that of several images.
        """
        by_id = "image_id" in frame and not ("file" in frame and not frame["image_id"].astype(str).isin(self.ids).any())
        if not by_id and "file" not in frame:
            raise ValueError(f"{path} has no column image_id or file; it has {listed(frame)}")
        names = frame["image_id" if by_id else "file"].astype(str)
        ids = {name: self._id(name, path, by_id) for name in names.unique()}
        self.unknown.update((name, None) for name, image_id in ids.items() if image_id is None)
        frame = frame.assign(image_id=pd.Series([ids[name] for name in names], index=frame.index))
        frame = frame[frame["image_id"].notna()].reset_index(drop=True)
        self.matched = self.matched or bool(len(frame))
        return frame

    def _id(self, name: str, path: Path, by_id: bool) -> str | None:
        if by_id:
            return name if name in self.ids else None
        if (exact := self.by_file.get(_plain(name))) is not None:
            return exact
        if self._by_name is None:
            self._by_name = {}
            for file, image_id in self.by_file.items():
                parts = file.split("/")
                for start in range(1, len(parts)):
                    self._by_name.setdefault("/".join(parts[start:]), set()).add(image_id)
        same = self._by_name.get(_plain(name), set())
        if len(same) > 1:
            raise ValueError(f"{path}: {name} could be any of {len(same)} images: name it with its folder")
        return next(iter(same), None)


def _plain(file: str) -> str:
    return Path(file).as_posix()


def _parquet_ids(path: str) -> Iterator[str]:
    opened = pq.ParquetFile(path)
    column = id_column(opened.schema_arrow)
    if column is None:
        return (f"{Path(path).stem}:{row}" for row in range(opened.metadata.num_rows))
    return map(str, pq.read_table(path, columns=[column])[column].to_pylist())


def listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns)) or "no column"
