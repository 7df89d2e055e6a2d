"""Parquet files with encoded images and labels, as Hugging Face's ``datasets`` writes them.

A column is a struct of ``bytes`` and ``path``, or binary; another one holds the label: a whole number whose names
stand in the schema's metadata (``huggingface``: the features, ``ClassLabel``), or a text. Parts are told by the names
of files (``train-00000-of-00001.parquet``) or of folders. Where images have several labels, the column is a list of
such labels, or a text with several. https://huggingface.co/docs/datasets/about_dataset_features
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cnn_core.data.layouts.label_tables import part_of_path
from cnn_core.data.layouts.multilabels import ADVICE, SeveralLabelsError, has_several, labels_in, separator_of
from cnn_core.data.layouts.parts import PARTS, TRAIN, part_in_name
from cnn_core.data.sources import sorted_names
from cnn_core.images.archives import SourceFiles

ENDING = ".parquet"
NO_BYTES = "no bytes in the table"
_LABELS = ("label", "labels", "fine_label", "class", "category", "target", "y", "name")
_ROWS = 64  # of images in memory at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetFile:
    """One file: its part, the columns of image and label (None: none), and the names of labels in its schema.

    ``separator`` parts the labels in a text; None = the cell is one label, or a list of them.
    """

    name: str
    part: str
    rows: int
    image: str
    label: str | None
    names: Sequence[str] | None
    separator: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetRow:
    """One row: ``labels`` are the names of its classes, sorted; None where the cell is empty."""

    id: str
    name: str
    data: bytes | None
    labels: tuple[str, ...] | None


def find_parquet(files: SourceFiles, *, multilabel: bool | None = None) -> list[ParquetFile]:
    """The Parquet files of a source that hold images, train first.

    Raises:
        SeveralLabelsError: the labels are lists, and ``multilabel`` is not true.
        ValueError: one is damaged, or has several columns that may be the label.
    """
    tables = []
    for name in files.names:
        if PurePosixPath(name).suffix.lower() == ENDING:
            with _open(files, name) as file:
                if image := _image_column(file.schema_arrow):
                    label, names = _label_column(file.schema_arrow, image, files.at(name), multilabel=multilabel)
                    separator = _separator(file, label) if multilabel and label else None
                    part = part_in_name(PurePosixPath(name).stem) or part_of_path(name) or TRAIN
                    shared = {"name": name, "part": part, "rows": file.metadata.num_rows, "image": image}
                    tables.append(ParquetFile(**shared, label=label, names=names, separator=separator))
    return sorted(tables, key=lambda each: (PARTS.index(each.part), each.name))


def parquet_labels(files: SourceFiles, tables: Sequence[ParquetFile]) -> dict[str, set[tuple[str, ...]]]:
    """The different labels of each part, by reading the column of labels alone."""
    labels: dict[str, set[tuple[str, ...]]] = {part: set() for part in PARTS}
    for table in tables:
        if table.label:
            with _open(files, table.name) as file:
                values = file.read(columns=[table.label])[table.label]
            different = values.to_pylist() if _is_list(values.type) else values.unique().to_pylist()
            labels[table.part] |= {names for value in different if (names := _names(value, table)) is not None}
    return {part: names if part == TRAIN or names != {()} else set() for part, names in labels.items()}


def refuse_several(labels: Iterable[tuple[str, ...]], tables: Sequence[ParquetFile]) -> None:
    """Raises `SeveralLabelsError` where texts that were read as one label hold several."""
    texts = {name for names in labels for name in names}
    if not any(table.names for table in tables) and has_several(texts):
        separator = separator_of(texts)
        example = next(text for text in sorted(texts) if len(labels_in(text, separator)) > 1)
        raise SeveralLabelsError(f"{tables[0].name} has several labels in a cell, such as {example!r}: {ADVICE}")


def sort_classes(classes: set[str], tables: Sequence[ParquetFile]) -> tuple[str, ...]:
    """The classes in the order of the schema that names them, else sorted."""
    names = next((table.names for table in tables if table.names), None)
    return tuple(name for name in names if name in classes) if names else sorted_names(classes)


def read_parquet(files: SourceFiles, table: ParquetFile, start: int) -> Iterator[list[ParquetRow]]:
    """Yield the rows in blocks; their ids count on from ``start`` within the part."""
    columns = [table.image, *([table.label] if table.label else [])]
    number = start
    with _open(files, table.name) as file, _arrow_errors(files.at(table.name)):
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            cells = batch.column(0).to_pylist()
            labels = batch.column(1).to_pylist() if table.label else [None] * len(cells)
            rows = []
            for cell, label in zip(cells, labels, strict=True):
                number += 1
                data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
                rows.append(
                    ParquetRow(id=f"{table.part}/{number:06d}", name=path or "", data=data, labels=_names(label, table))
                )
            yield rows


def _names(cell: Any, table: ParquetFile) -> tuple[str, ...] | None:
    """The names of the labels in a cell; None where it is empty or secret."""
    if cell is None:
        return None
    if table.separator:
        return labels_in(cell, table.separator)
    labels = [_name(label, table) for label in (cell if isinstance(cell, list) else [cell])]
    if isinstance(cell, list):
        return tuple(sorted({label for label in labels if label is not None}))
    return None if labels[0] is None else (labels[0],)


def _separator(file: pq.ParquetFile, label: str) -> str | None:
    """The separator of the labels in a column of texts; None of other columns."""
    values = file.read(columns=[label])[label]
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return None
    return separator_of(text for text in values.unique().to_pylist() if text)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _name(label: Any, table: ParquetFile) -> str | None:
    """The name of a label as it is stored; -1, which ``datasets`` writes where a label is secret, is none."""
    if label is None or (table.names and not 0 <= label < len(table.names)):
        return None
    if table.names:
        return table.names[label]
    return None if label == -1 else str(label)


@contextlib.contextmanager
def _open(files: SourceFiles, name: str) -> Iterator[pq.ParquetFile]:
    with contextlib.ExitStack() as stack:
        opened: IO[bytes] = stack.enter_context(files.open(name))
        if files.path.is_file():  # a .zip unpacks anew for each step back, and Parquet begins at the end
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(opened, copy, 1 << 20)
            copy.seek(0)
            opened = copy
        with _arrow_errors(files.at(name)):
            file = stack.enter_context(pq.ParquetFile(opened))
        yield file


@contextlib.contextmanager
def _arrow_errors(where: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(f"{where} is no whole Parquet file ({str(error).splitlines()[0]}): get it again") from None


def _image_column(schema: pa.Schema) -> str | None:
    """The first column of structs with bytes, or else of bytes."""
    structs = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    binary = [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
    return next(iter([*structs, *binary]), None)


def _label_column(
    schema: pa.Schema, image: str, where: str, *, multilabel: bool | None
) -> tuple[str | None, Sequence[str] | None]:
    """The column of the labels and their names: a ClassLabel, else one that is called so, else the only other one."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(content).get("info", {}).get("features", {})
    named = {name: names for name, feature in features.items() if (names := _class_names(feature)) is not None}
    lists = [field.name for field in schema if field.name != image and _is_list_of_labels(field.type)]
    columns = [field.name for field in schema if field.name != image and _is_scalar(field.type)]
    columns = [*lists, *columns] if multilabel else columns
    for candidates in ([name for name in named if name in columns], columns):
        for label in _LABELS:
            if label in candidates:
                return label, named.get(label)
        if len(candidates) == 1:
            return candidates[0], named.get(candidates[0])
    if lists and (len(lists) == 1 or set(lists) & set(_LABELS)) and multilabel is None:
        raise SeveralLabelsError(f"{where} has lists of labels in the column {lists[0]}: {ADVICE}")
    if not columns:
        return None, None
    raise ValueError(f"{where} has the columns {', '.join(columns)}: name the one of the labels label")


def _is_list_of_labels(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_scalar(kind.value_type)


def _is_scalar(kind: pa.DataType) -> bool:
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return texts or pa.types.is_integer(kind) or pa.types.is_dictionary(kind)


def _class_names(feature: Any) -> Sequence[str] | None:
    """The names of a ClassLabel, or of a list of them, as ``datasets`` describes it in its versions."""
    if isinstance(feature, list) and feature:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _class_names(feature.get("feature"))
    return feature["names"] if feature.get("_type") == "ClassLabel" else None
