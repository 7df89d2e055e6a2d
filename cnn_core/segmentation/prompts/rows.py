"""A table of prompts as a person or the stage `detect` writes it, checked, with one row for each box or point."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from cnn_core.annotations.tables import BOX
from cnn_core.images.lookup import listed, texts
from cnn_core.segmentation.segments import OBJECT

Kind = Literal["boxes", "points"]
POINT, SIZE = ["x", "y"], ["w", "h"]
PROMPTS = {
    "image_id": pa.string(),
    "prompt_id": pa.int64(),  # the prompt's number in its image
    "class_id": pa.int64(),
    "class_name": pa.string(),
    "track_id": pa.int64(),  # missing where nothing was tracked
    "prompt_score": pa.float64(),  # of the detection; NaN where there is none
    **dict.fromkeys([*BOX, *POINT], pa.float64()),  # NaN where there is none
    "label": pa.int64(),
}
TEXTS = ("image_id", "file", "class_name", "object")  # columns whose values are never taken for numbers
MOST_CLASSES = 1_000_000
_MISSING = {"", "na", "n/a", "nan", "<na>", "none", "null"}  # in the columns of numbers, in any case


def read_table(path: Path) -> pd.DataFrame:
    """Read a .parquet, .csv or .json file: a table, COCO results or COCO instances.

    Texts stay as they are, whatever they say: only an empty one is missing.

    Raises:
        ValueError: it cannot be read as a table.
    """
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        elif path.suffix.lower() == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False)
            frame.columns = [str(name).strip() for name in frame.columns]
        else:
            frame = _from_json(json.loads(path.read_text(encoding="utf-8-sig")))
    except (pa.ArrowInvalid, OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a table of prompts ({type(error).__name__}: {reason})") from None
    if (twice := frame.columns.duplicated()).any():
        raise ValueError(f"{path} has the column {frame.columns[twice][0]} twice")
    for name in frame:
        if name in TEXTS:
            frame[name] = texts(frame[name])
        elif not pd.api.types.is_numeric_dtype(frame[name]):
            values = [None if str(value).strip().lower() in _MISSING else value for value in frame[name]]
            frame[name] = pd.Series(values, index=frame.index, dtype=object)
    return _in_pixels(frame.dropna(how="all").reset_index(drop=True), path)


def _in_pixels(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Turn x, y, w, h into boxes, and refuse shares of an image's sides: in pixels they would lie in its first one."""
    sides = [name for name in (*SIZE, "width", "height") if name in frame]
    corner = "x1" not in frame and {"x", "y"} <= set(frame) and bool(sides)
    if corner and sides[:2] != SIZE:  # width and height beside them are the image's
        raise ValueError(
            f"{path} has x, y and {', '.join(sides)}: call the sides of a box w and h, with x and y its upper left "
            "corner; leave them out if x and y are a point"
        )
    for columns in ([*POINT, *SIZE],) if corner else (BOX, POINT):
        values = pd.concat([numbers_of(frame[name]) for name in columns if name in frame] or [pd.Series(dtype=float)])
        values = values.dropna()
        if len(values) and values.between(0, 1).all() and (values % 1 != 0).any():
            raise ValueError(
                f"{path}: all of {', '.join(columns)} lie between 0 and 1, as shares of the image do: prompts are in "
                "pixels, so multiply x by the image's width and y by its height"
            )
    if not corner:
        return frame
    left, top, width, height = (numbers_of(frame[name], name, path) for name in (*POINT, *SIZE))
    boxes = {"x1": left, "y1": top, "x2": left + width, "y2": top + height}
    return frame.drop(columns=[*POINT, *SIZE]).assign(**boxes)


