"""What a set of objects holds, in numbers: by class, size, shape and position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.annotations.tables import BOX

SMALL, LARGE = 0.1, 0.3  # limits of the sizes: the root of a box's share of its picture
FLAT, TALL = 2.0, 0.5  # limits of the shapes: width by height
THIRDS = ("left", "middle", "right"), ("top", "middle", "bottom")


def statistics(
    objects: pd.DataFrame,
    splits: Mapping[str, str],
    sizes: Mapping[str, tuple[int, int]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Count objects; ``splits`` and ``sizes`` (width, height) are by image_id.

    Returns:
        total, by_split, by_class (split -> class -> objects), with_mask, crowds, by_size, by_aspect, by_position (of
        the box's middle, in thirds of the picture), images_without_objects (by split), and most_in_an_image.
    """
    names = ("train", "val", "test")
    split = objects["image_id"].map(splits)
    pairs = pd.crosstab(split, objects["class_name"]) if len(objects) else pd.DataFrame()
    filled = set(objects["image_id"])
    empty = [part for name, part in splits.items() if name not in filled]
    boxes = objects[BOX].to_numpy(float).reshape(-1, 4)
    extents = np.array([sizes[name] for name in objects["image_id"]], float).reshape(-1, 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    share = np.sqrt(sides.prod(axis=1) / extents.prod(axis=1))
    aspect = sides[:, 0] / sides[:, 1]
    middle = np.minimum((boxes[:, :2] + boxes[:, 2:]) / 2 / extents * 3, 2).astype(int)
    cells = {
        f"{down} {across}": int(((middle[:, 0] == x) & (middle[:, 1] == y)).sum())
        for y, down in enumerate(THIRDS[1])
        for x, across in enumerate(THIRDS[0])
    }
    return {
        "total": len(objects),
        "by_split": {name: int((split == name).sum()) for name in names},
        "by_class": {
            name: {label: int(pairs.at[name, label]) if _has(pairs, name, label) else 0 for label in classes}
            for name in names
        },
        "with_mask": int(objects["rle"].notna().sum()),
        "crowds": int(objects["iscrowd"].sum()) if "iscrowd" in objects else 0,
        "by_size": _thirds(share, SMALL, LARGE, ("small", "medium", "large")),
        "by_aspect": _thirds(aspect, TALL, FLAT, ("tall", "square", "flat")),
        "by_position": cells,
        "images_without_objects": {name: empty.count(name) for name in names},
        "most_in_an_image": int(objects["image_id"].value_counts().max()) if len(objects) else 0,
    }


def _has(pairs: pd.DataFrame, split: str, label: str) -> bool:
    return split in pairs.index and label in pairs.columns


def _thirds(values: np.ndarray, low: float, high: float, names: tuple[str, str, str]) -> dict[str, int]:
    under, over = int((values < low).sum()), int((values >= high).sum())
    return dict(zip(names, (under, len(values) - under - over, over), strict=True))
