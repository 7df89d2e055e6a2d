"""House numbers: ingested digits composed on generated walls, with exact boxes, classes and masks.

They give detection and segmentation a truth to be measured against without a download. Pictures of a split bear only
digits of the same split of the RAW set. The set is written in the shared schema (`annotations.tables`) and in the form
of Ultralytics:

    data/composed/numbers/images/<split>/000001.jpg …   labels/<split>/000001.txt …   data.yaml
                          images.parquet    with the further column text: the number from left to right
                          objects.parquet   with source_id (the digit's id in the RAW set) and position (0 = leftmost)
                          manifest.json     written last; it says that the set is generated
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cnn_core.annotations.masks import encode_mask, mask_box
from cnn_core.annotations.tables import SCHEMA_VERSION, images_table, objects_table, write_images, write_objects
from cnn_core.annotations.yolo_labels import SPLITS, write_yolo
from cnn_core.data.raw import decode_images, read_manifest, read_raw
from cnn_core.files import sha256_files, whole_folder, write_json
from cnn_core.synthetic.digits import INK, remove_specks
from cnn_core.synthetic.picture import ComposedPicture, ComposeParams, draw_picture

_SCENE, _COUNTS, _ORDER = range(3)  # the purposes of the random streams


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitInks:
    """The digits of one split: ``inks`` float32 (N, h, w) in 0..1, ``labels`` int64 (N,), and their ``ids``."""

    inks: np.ndarray
    labels: np.ndarray
    ids: list[str]


def read_digits(folder: str | Path, split: str) -> DigitInks:
    """Read the digits of a split without specks and without blank ones; raises ValueError if there are none."""
    rows = read_raw(folder, split)
    if not rows.ids:
        raise ValueError(f"{folder} has no images of the split {split}; raise {split}_fraction of the stage ingest")
    inks = decode_images(rows.images, "L")[:, 0].astype(np.float32) / 255
    inked = np.flatnonzero(inks.max(axis=(1, 2)) >= INK)
    if not len(inked):
        raise ValueError(f"{folder}: no image of the split {split} has light ink on a dark ground")
    return DigitInks(
        inks=np.stack([remove_specks(ink) for ink in inks[inked]]),
        labels=rows.labels[inked],
        ids=[rows.ids[number] for number in inked],
    )


def chosen_digits(scene: int, total: int, params: ComposeParams, split: str) -> np.ndarray:
    """Choose which of a split's ``total`` digits picture number ``scene`` bears, left to right.

    All digits are used equally often: the numbers of digits come in cycles, so it is clear how many all earlier
    pictures bear, and all digits are gone through in ever new orders.
    """
    part, counts = SPLITS.index(split), np.arange(params.digits_min, params.digits_max + 1)
    cycle, index = divmod(scene, len(counts))
    counts = np.random.default_rng([params.seed, part, _COUNTS, cycle]).permutation(counts)
    start = cycle * int(counts.sum()) + int(counts[:index].sum())
    slots = range(start, start + int(counts[index]))
    orders = [_order(params.seed, part, slot // total, total)[slot % total] for slot in slots]
    return np.array(orders, np.int64)


@functools.lru_cache(maxsize=16)
def _order(seed: int, part: int, turn: int, total: int) -> np.ndarray:
    return np.random.default_rng([seed, part, _ORDER, turn]).permutation(total)


def compose_picture(
    scene: int, digits: DigitInks, params: ComposeParams, split: str
) -> tuple[ComposedPicture, np.ndarray]:
    """Compose picture number ``scene`` of a split; also give the indices of its digits, left to right."""
    chosen = chosen_digits(scene, len(digits.ids), params, split)
    rng = np.random.default_rng([params.seed, SPLITS.index(split), _SCENE, scene])
    return draw_picture(rng, digits.inks[chosen], params), chosen


def compose(
    params: ComposeParams, folder: str | Path, *, on_progress: Callable[[int], Any] = lambda _: None
) -> dict[str, Any]:
    """Write the set to ``folder`` and return its manifest. Asking for more pictures changes none of the others.

    Raises:
        ValueError: the RAW set is missing or has no digits of a split.
    """
    source = read_manifest(params.source)
    classes = list(source["classes"])
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    with whole_folder(folder) as partial:
        for split in SPLITS:
            digits = read_digits(params.source, split)
            (partial / "images" / split).mkdir(parents=True)
            for image, rows, pixels in _scenes(split, digits, classes, params):
                _write_picture(partial / image["file"], pixels, params.jpeg_quality)
                images.append(image)
                objects += rows
                on_progress(1)
        image_rows, object_rows = images_table(images), objects_table(objects)
        write_images(partial / "images.parquet", image_rows)
        write_objects(partial / "objects.parquet", object_rows)
        write_yolo(partial, image_rows, object_rows, classes, masks=True)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "set": "numbers",
            "generated": True,
            "classes": classes,
            "counts": {split: getattr(params, split) for split in SPLITS},
            "objects": {split: int(object_rows["image_id"].str.startswith(f"{split}/").sum()) for split in SPLITS},
            "source": {"folder": params.source, "content_sha256": source["content_sha256"]},
            "seed": params.seed,
            "content_sha256": sha256_files(
                partial, [name for image in images for name in (image["file"], f"labels/{image['image_id']}.txt")]
            ),
        }
        write_json(partial / "manifest.json", manifest)
    return manifest


def _scenes(
    split: str, digits: DigitInks, classes: Sequence[str], params: ComposeParams
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]]:
    ending = "jpg" if params.jpeg_quality else "png"
    for number in range(getattr(params, split)):
        scene, chosen = compose_picture(number, digits, params, split)
        name = f"{split}/{number + 1:06d}"
        labels = digits.labels[chosen].tolist()
        image = {
            "image_id": name,
            "file": f"images/{name}.{ending}",
            "width": params.side,
            "height": params.side,
            "split": split,
            "text": "".join(classes[label] for label in labels),
        }
        rows = [
            {
                "image_id": name,
                "class_id": label,
                "class_name": classes[label],
                **dict(zip(("x1", "y1", "x2", "y2"), mask_box(mask), strict=True)),
                "rle": encode_mask(mask),
                "source_id": digits.ids[index],
                "position": position,
            }
            for position, (label, index, mask) in enumerate(zip(labels, chosen, scene.masks, strict=True))
        ]
        yield image, rows, scene.image


def _write_picture(path: Path, pixels: np.ndarray, quality: int) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if quality else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if not cv2.imwrite(str(path), pixels[..., ::-1], options):
        raise OSError(f"{path} could not be written")