def _from_json(content: Any) -> pd.DataFrame:
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():  # COCO instances
        files = {image["id"]: image["file_name"] for image in content["images"]}
        names = {category["id"]: category["name"] for category in content.get("categories", [])}
        content = [
            {**entry, "file_name": files[entry["image_id"]], "class_name": names.get(entry.get("category_id"))}
            for entry in content["annotations"]
        ]
    frame = pd.DataFrame(content, dtype=object)  # else pandas makes 7.0 of 7 where a value is missing
    if "bbox" not in frame:
        return frame
    boxes = [box if isinstance(box, list) else [None] * 4 for box in frame["bbox"]]
    sides = pd.DataFrame(boxes, columns=[*POINT, *SIZE], dtype=object, index=frame.index)
    # COCO numbers the images as it likes, so a file's name says more.
    replaced = [*POINT, *SIZE, *BOX, *(["image_id"] if "file_name" in frame else [])]
    frame = frame.drop(columns=replaced, errors="ignore").join(sides)
    if "category_id" in frame and "class_id" not in frame:
        frame = frame.assign(class_id=frame["category_id"])
        if "class_name" not in frame:
            frame["class_name"] = [f"category {number}" for number in frame["category_id"]]
    return frame.rename(columns={"file_name": "file"})


def rows_of(files: Sequence[Path], image_ids: Sequence[str]) -> pd.DataFrame:
    """Read the rows of some images in Parquet files."""
    image = ds.field("image_id")  # the range lets whole pieces of the files be passed over
    condition = (image >= min(image_ids)) & (image <= max(image_ids)) & image.isin(list(image_ids))
    table = ds.dataset([str(file) for file in files], format="parquet").to_table(filter=condition, use_threads=False)
    return table.to_pandas()


def with_classes(frame: pd.DataFrame, path: Path) -> tuple[list[str], pd.DataFrame]:
    """Give the user's classes, and the rows with both class_id and class_name; names alone are numbered by alphabet.

    Raises:
        ValueError: a class_id is no whole number, or has several names.
    """
    if "class_name" not in frame and "class_id" not in frame:
        return [str(OBJECT["class_name"])], frame.assign(**OBJECT)
    names = frame["class_name"] if "class_name" in frame else pd.Series(None, index=frame.index, dtype=object)
    if "class_id" not in frame:
        names = names.where(names.notna(), OBJECT["class_name"])
        classes = sorted(set(names))
        numbers = {name: number for number, name in enumerate(classes)}
        return classes, frame.assign(class_id=names.map(numbers).astype("int64"), class_name=names)
    ids = numbers_of(frame["class_id"])
    if not ((ids >= 0) & (ids % 1 == 0) & (ids < MOST_CLASSES)).all():
        raise ValueError(f"{path}: class_id must be a whole number from 0 to {MOST_CLASSES - 1:,} in every row")
    ids = ids.astype("int64")
    named = pd.DataFrame({"class_id": ids, "class_name": names})[names.notna()].drop_duplicates()
    if (twice := named["class_id"].duplicated()).any():
        raise ValueError(f"{path}: class_id {named['class_id'][twice].iloc[0]} has several names")
    name_of = dict(zip(named["class_id"], named["class_name"], strict=True))
    classes = [name_of.get(number, str(number)) for number in range(max(ids, default=-1) + 1)]
    return classes, frame.assign(class_id=ids, class_name=[classes[number] for number in ids])


