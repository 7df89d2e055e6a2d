"""A table of prompts as a person or the stage `detect` writes it, checked, with one row for each box or point."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from cnn_core.annotations.tables import BOX
from cnn_core.images.lookup import listed
from cnn_core.segmentation.segments import OBJECT

Kind = Literal["boxes", "points"]
POINT = ["x", "y"]
MISSING = ["", "NA", "N/A", "nan", "NaN", "null", "None"]  # of a number in a CSV
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


def read_table(path: Path) -> pd.DataFrame:
    """Read a .parquet, .csv or .json file; a ValueError if it is no table."""
    texts = dict.fromkeys(("image_id", "file", "class_name", "object"), str)
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        if path.suffix.lower() == ".csv":
            columns = pd.read_csv(path, nrows=0, skipinitialspace=True).columns
            missing = {name: [""] if name in texts else MISSING for name in columns}  # a class may be called NA
            return pd.read_csv(path, dtype=texts, skipinitialspace=True, keep_default_na=False, na_values=missing)
        return pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
    except (pa.ArrowInvalid, OSError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a table of prompts ({type(error).__name__}: {reason})") from None


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
    if "class_id" not in frame:
        frame = frame.assign(class_name=frame["class_name"].fillna(OBJECT["class_name"]).astype(str))
        classes = sorted(set(frame["class_name"]))
        return classes, frame.assign(class_id=[classes.index(name) for name in frame["class_name"]])
    numbers = pd.to_numeric(frame["class_id"], errors="coerce")
    if not (numbers.notna() & (numbers >= 0) & (numbers % 1 == 0)).all():
        raise ValueError(f"{path}: class_id must be a whole number from 0 in every row")
    frame = frame.assign(class_id=numbers.astype("int64"))
    if "class_name" not in frame:
        frame["class_name"] = frame["class_id"].astype(str)
    named = frame.drop_duplicates(["class_id", "class_name"])
    if (twice := named["class_id"].duplicated()).any():
        raise ValueError(f"{path}: class_id {named['class_id'][twice].iloc[0]} has several names")
    names = dict(zip(named["class_id"], named["class_name"].astype(str), strict=True))
    return [names.get(number, str(number)) for number in range(max(names, default=-1) + 1)], frame


def prompt_rows(frame: pd.DataFrame, path: Path, kind: Kind) -> pd.DataFrame:
    """Turn rows with the user's columns, or with those of the stage `detect`, into rows of `PROMPTS`.

    Raises:
        ValueError: a column or value is missing or wrong.
    """
    frame = _numeric(frame, path)
    frame = frame[frame[["x1", "x"]].notna().any(axis=1)].reset_index(drop=True)
    if "object" in frame:
        numbers = frame.groupby("image_id")["object"].transform(lambda names: pd.factorize(names.astype(str))[0])
        frame["prompt_id"] = numbers.astype("int64")
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
    score = frame["score"] if "score" in frame else pd.Series(float("nan"), index=frame.index)
    frame["prompt_score"] = pd.to_numeric(score, errors="coerce").astype("float64")
    tracks = frame["track_id"] if "track_id" in frame else pd.Series(pd.NA, index=frame.index)
    frame["track_id"] = pd.to_numeric(tracks, errors="coerce").astype("Int64")
    return frame[list(PROMPTS)]


def _numeric(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Make all columns of coordinates float64, NaN where a row has none."""
    for name, columns in (("box", BOX), ("point", POINT)):
        missing = [column for column in columns if column not in frame]
        if missing and len(missing) < len(columns):
            raise ValueError(f"{path} has no column {missing[0]}; a {name} needs {', '.join(columns)}")
    if "x1" not in frame and "x" not in frame:
        raise ValueError(f"{path} has no prompts: it needs x1, y1, x2, y2 and/or x, y; it has {listed(frame)}")
    frame = frame.copy()
    for name, columns in (("box", BOX), ("point", POINT)):
        for column in columns:
            values = frame[column] if column in frame else pd.Series(float("nan"), index=frame.index)
            frame[column] = pd.to_numeric(values, errors="coerce").astype("float64")
            if (wrong := values.notna() & ~np.isfinite(frame[column])).any():
                raise ValueError(f"{path}: {column} must be a number, not {values[wrong].iloc[0]}")
        partial = frame[columns].isna().any(axis=1) & frame[columns].notna().any(axis=1)
        if partial.any():
            row = frame[partial].iloc[0]
            raise ValueError(f"{path}: a {name} of image {row['image_id']} lacks {row[columns].isna().idxmax()}")
    labels = frame["label"] if "label" in frame else pd.Series(1, index=frame.index)
    frame["label"] = pd.to_numeric(labels, errors="coerce").where(labels.notna(), 1)
    if (wrong := ~frame["label"].isin((0, 1))).any():
        raise ValueError(f"{path}: label must be 1 (inside the object) or 0 (outside), not {labels[wrong].iloc[0]}")
    frame["label"] = frame["label"].astype("int64")
    return frame
