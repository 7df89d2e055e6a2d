"""Shared by the tests of annotations: a small set of images and objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cnn_core.annotations.masks import encode_mask, mask_box
from cnn_core.annotations.tables import BOX, images_table, objects_table

CLASSES = ["cat", "dog", "yes"]  # yes: YAML would read the bare word as a boolean
WIDTH, HEIGHT = 61, 43


def blob(seed: int) -> np.ndarray:
    """A mask of several parts with holes."""
    cells = np.random.default_rng(seed).random((9, 13)) < 0.5
    return np.kron(cells, np.ones((5, 5), bool))[:HEIGHT, :WIDTH]


def write_set(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Five images, the third without an object, in a folder laid out as Ultralytics wants it."""
    images, objects = [], []
    for i in range(5):
        split = "train" if i < 3 else "val"
        file = folder / "images" / split / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), i, np.uint8)).save(file)
        row = {"image_id": f"{split}/{i}", "file": str(file), "width": WIDTH, "height": HEIGHT, "split": split}
        images.append(row)
        for j in range(0 if i == 2 else 2):
            mask = blob(10 * i + j)
            number = (i + j) % 3
            box = dict(zip(BOX, mask_box(mask), strict=True))
            name = {"class_id": number, "class_name": CLASSES[number]}
            objects.append({"image_id": f"{split}/{i}", **name, **box, "rle": encode_mask(mask)})
    return images_table(images), objects_table(objects)
