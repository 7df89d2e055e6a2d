"""What we expect of the composed set on disk: exact truth, digits of the matching split, the same for the same seed."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_core.annotations.masks import decode_mask, mask_box
from cnn_core.annotations.tables import BOX, read_annotations
from cnn_core.annotations.truth import read_truth
from cnn_core.annotations.yolo_labels import SPLITS, read_yolo
from cnn_core.data.ingestion import IngestParams
from cnn_core.data.raw import RawRow, read_raw, write_raw
from cnn_core.files import read_json
from cnn_core.images.decoding import encode_png, pixels_sha256
from cnn_core.params import from_mapping
from cnn_core.synthetic.house_numbers import compose
from cnn_core.synthetic.picture import ComposeParams
from tasks import ingest

SIDE = 96
CLASSES = [str(number) for number in range(10)]


def write_digits(folder: Path, splits: tuple[str, ...] = SPLITS) -> None:
    """Ten bold strokes a split, each at a slant of its own, with a white pixel block for a tail."""
    rows = []
    for number in range(10 * len(splits)):
        y, x = np.mgrid[:28, :28]
        slant = (number - 15) / 40
        ink = ((np.abs(x - 14 - (y - 14) * slant) < 3) & (np.abs(y - 14) < 10)).astype(np.uint8) * 255
        split = splits[number // 10]
        image, sha = encode_png(ink), pixels_sha256(ink)
        rows.append(
            RawRow(id=f"{split}-{number}", image=image, label=number % 10, split=split, width=28, height=28, sha256=sha)
        )
    write_raw(folder, rows, [], {"set": "digits", "classes": CLASSES, "source": "made for a test", "seed": 0})


def params(source: Path, **changes: object) -> ComposeParams:
    section = {
        "source": str(source), "train": 12, "val": 3, "test": 4, "side": SIDE, "digits_min": 0, "digits_max": 4,
        "size_min": 0.2, "size_max": 0.4, "smallest": 10, "rotation": 8.0, "tilt": 8.0, "jitter": 0.06,
        "spacing_min": 0.03, "spacing_max": 0.3, "overlap": 0.4, "overlap_rate": 0.5, "contrast_min": 0.22,
        "contrast_max": 0.7, "light_on_dark": 0.5, "signs": 0.5, "shade": 0.7, "clutter": 4, "blur": 0.5,
        "noise": 0.03, "jpeg_quality": 90, "seed": 0, **changes,
    }  # fmt: skip
    return from_mapping(ComposeParams, section, "compose")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    write_digits(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, raw) -> Path:
    folder = tmp_path_factory.mktemp("composed") / "numbers"
    compose(params(raw), folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_and_its_manifest(made, raw):
    names = Counter(str(Path(name).parent) for name in files(made))
    assert names == {
        ".": 4,
        **{f"{kind}/{s}": n for kind in ("images", "labels") for s, n in zip(SPLITS, (12, 3, 4), strict=True)},
    }
    manifest = read_json(made / "manifest.json", made_by="compose")
    images, objects, classes = read_annotations(made)
    assert manifest["generated"] is True
    assert manifest["counts"] == {"train": 12, "val": 3, "test": 4}
    assert sum(manifest["objects"].values()) == len(objects)
    assert classes == manifest["classes"] == CLASSES
    assert manifest["source"] == {
        "folder": str(raw),
        "content_sha256": read_json(raw / "manifest.json", made_by="x")["content_sha256"],
    }
    assert (images[["width", "height"]] == SIDE).all(axis=None)


def test_boxes_are_the_masks_own_and_masks_are_apart(made):
    images, objects, _ = read_annotations(made)
    empty = 0
    for image_id in images["image_id"]:
        found = objects[objects["image_id"] == image_id]
        masks = [decode_mask(rle, SIDE, SIDE) for rle in found["rle"]]
        assert [mask_box(mask) for mask in masks] == [tuple(row) for row in found[BOX].values.tolist()]
        assert not masks or np.sum(masks, axis=0).max() == 1
        empty += not masks
    assert empty > 0, "pictures without a digit are among them"
    assert len(objects) > 20


def test_a_composed_set_is_a_source_of_objects(made, tmp_path):
    """Ingested it is the same set: pictures, boxes, masks, classes, splits, and the word that a program drew it."""
    section = {"source": str(made), "kind": "auto", "val_fraction": 0.1, "test_fraction": 0.1, "seed": 0,
               "max_bad_fraction": 0.0, "near_duplicates": True}  # fmt: skip
    manifest = ingest.read_source("numbers", IngestParams(**section), tmp_path / "raw", on_progress=lambda _: None)
    assert (manifest["kind"], manifest["generated"]) == ("objects", True)
    assert manifest["annotations"]["listed"] == manifest["annotations"]["read"]
    keys = ["image_id", "class_id", "class_name", *BOX, "rle"]
    for split in SPLITS:
        (images, objects, _), (raw_images, raw_objects, classes) = (
            read_annotations(made, split),
            read_truth(tmp_path / "raw", split),
        )
        assert classes == CLASSES
        for table in (raw_images, raw_objects):  # RAW keeps the endings of files
            table["image_id"] = table["image_id"].str.removesuffix(".jpg")
        tables = [
            table[keys].sort_values(["image_id", "x1", "y1"], ignore_index=True) for table in (objects, raw_objects)
        ]
        assert tables[0].equals(tables[1])
        files = [
            {row.image_id: Path(row.file).read_bytes() for row in table.itertuples()} for table in (images, raw_images)
        ]
        assert files[0] == files[1]


def test_only_digits_of_the_same_split_with_their_own_class(made, raw):
    rows = read_raw(raw)
    truth = {id_: (label, split) for id_, label, split in zip(rows.ids, rows.labels.tolist(), rows.splits, strict=True)}
    images, objects, classes = read_annotations(made)
    splits = dict(zip(images["image_id"], images["split"], strict=True))
    for row in objects.itertuples():
        assert truth[row.source_id] == (row.class_id, splits[row.image_id])
        assert classes[row.class_id] == row.class_name


def test_the_text_reads_from_left_to_right(made):
    images, objects, _ = read_annotations(made)
    for image in images.itertuples():
        found = objects[objects["image_id"] == image.image_id].sort_values("x1")
        assert "".join(found["class_name"]) == image.text
        assert found["position"].tolist() == list(range(len(found)))


@pytest.mark.parametrize("split", SPLITS)
def test_ultralytics_labels_say_the_same(made, split):
    images, objects, classes = read_yolo(made / "data.yaml", split)
    own_images, own, own_classes = read_annotations(made, split)
    assert classes == own_classes
    assert images.equals(own_images[list(images)])
    assert objects[["image_id", "class_id", "rle"]].equals(own[["image_id", "class_id", "rle"]])
    assert np.abs(objects[BOX].to_numpy() - own[BOX].to_numpy()).max() < 1e-3


def test_the_same_seed_gives_the_same_bytes_and_more_pictures_change_none(tmp_path, made, raw):
    before = files(made)
    compose(params(raw), tmp_path / "again")
    assert files(tmp_path / "again") == before
    compose(params(raw, train=15, test=6), tmp_path / "more")
    after = files(tmp_path / "more")
    pictures = [name for name in before if name.startswith(("images/", "labels/"))]
    assert all(after[name] == before[name] for name in pictures)
    compose(params(raw, seed=1), tmp_path / "other")
    assert not {before[n] for n in pictures if "images" in n} & set(files(tmp_path / "other").values())


def test_png_keeps_every_pixel_and_the_quality_counts(tmp_path, made, raw):
    small = dataclasses.replace(params(raw), train=1, val=1, test=1)
    sizes = []
    for quality in (0, 20, 95):
        compose(dataclasses.replace(small, jpeg_quality=quality), tmp_path / str(quality))
        (file,) = (tmp_path / str(quality) / "images/test").iterdir()
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            assert (image.format, image.size) == ("JPEG" if quality else "PNG", (SIDE, SIDE))
        sizes.append(file.stat().st_size)
    assert sizes[0] > sizes[2] > sizes[1]


def test_a_failure_leaves_what_was_there(tmp_path, made, raw):
    write_digits(tmp_path / "digits", ("train", "val"))
    compose(params(raw, train=1, val=1, test=1), tmp_path / "numbers")
    before = files(tmp_path / "numbers")
    with pytest.raises(ValueError, match="no images of the split test; raise test_fraction of the stage ingest"):
        compose(params(tmp_path / "digits"), tmp_path / "numbers")
    assert files(tmp_path / "numbers") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_missing_is_said(tmp_path, made):
    with pytest.raises(ValueError, match=r"manifest\.json does not exist; the stage ingest writes it"):
        compose(params(tmp_path / "gone"), tmp_path / "numbers")
    with pytest.raises(ValueError, match=r"manifest\.json does not exist; the stage compose writes it"):
        read_annotations(tmp_path / "gone")
    with pytest.raises(ValueError, match="no images of the split 'unlabelled'; it has train, val, test"):
        read_annotations(made, "unlabelled")
