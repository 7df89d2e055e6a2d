"""Objects in images as tables of boxes, classes and masks: one schema for truth and results.

    <folder>/images.parquet    one row an image: `IMAGES`
             objects.parquet   one row an object: `OBJECTS`
             manifest.json     schema version, classes, counts, source; written last

Boxes are xyxy in pixels of the original image, in continuous coordinates: pixel 0 reaches from 0.0
to 1.0, so the box of a mask that covers columns 3 to 5 has x1 = 3.0 and x2 = 6.0. Masks are COCO's
run lengths as text. `coco` reads and writes COCO JSON, `yolo_labels` Ultralytics' text labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cnn_core.files import read_json

SCHEMA_VERSION = 1
# Column -> (pandas dtype, Arrow type). A table may have further columns behind these.
IMAGES = {
    "image_id": ("str", pa.string()),
    "file": ("str", pa.string()),
    "width": ("int64", pa.int64()),
    "height": ("int64", pa.int64()),
    "split": ("str", pa.string()),
}
OBJECTS = {
    "image_id": ("str", pa.string()),
    "class_id": ("int64", pa.int64()),
    "class_name": ("str", pa.string()),
    "x1": ("float64", pa.float64()),
    "y1": ("float64", pa.float64()),
    "x2": ("float64", pa.float64()),
    "y2": ("float64", pa.float64()),
    "score": ("float64", pa.float64()),  # NaN in truth
    "rle": ("object", pa.string()),  # None where there is no mask
    "track_id": ("Int64", pa.int64()),  # missing where nothing was tracked
}
_ABSENT = {"score": float("nan"), "rle": None, "track_id": None, "split": ""}
BOX = ["x1", "y1", "x2", "y2"]

Annotations = tuple[pd.DataFrame, pd.DataFrame, list[str]]  # images, objects, classes


def objects_table(rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Make a table with the columns and dtypes of `OBJECTS`.

    Raises:
        ValueError: a column other than ``score``, ``rle`` and ``track_id`` is missing.
    """
    return _table(rows, OBJECTS)


def images_table(rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Make a table with the columns and dtypes of `IMAGES`.

    Raises:
        ValueError: a column other than ``split`` is missing, or two rows have one image_id.
    """
    table = _table(rows, IMAGES)
    if (again := table["image_id"].duplicated()).any():
        raise ValueError(f"the image_id {table['image_id'][again].iloc[0]!r} stands in the images' table twice")
    return table


class ImageRow(NamedTuple):
    image_id: str
    file: str
    width: int
    height: int
    split: str


def image_rows(images: pd.DataFrame) -> Iterator[ImageRow]:
    return itertools.starmap(ImageRow, images[[*ImageRow._fields]].itertuples(index=False, name=None))


def _table(rows: Iterable[Mapping[str, Any]] | pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    frame = rows.reset_index(drop=True) if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    frame = frame.copy()
    for name, (dtype, _) in columns.items():
        if name not in frame:
            if len(frame) and name not in _ABSENT:
                raise ValueError(f"the table has no column {name!r}; it needs {', '.join(columns)}")
            frame[name] = pd.Series([_ABSENT.get(name)] * len(frame), dtype=dtype, index=frame.index)
        elif dtype == "object":  # Parquet and pandas may have turned None into NaN
            texts = [value if isinstance(value, str) else None for value in frame[name]]
            frame[name] = pd.Series(texts, dtype=object, index=frame.index)
        else:
            frame[name] = frame[name].astype(dtype)
    return frame[[*columns, *(name for name in frame if name not in columns)]]


def write_objects(path: str | Path, frame: pd.DataFrame) -> None:
    _write(path, objects_table(frame), OBJECTS)


def read_objects(path: str | Path) -> pd.DataFrame:
    return objects_table(pd.read_parquet(path))


def write_images(path: str | Path, frame: pd.DataFrame) -> None:
    _write(path, images_table(frame), IMAGES)


def read_images(path: str | Path) -> pd.DataFrame:
    return images_table(pd.read_parquet(path))


def _write(path: str | Path, frame: pd.DataFrame, columns: Mapping[str, Any]) -> None:
    """Write with one Arrow schema: the column of masks has its type also where there is no mask."""
    schema = pa.schema([(name, kind) for name, (_, kind) in columns.items()])
    others = [name for name in frame if name not in columns]
    schema = pa.schema([*schema, *pa.Schema.from_pandas(frame[others], preserve_index=False)])
    pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(), path)


def read_annotations(folder: str | Path, split: str | None = None) -> Annotations:
    """Read one split, or all, of a folder as the head of this module shows it.

    ``file``, which is stored relative to the folder, becomes a path below ``folder``.

    Raises:
        ValueError: the folder is missing, not whole or of another version, or has no such split.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json", made_by="compose")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        version = manifest.get("schema_version")
        raise ValueError(f"{folder} has schema version {version}, not {SCHEMA_VERSION}: run the stage compose again")
    images, objects = read_images(folder / "images.parquet"), read_objects(folder / "objects.parquet")
    if split is not None:
        if split not in set(images["split"]):
            raise ValueError(f"{folder} has no images of the split {split!r}; it has {', '.join(manifest['counts'])}")
        images = images[images["split"] == split].reset_index(drop=True)
        objects = objects[objects["image_id"].isin(images["image_id"])].reset_index(drop=True)
    images["file"] = [str(folder / file) for file in images["file"]]
    return images, objects, list(manifest["classes"])


def class_name(class_id: int, classes: Sequence[str]) -> str:
    """Give the name of a class by its number, or raise a ValueError."""
    if not 0 <= class_id < len(classes):
        raise ValueError(f"there is no class {class_id}: the {len(classes)} classes are numbered from 0")
    return classes[class_id]


def image_ids(files: Sequence[str]) -> list[str]:
    """Name each file by its path behind the last folder ``images``, or else its whole path, without its ending.

    Where two files would share a name (a.jpg beside a.png), all keep their endings.
    """
    behind = [f"/{Path(file).as_posix()}".rsplit("/images/", 1)[-1].lstrip("/") for file in files]
    names = [str(Path(file).with_suffix("")) for file in behind]
    if len(set(names)) == len(names):
        return names
    return behind if len(set(behind)) == len(behind) else [Path(file).as_posix() for file in files]
