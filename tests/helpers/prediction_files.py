"""Output folders as detect and segment leave them, made without a network: what is in a truth, as well as one likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from cnn_core.annotations.masks import encode_mask, mask_box
from cnn_core.annotations.tables import images_table, objects_table, write_images, write_objects
from cnn_core.files import write_json

CLASSES = list("0123456789")


def numbers_set(folder: Path, texts: Sequence[str], *, split: str = "test", side: int = 96) -> Path:
    """A set as compose writes it: pictures of side x side with printed light digits on dark, each with its mask."""
    (folder / "images" / split).mkdir(parents=True)
    images, objects = [], []
    for number, text in enumerate(texts):
        draws = np.random.default_rng(number)
        picture = draws.integers(20, 60, (side, side, 3), dtype=np.uint8)
        name = f"{split}/{number + 1:06d}"
        file = f"images/{name}.png"
        for place, letter in enumerate(text):
            ink = np.zeros((side, side), np.uint8)
            at = 5 + place * 28, 50 + 3 * place
            cv2.putText(ink, letter, at, cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 3, cv2.LINE_AA)
            picture[ink > 0] = np.maximum(picture, ink[..., None])[ink > 0]
            mask = ink >= 128
            box = dict(zip(("x1", "y1", "x2", "y2"), mask_box(mask), strict=True))
            row = {"image_id": name, "class_id": int(letter), "class_name": letter, **box, "rle": encode_mask(mask)}
            objects.append({**row, "source_id": "", "position": place})
        cv2.imwrite(str(folder / file), picture)
        images.append({"image_id": name, "file": file, "width": side, "height": side, "split": split, "text": text})
    write_images(folder / "images.parquet", images_table(images))
    write_objects(folder / "objects.parquet", objects_table(objects))
    write_json(folder / "manifest.json", {"schema_version": 1, "classes": CLASSES, "counts": {split: len(texts)}})
    return folder


def write_predictions(
    folder: Path,
    images: pd.DataFrame,
    objects: Sequence[Mapping[str, Any]] | pd.DataFrame,
    *,
    bad: Sequence[Mapping[str, Any]] = (),
    listed: Mapping[str, Any] | None = None,
) -> Path:
    """An output folder of detect, or of segment where the objects have masks; two parts."""
    folder.mkdir(parents=True)
    table = objects_table(objects)
    files = dict(zip(images["image_id"], images["file"], strict=True))
    table = table.assign(file=table["image_id"].map(files), model_sha256="00")
    half = len(table) // 2
    for number, part in enumerate((table[:half], table[half:])):
        write_objects(folder / f"part-{number:05d}.parquet", part)
    write_images(folder / "images.parquet", images_table(images))
    columns = ["image_id", "file", "reason", "detail"]
    pd.DataFrame(bad, columns=columns, dtype="str").to_parquet(folder / "bad.parquet", index=False)
    known = {"schema_version": 1, "classes": CLASSES, "model_sha256": "00", "counts": {}}
    write_json(folder / "manifest.json", known | ({"listed": listed} if listed else {}))
    return folder


def found_in(truth: pd.DataFrame, *, masks: bool, score: float = 0.8) -> pd.DataFrame:
    """The truth's objects as if found, with the ids of a source that is the folder of one split."""
    table = truth.assign(image_id=[name.rpartition("/")[2] for name in truth["image_id"]], score=score)
    if not masks:
        return table.assign(rle=None)
    number = table.groupby("image_id").cumcount()
    area = (table["x2"] - table["x1"]).astype("int64")
    return table.assign(area=area, stability=0.9, prompt_id=number, prompt_score=score)