def prompt_rows(frame: pd.DataFrame, path: Path, kind: Kind) -> pd.DataFrame:
    """Turn rows with the user's columns, or with those of the stage `detect`, into rows of `PROMPTS`.

    Raises:
        ValueError: a column or value is missing or wrong.
    """
    frame = _with_coordinates(frame, path)
    frame = frame[frame[["x1", "x"]].notna().any(axis=1)].reset_index(drop=True)
    if "object" in frame:
        # A row without an object is one by itself.
        names = [("name", name) if isinstance(name, str) else ("row", row) for row, name in enumerate(frame["object"])]
        objects = pd.Series(names, index=frame.index, dtype=object)
        frame["prompt_id"] = objects.groupby(frame["image_id"]).transform(lambda part: pd.factorize(part)[0])
        frame["prompt_id"] = frame["prompt_id"].astype("int64")
        keys = [frame["image_id"], frame["prompt_id"]]
        if (frame.groupby(keys)[BOX].nunique() > 1).any(axis=None):
            raise ValueError(f"{path}: an object has two boxes; rows of one object in an image have the same box")
        frame[BOX] = frame.groupby(keys)[BOX].transform("first")
        repeated = frame["x"].isna() & (
            frame["x"].notna().groupby(keys).transform("any") | frame.duplicated(["image_id", "prompt_id"])
        )
        frame = frame[~repeated].reset_index(drop=True)  # a row with the object's box alone
    else:
        frame["prompt_id"] = frame.groupby("image_id").cumcount()
    if kind == "boxes" and frame["x1"].isna().any():
        image_id = frame["image_id"][frame["x1"].isna()].iloc[0]
        raise ValueError(f"{path} has a point without a box (image {image_id}): set prompt to points")
    if kind == "points":
        frame["x"] = frame["x"].fillna((frame["x1"] + frame["x2"]) / 2)
        frame["y"] = frame["y"].fillna((frame["y1"] + frame["y2"]) / 2)
        frame[BOX] = float("nan")
    frame["prompt_score"] = _optional(frame, "score", path)
    tracks = _optional(frame, "track_id", path)
    if (wrong := tracks.notna() & ~((tracks.abs() < 2**53) & (tracks % 1 == 0))).any():
        raise ValueError(f"{path}: track_id must be a whole number, not {frame['track_id'][wrong].iloc[0]}")
    frame["track_id"] = tracks.astype("Int64")
    return frame[list(PROMPTS)]


def _with_coordinates(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Make all columns of coordinates float64, NaN where a row has none."""
    for name, columns in (("box", BOX), ("point", POINT)):
        missing = [column for column in columns if column not in frame]
        if missing and len(missing) < len(columns):
            raise ValueError(f"{path} has no column {missing[0]}; a {name} needs {', '.join(columns)}")
    if "x1" not in frame and "x" not in frame:
        raise ValueError(
            f"{path} has no prompts: it needs x1, y1, x2, y2 (or x, y, w, h) and/or x, y; it has {listed(frame)}"
        )
    frame = frame.copy()
    for name, columns in (("box", BOX), ("point", POINT)):
        for column in columns:
            frame[column] = _optional(frame, column, path)
        partial = frame[columns].isna().any(axis=1) & frame[columns].notna().any(axis=1)
        if partial.any():
            row = frame[partial].iloc[0]
            raise ValueError(f"{path}: a {name} of image {row['image_id']} lacks {row[columns].isna().idxmax()}")
    labels = _optional(frame, "label", path).fillna(1)
    if (wrong := ~labels.isin((0, 1))).any():
        value = frame["label"][wrong].iloc[0]
        raise ValueError(f"{path}: label must be 1 (inside the object) or 0 (outside), not {value}")
    frame["label"] = labels.astype("int64")
    return frame


def _optional(frame: pd.DataFrame, column: str, path: Path) -> pd.Series:
    if column in frame:
        return numbers_of(frame[column], column, path)
    return pd.Series(float("nan"), index=frame.index)


def numbers_of(values: pd.Series, name: str = "", path: Path | None = None) -> pd.Series:
    """Convert to float64; what is missing becomes NaN, and so does what is no finite number, unless ``path`` is given.

    Raises:
        ValueError: a value is no finite number; the message names the column ``name`` of ``path``.
    """
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.astype("float64")
    else:
        numbers = pd.Series([_number(value) for value in values], index=values.index, dtype="float64")
    if path is not None and (wrong := values.notna() & ~np.isfinite(numbers)).any():
        raise ValueError(f"{path}: {name} must be a number, not {values[wrong].iloc[0]}")
    return numbers


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
