"""Pictures that a camera has stored turned or mirrored are shown to people as the stages read them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_core.annotations.masks import encode_mask
from cnn_core.annotations.tables import images_table, objects_table, read_annotations, write_images, write_objects
from cnn_core.detection.yolo import quiet
from cnn_core.files import write_json
from cnn_core.images.media import list_media
from cnn_core.images.reader import read_image
from cnn_core.reporting import detection, images, segmentation
from cnn_core.segmentation.training.data import load_masks
from tasks import evaluate_detector, read

WIDTH, HEIGHT, BOX = 60, 40, (4, 6, 20, 18)
ORIENTATION = 0x0112
# What a camera did to the picture, by the orientation that undoes it.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of the eight orientations of one picture, a red square on grey, with the square's box and mask."""
    root = tmp_path_factory.mktemp("turned")
    quiet(root)
    left, top, right, bottom = BOX
    pixels, mask = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), np.zeros((HEIGHT, WIDTH), bool)
    pixels[top:bottom, left:right], mask[top:bottom, left:right] = (230, 20, 20), True
    upright = Image.fromarray(pixels)
    (root / "set/images/test").mkdir(parents=True)
    rows, objects = [], []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        stored = upright.transpose(STORED[orientation]) if orientation in STORED else upright
        name = f"test/{orientation}"
        stored.save(root / f"set/images/{name}.jpg", quality=95, subsampling=0, exif=exif)
        rows.append({"image_id": name, "file": f"images/{name}.jpg", "width": WIDTH, "height": HEIGHT, "split": "test"})
        box = dict(zip(("x1", "y1", "x2", "y2"), map(float, BOX), strict=True))
        objects.append({"image_id": name, "class_id": 0, "class_name": "red", **box, "rle": encode_mask(mask)})
    write_images(root / "set/images.parquet", images_table(rows))
    truth = objects_table(objects)
    write_objects(root / "set/objects.parquet", truth)
    write_json(root / "set/manifest.json", {"schema_version": 1, "classes": ["red"], "counts": {"test": 8}})
    (root / "data/predictions").mkdir(parents=True)
    detections = truth.assign(score=0.9)
    write_objects(root / "data/predictions/detector-test.parquet", detections)
    masks = detections.assign(prompted_by="truth", iou=np.linspace(0.2, 0.9, 8))
    write_objects(root / "data/predictions/segmenter-test.parquet", masks)
    return root


def files(root: Path) -> list[Path]:
    return [root / f"set/images/test/{orientation}.jpg" for orientation in range(1, 9)]


def check(picture: np.ndarray) -> None:
    """The square is where its box says, at whatever size."""
    assert picture.shape[1] / picture.shape[0] == WIDTH / HEIGHT
    scale = picture.shape[1] / WIDTH
    left, top, right, bottom = (round(side * scale) for side in BOX)
    red = picture.astype(int) @ (1, -1, 0) > 60
    inside = red[top:bottom, left:right]
    assert inside.mean() > 0.9
    assert red.sum() - inside.sum() < 0.1 * inside.size


def pictured(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_the_report_shows_it_upright_with_its_boxes_and_masks(root: Path) -> None:
    params = {"source": "set", "split": "test"}
    sliders = segmentation.sliders(root, "segmenter", params, 8)
    assert len(sliders) == 8
    for slider in sliders:
        assert (slider["width"], slider["height"]) == (WIDTH, HEIGHT)
        check(pictured(slider["before"]))
    painted = [pictured(slider["after"]) for slider in sliders]
    assert all(np.abs(picture.astype(int) - painted[0]).mean() < 3 for picture in painted)
    shown = detection.scenes(root, "detector", {**params, "confidence": 0.25, "match_iou": 0.5}, 8)
    assert shown is not None
    for row in shown["rows"]:
        assert (row["width"], row["height"]) == (WIDTH, HEIGHT)
        check(pictured(row["image"]))
    for file in files(root):
        source, width, height = images.scene(file, 200)
        assert (width, height) == (WIDTH, HEIGHT)
        check(pictured(source))


def test_the_galleries_and_the_grid_of_the_evaluations_show_it_upright(root: Path) -> None:
    for file in files(root):
        check(evaluate_detector.pixels(str(file)))
        check(read_image(file)[..., ::-1])


def test_the_stages_read_it_upright(root: Path) -> None:
    from cnn_core.detection.inference.steps import reader

    for file in files(root):
        check(reader(3)(str(file))[..., ::-1])
    media = list_media(str(root / "set/images"))
    seen = dict(read.pictures(media, {f"test/{orientation}" for orientation in range(1, 9)}))
    assert len(seen) == 8
    for picture in seen.values():
        check(picture)
    for picture in load_masks(root / "set", "test", imgsz=WIDTH).images:
        check(picture.transpose(1, 2, 0)[:HEIGHT])


def test_the_truth_measures_it_upright(root: Path) -> None:
    table, _, _ = read_annotations(root / "set", "test")
    assert isinstance(table, pd.DataFrame)
    assert {Image.open(file).size for file in table["file"]} == {(WIDTH, HEIGHT), (HEIGHT, WIDTH)}
    assert {images.open_picture(Path(file)).size for file in table["file"]} == {(WIDTH, HEIGHT)}
