"""A part of a source through the segmenting worker, without Ray: any image and any prompt has one clear result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cnn_core.annotations.masks import decode_mask, encode_mask
from cnn_core.annotations.tables import OBJECTS
from cnn_core.detection.yolo import quiet
from cnn_core.drawing.masks import overlay, write_cutouts, write_overlay
from cnn_core.images.media import list_media
from cnn_core.params import load_section
from cnn_core.segmentation.inference.yolo_prompting import PromptMatcher
from cnn_core.segmentation.params import SegmentParams
from cnn_core.segmentation.prompts.image_prompts import NO_AREA, OUTSIDE, CheckedPrompts
from cnn_core.segmentation.prompts.table import write_prompts
from cnn_core.segmentation.segments import Segments
from tasks.common.prediction_parts import MASK_COLUMNS
from tasks.engine.runtime import load_runtime
from tasks.engine.workers import Resources
from tasks.segment import SegmentWorker
from tests.helpers.detector_files import photograph, write_detector
from tests.helpers.sam_files import write_sam
from tests.helpers.segmenters import everything

VIDEO = {
    "folders": False,
    "backwards": True,
    "non_overlap_masks": True,
    "max_cond_frames_in_attn": 4,
    "memory_frames": 7,
    "patience": 0,
}
SECTION = {
    "source": "photos",
    "match": "*",
    "prompt": "boxes",
    "prompts": "prompts.csv",
    "imgsz": 128,
    "conf": 0.0,
    "multimask_output": False,
    "half": "auto",
    "everything": dataclasses.asdict(everything(points_stride=2)),
    "backend": "torch",
    "vid_stride": 1,
    "pictures": -1,
    "cutouts": -1,
    "video": VIDEO,
}
NONE = dict.fromkeys(("x1", "y1", "x2", "y2"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_sam(tmp_path_factory.mktemp("weights"), "mobile_sam")


def params_of(folder: Path, **changes: Any) -> SegmentParams:
    (folder / "params.yaml").write_text(yaml.safe_dump({"segment": {"segmenter": SECTION | changes}}))
    return load_section(SegmentParams, "segment.segmenter", folder / "params.yaml")


def work(folder: Path, source: Path, prompts: list[dict[str, Any]] | None, **changes: Any) -> Path:
    """The only part of ``source``, done."""
    params = params_of(folder, **changes)
    media = list_media(source)
    if prompts is not None:
        pd.DataFrame(prompts).to_csv(folder / "prompts.csv", index=False)
        write_prompts(folder / "prompts.csv", folder / "prompts.parquet", media, params.prompt)  # type: ignore[arg-type]
    worker = SegmentWorker(params, load_runtime(), str(folder), True, Resources(actors=1, cpus=1, gpus=0))
    (part,) = media.parts(100)
    (folder / "part").mkdir()
    worker(part, folder / "part")
    return folder / "part"


def box(image_id: str, *corners: float) -> dict[str, Any]:
    return {"image_id": image_id, **dict(zip(NONE, corners, strict=True))}


def test_odd_images_and_odd_prompts(tmp_path, weights):
    source = tmp_path / "photos"
    source.mkdir()
    cv2.imwrite(str(source / "colour.jpg"), photograph(90, 120, 1))
    cv2.imwrite(str(source / "grey.png"), photograph(90, 120, 2)[..., 0])
    cv2.imwrite(str(source / "wide.png"), photograph(200, 10_000, 3))
    cv2.imwrite(str(source / "line.png"), photograph(20, 10_000, 4))
    whole = (source / "colour.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(source / "unprompted.jpg"), photograph(90, 120, 5))
    prompts = [
        box("colour", 10, 10, 60, 70),
        box("colour", 500, 10, 560, 70),
        box("colour", 30, 30, 30, 60),
        box("colour", -20, 40, 300, 80),
        box("grey", 5, 5, 90, 80),
        box("wide", 9000, 10, 10_000, 190),
        box("line", 10, 2, 500, 15),
        box("cut", 10, 10, 60, 70),
        {"image_id": "unprompted", **NONE},
    ]
    part = work(tmp_path, source, prompts, weights=str(weights))
    objects, images = pd.read_parquet(part / "objects.parquet"), pd.read_parquet(part / "images.parquet")
    bad, dropped = pd.read_parquet(part / "bad.parquet"), pd.read_parquet(part / "dropped.parquet")
    assert list(objects)[: len(OBJECTS)] == list(OBJECTS)
    assert set(MASK_COLUMNS) <= set(objects)
    found = list(zip(objects["image_id"], objects["prompt_id"], strict=True))
    assert found == [("colour", 0), ("colour", 3), ("grey", 0), ("wide", 0)]
    assert list(images["image_id"]) == ["colour", "grey", "unprompted", "wide"]
    assert list(bad["image_id"]) == ["cut", "line"]
    assert list(bad["reason"]) == ["damaged image", "too long and narrow"]
    assert list(zip(dropped["prompt_id"], dropped["reason"], strict=True)) == [(1, OUTSIDE), (2, NO_AREA)]
    sizes = images.set_index("image_id")
    for row in objects.itertuples():
        mask = decode_mask(row.rle, sizes["height"][row.image_id], sizes["width"][row.image_id])
        assert row.area == mask.sum() > 0
        cutout = np.asarray(Image.open(part / "cutouts" / f"{row.image_id}-{row.prompt_id}.png"))
        assert cutout.shape == (row.y2 - row.y1, row.x2 - row.x1, 4)
        assert (cutout[..., 3] > 0).sum() == row.area
    pictures = sorted(path.name for path in (part / "pictures").iterdir())
    assert pictures == ["colour.jpg", "grey.jpg", "unprompted.jpg", "wide.jpg"]
    assert Image.open(part / "pictures/wide.jpg").size == (1600, 32)


def test_the_smallest_images_and_the_longest(tmp_path, weights):
    """Each is segmented or told; at 128 pixels nothing would be left of the sides of the last two."""
    source = tmp_path / "photos"
    source.mkdir()
    sizes = {"dot": (1, 1), "two": (2, 3), "row": (1, 100), "column": (250, 2), "thin": (1, 300), "long": (4000, 1)}
    for name, (height, width) in sizes.items():
        cv2.imwrite(str(source / f"{name}.png"), np.full((height, width, 3), 90, np.uint8))
    prompts = [box(name, 0, 0, width, height) for name, (height, width) in sizes.items()]
    prompts += [box("dot", 0.2, 0.2, 0.8, 0.8), box("two", 1, 1, 2, 2), box("two", 1, 1, 2, 2)]
    part = work(tmp_path, source, prompts, weights=str(weights))
    objects, images = pd.read_parquet(part / "objects.parquet"), pd.read_parquet(part / "images.parquet")
    bad, dropped = pd.read_parquet(part / "bad.parquet"), pd.read_parquet(part / "dropped.parquet")
    assert sorted(images["image_id"]) == ["column", "dot", "row", "two"]
    assert sorted(bad["image_id"]) == ["long", "thin"]
    assert set(bad["reason"]) == {"too long and narrow"}
    assert len(objects) + len(dropped) == 7, "every prompt of a readable image is counted"
    for row in objects.itertuples():
        assert decode_mask(row.rle, *sizes[row.image_id]).sum() == row.area > 0
        assert Image.open(part / "cutouts" / f"{row.image_id}-{row.prompt_id}.png").size[0] >= 1
    assert len(list((part / "pictures").iterdir())) == 4


def test_names_of_images_lead_out_of_no_folder(tmp_path, weights):
    """Ids come from a table of images, and so from whoever made it."""
    ids = ["../up", "/tmp/root", "a/b", "NA", "x" * 300]
    images = [cv2.imencode(".png", photograph(40, 40, number))[1].tobytes() for number in range(len(ids))]
    pd.DataFrame({"image_id": ids, "image": images}).to_parquet(tmp_path / "set.parquet")
    before = set(tmp_path.rglob("*"))
    part = work(tmp_path, tmp_path / "set.parquet", [box(name, 5, 5, 30, 30) for name in ids], weights=str(weights))
    objects = pd.read_parquet(part / "objects.parquet")
    assert sorted(objects["image_id"]) == sorted(ids)
    assert len(list((part / "pictures").rglob("*.jpg"))) == len(list((part / "cutouts").rglob("*.png"))) == len(ids)
    outside = [path for path in set(tmp_path.rglob("*")) - before if path.suffix in (".jpg", ".png")]
    assert all(path.resolve().is_relative_to(part.resolve()) for path in outside)


def test_no_image_has_a_prompt(tmp_path, weights):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.jpg"), photograph(60, 60, 1))
    part = work(tmp_path, tmp_path / "photos", [{"image_id": "a", **NONE}], weights=str(weights))
    for name, rows in {"objects": 0, "dropped": 0, "bad": 0, "images": 1}.items():
        assert len(pd.read_parquet(part / f"{name}.parquet")) == rows
    objects = pd.read_parquet(part / "objects.parquet")
    assert {name: str(objects[name].dtype) for name in ("area", "prompt_id", "stability")} == {
        "area": "int64",
        "prompt_id": "int64",
        "stability": "float64",
    }


def test_points_and_everything(tmp_path, weights):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.jpg"), photograph(90, 120, 1))
    for name in ("points", "everything"):
        (tmp_path / name).mkdir()
    points = [{"image_id": "a", "object": n, "x": 10 * n, "y": 9 * k + 1} for n in (1, 2) for k in range(n)]
    objects = [
        pd.read_parquet(
            work(tmp_path / name, tmp_path / "photos", rows, weights=str(weights), prompt=name) / "objects.parquet"
        )
        for name, rows in (("points", points), ("everything", None))
    ]
    assert list(objects[0]["prompt_id"]) == [0, 1]
    assert list(objects[1]["prompt_id"]) == list(range(len(objects[1])))
    assert len(objects[1])
    assert objects[1]["prompt_score"].isna().all()


def test_an_image_is_encoded_once_for_prompts_of_all_shapes(tmp_path, weights, monkeypatch):
    from cnn_core.segmentation.inference import segmenter as segmentation

    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.jpg"), photograph(90, 120, 1))
    calls, embed = [], segmentation.Segmenter.embed
    monkeypatch.setattr(segmentation.Segmenter, "embed", lambda own, image: calls.append(1) or embed(own, image))
    rows = [box("a", 9, 9, 50, 50) | {"object": 1}, box("a", 20, 20, 80, 70) | {"object": 2, "x": 40, "y": 40}]
    part = work(tmp_path, tmp_path / "photos", rows, weights=str(weights))
    assert list(pd.read_parquet(part / "objects.parquet")["prompt_id"]) == [0, 1]
    assert len(calls) == 1


def found(masks: np.ndarray, scores: list[float]) -> Segments:
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return Segments(
        height=masks.shape[1],
        width=masks.shape[2],
        masks=[encode_mask(mask) for mask in masks],
        boxes=np.array(boxes, np.float64),
        areas=masks.sum((1, 2)),
        scores=np.array(scores, np.float32),
        stability=np.ones(len(masks), np.float32),
        prompts=np.arange(len(masks)),
        dropped={},
    )


def test_a_prompt_chooses_among_masks_as_fastsam_does(tmp_path):
    quiet(tmp_path)
    masks = np.zeros((3, 40, 60), bool)
    masks[0, 5:35, 5:55], masks[1, 10:20, 10:20], masks[2, 10:24, 40:50] = True, True, True
    choose, own = PromptMatcher(), found(masks, [0.5, 0.9, 0.7])

    def chosen(**given: Any) -> list[int | None]:
        return choose(own, CheckedPrompts.checked(*(given.get(k) for k in ("boxes", "points", "labels")), 40, 60))

    assert chosen(boxes=[[9, 9, 21, 21], [2, 2, 58, 38], [38, 8, 52, 26], [0, 0, 4, 4]]) == [1, 0, 2, None]
    assert chosen(points=[[15, 15], [30, 30], [45, 15], [59, 1]]) == [1, 0, 2, None]
    assert chosen(points=[[[15, 15], [8, 8]]], labels=[[1, 0]]) == [1], "outside the large one"
    assert chosen(points=[[[8, 8], [15, 15]]], labels=[[1, 0]]) == [None], "in none without the other"


@pytest.mark.slow
def test_fastsam_gives_what_ultralytics_gives(tmp_path):
    from ultralytics import FastSAM

    weights = write_detector(tmp_path / "FastSAM-s.pt", "yolo11n-seg.yaml", imgsz=160, boxes=30)
    (tmp_path / "photos").mkdir()
    image = photograph(120, 160, 1)
    cv2.imwrite(str(tmp_path / "photos/a.png"), image)
    options = {"retina_masks": True, "conf": 0.25, "iou": 1.0, "save": False, "verbose": False, "imgsz": 160}
    model = FastSAM(str(weights))
    masks = model.predict(image, **options)[0].masks.data.numpy().astype(bool)
    boxes = [[10, 10, 60, 70], [80, 20, 150, 110], [40, 40, 100, 100]]
    ours, numbers = [], []
    for name, rows in (("everything", None), ("boxes", [box("a", *corners) for corners in boxes])):
        (tmp_path / name).mkdir()
        part = work(tmp_path / name, tmp_path / "photos", rows, weights=str(weights), prompt=name, imgsz=160, conf=0.25)
        objects = pd.read_parquet(part / "objects.parquet")
        ours.append(np.stack([decode_mask(rle, 120, 160) for rle in objects["rle"]]))
        numbers.append(list(objects["prompt_id"]))
    assert np.array_equal(ours[0], masks)
    assert len(numbers[1]) >= 2, "of the others no mask is near"
    for mask, number in zip(ours[1], numbers[1], strict=True):
        (reference,) = model.predict(image, bboxes=[boxes[number]], **options)[0].masks.data.numpy().astype(bool)
        assert np.array_equal(mask, reference)


@pytest.mark.slow
def test_a_network_that_finds_boxes_only_is_refused(tmp_path):
    weights = write_detector(tmp_path / "yolo.pt", imgsz=64)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), photograph(60, 60, 1))
    with pytest.raises(ValueError, match="finds boxes, but no masks: name a -seg network, FastSAM, SAM or SAM 2"):
        work(tmp_path, tmp_path / "photos", None, weights=str(weights), prompt="everything")


def test_pictures_of_masks(tmp_path):
    image = np.full((50, 80, 3), 128, np.uint8)
    mask = np.zeros((50, 80), bool)
    mask[10:30, 20:40] = True
    row = {"rle": encode_mask(mask), "area": 400, "class_id": 1, "class_name": "one", "prompt_id": 4, "score": 0.9}
    row |= {"x1": 20.0, "y1": 10.0, "x2": 40.0, "y2": 30.0}
    prompts = pd.DataFrame([{**NONE, "x": 30.0, "y": 20.0, "label": 1}]).astype(float)
    picture = overlay(image, [row], by_class=True, prompts=prompts)
    assert picture.size == (640, 400), "small images are enlarged"
    pixels = np.asarray(picture).astype(int)
    assert (pixels[350, 600] < 100).all(), "the ground is dimmed"
    assert pixels[200, 180].max() > 150, "the mask is not"
    write_overlay(tmp_path / "deep/er/a#000001.jpg", picture)
    assert Image.open(tmp_path / "deep/er/a#000001.jpg").size == (640, 400)
    write_cutouts(tmp_path, "a", image, [row])
    cutout = np.asarray(Image.open(tmp_path / "a-4.png"))
    assert cutout.shape == (20, 20, 4)
    assert (cutout == [128, 128, 128, 255]).all()


def test_prompts_far_outside_a_picture_are_drawn_at_once():
    """A dashed line to the end of a box of 1e12 pixels would never be finished."""
    prompts = pd.DataFrame(
        [
            {**NONE, "x": 1e12, "y": -1e12, "label": 0},
            {**NONE, "x1": -1e12, "y1": 3.0, "x2": 1e12, "y2": 1e12},
            {**NONE, "x1": 10.0, "y1": 10.0, "x2": 20.0, "y2": 20.0},
        ]
    ).astype(float)
    picture = overlay(np.full((50, 80, 3), 128, np.uint8), [], by_class=False, prompts=prompts)
    pixels = np.asarray(picture).astype(int)
    assert pixels[80, 80:160].max() > 200, "the box that is inside"
    assert pixels[24].max() > 200, "the upper edge of the other"
