"""A set that loses nothing goes through every format both ways: its boxes, masks, classes and splits come back."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from cnn_core.annotations.masks import encode_mask, mask_box
from cnn_core.annotations.raw_objects import read_raw_objects
from cnn_core.annotations.tables import BOX, images_table, objects_table
from cnn_core.data.ingestion import IngestParams
from cnn_core.data.objects.export import Format, export
from cnn_core.data.objects.ingestion import ingest_objects
from cnn_core.data.objects.raw import Image, write_raw_objects
from tests.helpers.object_formats import picture

CLASSES = ["café", "a & b", "<tag>", "yes", "007", "=SUM(A1)", 'x,"y"']
NAMES = ["photo 1", "ünï", "a&b<c>", "it's", "100%", "a#b", "q?x=1", "(1) [2]", "x" * 120, "0a1b2c3d-photo 1"]
WITH_MASKS, WITH_SPLITS = {"coco", "ultralytics", "cvat", "label-studio"}, {"coco", "ultralytics", "voc", "cvat"}


def write_raw(folder: Path, count: int, *, masks: bool) -> None:
    """A RAW set of small pictures with odd names, every third without an object, one turned by EXIF."""
    draws = np.random.default_rng(0)
    images, objects, data = [], [], {}
    for number in range(count):
        split = ("train", "train", "val", "test")[number % 4]
        name = NAMES[number] if number < len(NAMES) else f"{number:04d}"
        orientation = 6 if number % 10 == 4 else 1
        height, width = (48, 64) if orientation == 1 else (64, 48)
        image_id = f"{split}/{name}{'.png' if number % 5 == 2 else '.jpg'}"
        file = picture(folder.parent / f"{number}.jpg", number, orientation=orientation, size=(64, 48))
        data[image_id] = file.read_bytes()
        images.append(Image(image_id, split, width, height, f"{number:064d}", len(data[image_id])))
        for _ in range(0 if number % 3 == 2 else 1 + number % 4):
            label = int(draws.integers(0, len(CLASSES)))
            mask = np.zeros((height, width), bool)
            top, left = draws.integers(0, height - 12), draws.integers(0, width - 12)
            mask[top : top + 11, left : left + 11] = draws.random((11, 11)) < 0.7
            box = mask_box(mask) if masks else (left + 0.25, top + 0.125, left + 9.5, top + 10.75)
            row = {"image_id": image_id, "class_id": label, "class_name": CLASSES[label]}
            row |= {**dict(zip(BOX, map(float, box), strict=True)), "rle": encode_mask(mask) if masks else None}
            objects.append(row)
    folder.mkdir(parents=True)
    description = {"classes": CLASSES, "set": folder.name}
    write_raw_objects(folder, images, lambda image: data[image.id], objects_table(objects), [], description)


def rows(raw: Path, *, masks: bool, splits: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Images by the name of their file, and objects in an order that does not hang on that of the set."""
    images, objects, _ = read_raw_objects(raw, None)
    names = {image_id: image_id.rsplit("/", 1)[-1] for image_id in images["image_id"]}
    images = images_table(images.assign(image_id=[names[each] for each in images["image_id"]]))
    columns = ["image_id", "width", "height", *(["split"] if splits else [])]
    objects = objects.assign(image_id=[names[each] for each in objects["image_id"]])
    objects[BOX] = objects[BOX].round(4)
    order = ["image_id", "class_name", *BOX, *(["rle"] if masks else [])]
    kept = objects[order].sort_values(order, ignore_index=True)
    return images[columns].sort_values("image_id", ignore_index=True), kept


def check_round_trip(folder: Path, kind: Format, count: int, *, masks: bool) -> None:
    raw = folder / "raw/first"
    write_raw(raw, count, masks=masks)
    export(raw, folder / "out", kind)
    params = IngestParams(
        source=str(folder / "out"),
        kind="auto",
        val_fraction=0.2,
        test_fraction=0.2,
        seed=0,
        max_bad_fraction=0.0,
        near_duplicates=False,
    )
    manifest = ingest_objects("second", params, folder / "raw/second")
    assert (manifest["format"], manifest["clipped"], manifest["left_out"]) == (kind, 0, {})
    assert manifest["annotations"]["refused"]["total"] == manifest["refused"]["total"] == 0
    assert set(manifest["classes"]) <= set(CLASSES)
    compared = {"masks": masks and kind in WITH_MASKS, "splits": kind in WITH_SPLITS}
    first, second = rows(raw, **compared), rows(folder / "raw/second", **compared)
    pd.testing.assert_frame_equal(second[0], first[0])
    pd.testing.assert_frame_equal(second[1], first[1], atol=1e-3)
    if kind in ("coco", "ultralytics", "cvat"):
        assert manifest["classes"] == CLASSES


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("kind", get_args(Format))
def test_a_set_goes_through_every_format_both_ways(tmp_path, kind, masks):
    check_round_trip(tmp_path, kind, 30, masks=masks)


@pytest.mark.nightly
@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("kind", get_args(Format))
def test_a_thousand_images_go_through_every_format_both_ways(tmp_path, kind, masks):
    check_round_trip(tmp_path, kind, 1000, masks=masks)


def test_names_of_several_folders_become_names_of_one(tmp_path):
    data = picture(tmp_path / "a.jpg", 1).read_bytes()
    images = [
        Image(name, split, 200, 100, str(number), len(data))
        for number, (name, split) in enumerate([("train/a.jpg", "train"), ("val/a.jpg", "val"), ("val/a.png", "val")])
    ]
    (tmp_path / "raw").mkdir()
    write_raw_objects(tmp_path / "raw", images, lambda _: data, objects_table([]), [], {"classes": ["x"], "set": "raw"})
    for kind in get_args(Format):
        export(tmp_path / "raw", tmp_path / kind, kind)
        pictures = [file for file in (tmp_path / kind).rglob("*.*") if file.suffix in (".jpg", ".png")]
        assert len({file.stem for file in pictures}) == 3


def test_an_export_overwrites_nothing(tmp_path):
    write_raw(tmp_path / "raw/set", 5, masks=False)
    export(tmp_path / "raw/set", tmp_path / "out", "coco")
    with pytest.raises(ValueError, match="exists"):
        export(tmp_path / "raw/set", tmp_path / "out", "coco")
    with pytest.raises(ValueError, match=r"no RAW set|does not exist"):
        export(tmp_path, tmp_path / "other", "coco")
