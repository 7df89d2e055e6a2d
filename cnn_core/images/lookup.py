"""Which images of a source a table is about, by their ids or by their files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        self._others: dict[str, set[str]] | None = None  # the ends of files' paths, and numbers without zeros in front

    def resolved(self, frame: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Keep the rows of images of this source, with the ``image_id`` of each; ``path`` is named in messages.

        An image's id and its file's name may stand for each other, and a number for one with zeros in front of it.

        Raises:
            ValueError: a row has no ``image_id`` or ``file``, or a file's name is that of several images.
        """
        columns = [column for column in ("image_id", "file") if column in frame]
        if not columns:
            raise ValueError(f"{path} has no column image_id or file; it has {listed(frame)}")
        named = [texts(frame[column]) for column in columns]
        names = named[0]
        if len(named) == 2 and not names.isin(self.ids).any():
            names = named[1]
        if names.isna().any():
            raise ValueError(f"{path}: {columns[0]} is missing in {int(names.isna().sum()):,} rows: it names the image")
        ids = {name: self._id(name, path) for name in names.unique()}
        self.unknown.update((name, None) for name, image_id in ids.items() if image_id is None)
        frame = frame.assign(image_id=pd.Series([ids[name] for name in names], index=frame.index))
        frame = frame[frame["image_id"].notna()].reset_index(drop=True)
        self.matched = self.matched or bool(len(frame))
        return frame

    def _id(self, name: str, path: Path) -> str | None:
        if name in self.ids:
            return name
        if (exact := self.by_file.get(_plain(name))) is not None:
            return exact
        if self._others is None:
            self._others = {}
            for file, image_id in self.by_file.items():
                parts = file.split("/")
                for start in range(1, len(parts)):
                    self._others.setdefault("/".join(parts[start:]), set()).add(image_id)
            for image_id in self.ids:
                if (number := image_id.rpartition("/")[2]).isdecimal():
                    self._others.setdefault(number.lstrip("0"), set()).add(image_id)
        same = self._others.get(name.lstrip("0") if name.isdecimal() else _plain(name), set())
        if len(same) > 1:
            raise ValueError(f"{path}: {name} could be any of {len(same)} images: name it with its folder")
        return next(iter(same), None)


def texts(values: pd.Series) -> pd.Series:
    """A column of names as texts; an empty one is missing. A whole number has no point, whatever its type."""
    return pd.Series([_text(value) for value in values], index=values.index, dtype=object)


def _text(value: Any) -> str | None:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) or None


def _plain(file: str) -> str:
    return Path(file).as_posix()


def _parquet_ids(path: str) -> Iterator[str]:
    opened = pq.ParquetFile(path)
    column = id_column(opened.schema_arrow)
    if column is None:
        return (f"{Path(path).stem}:{row}" for row in range(opened.metadata.num_rows))
    names = pq.read_table(path, columns=[column])[column].to_pylist()
    return (f"{Path(path).stem}:{row}" if name is None else str(name) for row, name in enumerate(names))


def listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns)) or "no column"
