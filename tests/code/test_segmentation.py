"""The segmenter gives what Ultralytics' own predictor gives, encodes an image once, and answers any prompt clearly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_files import photograph
from sam_files import write_sam

from cnn_core import segmentation
from cnn_core.annotations import OBJECTS, decode_mask, mask_box, objects_table
from cnn_core.images import BadImage
from cnn_core.segmentation import EverythingParams, Segmenter, SegmenterParams, Segments

SIDE = 256
HEIGHT, WIDTH = 120, 200
BOXES = [[10, 12, 60, 50], [100.5, 20, 150, 90.25], [0, 0, 200, 120], [3, 70, 90, 119], [150, 5, 199, 40]]
NAMES = [
    "mobile_sam",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sam2_t", "sam2.1_t", "sam_b")),
]


def everything(**changes: Any) -> EverythingParams:
    values = {"points_stride": 3, "conf_thres": 0.5, "stability_score_thresh": 0.1, "stability_score_offset": 0.95}
    values |= {"iou": 1.0, "crop_n_layers": 0, "crop_overlap_ratio": 512 / 1500, "crop_downscale_factor": 1}
    return EverythingParams(**{**values, "crop_nms_thresh": 1.0, "min_mask_region_area": 0, **changes})


def segmenter(path: Path, *, batch: int = 0, automatic: EverythingParams | None = None, **changes: Any) -> Segmenter:
    values = {"imgsz": SIDE, "conf": 0.0, "multimask_output": False, "half": "auto"}
    params = SegmenterParams(**{**values, "everything": automatic or everything(), **changes})
    return Segmenter(path, params, device=torch.device("cpu"), settings=path.parent, batch=batch)


def reference(path: Path, image: np.ndarray, **options: Any) -> Any:
    """Ultralytics' own result on the same file."""
    from ultralytics import SAM

    options = {"imgsz": SIDE, "conf": 0.0, "save": False, "verbose": False, **options}
    return SAM(str(path)).predict(image, **options)[0]


def predicted(path: Path, image: np.ndarray, settings: Any = None, **options: Any) -> Any:
    """As `reference`, with the options that only its predictors take."""
    from ultralytics.models.sam.predict import Predictor, SAM2Predictor

    overrides = {"imgsz": SIDE, "conf": 0.0, "save": False, "verbose": False, "model": str(path), **(settings or {})}
    predictor = (SAM2Predictor if "sam2" in path.name else Predictor)(overrides=overrides)
    predictor.setup_model(verbose=False)
    return next(iter(predictor(image, stream=True, **options)))


def masks(found: Segments) -> np.ndarray:
    return np.stack([decode_mask(rle, found.height, found.width) for rle in found.masks])


def agrees(found: Segments, result: Any) -> bool:
    """The same masks with the same scores, to 1e-4, in the same order."""
    theirs, scores = result.masks.data.bool().numpy(), result.boxes.conf.numpy()
    return (
        len(found) == len(theirs)
        and np.allclose(found.scores, scores, atol=1e-4)
        and np.array_equal(masks(found), theirs)
        and np.array_equal(found.areas, theirs.sum((1, 2)))
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_sam(tmp_path_factory.mktemp("weights"), "mobile_sam")


@pytest.fixture(scope="module")
def mobile(weights) -> Segmenter:
    return segmenter(weights)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return photograph(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def embedding(mobile, image) -> segmentation.Embedding:
    return mobile.embed(image)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_and_points_give_what_ultralytics_gives(tmp_path, image, name):
    path = write_sam(tmp_path, name)
    own = segmenter(path)
    encoded = own.embed(image)
    points = [[30, 30], [120, 60], [199, 119], [0, 0], [77.5, 11]]
    several = [[point, [point[1], point[0]]] for point in points[:2]]
    for prompts in (
        {"boxes": BOXES},
        {"boxes": BOXES[:1]},
        {"points": points},
        {"points": several, "labels": [[1, 0], [0, 1]]},
        {"boxes": BOXES, "points": points, "labels": [1, 1, 0, 1, 0]},
    ):
        theirs = {("bboxes" if name == "boxes" else name): value for name, value in prompts.items()}
        result = reference(path, image, **theirs)
        found = own.masks(encoded, **prompts)
        assert agrees(found, result)
        theirs_boxes = result.boxes.xyxy.numpy()  # the last pixel's place, not its edge
        assert np.array_equal(found.boxes - [0, 0, 1, 1], theirs_boxes)
    assert len(set(own.masks(encoded, boxes=BOXES).masks)) == len(BOXES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobile_sam", "sam2.1_t"])
def test_mask_logits_agree_at_the_official_size(tmp_path, name):
    """1024 pixels, the logits themselves, and another shape of image."""
    from ultralytics import SAM

    path, image = write_sam(tmp_path, name), photograph(333, 250)
    kept: dict[str, torch.Tensor] = {}
    model = SAM(str(path))
    model.predict(image[:64, :64], bboxes=[[0, 0, 9, 9]], conf=0, save=False, verbose=False)  # makes the predictor
    inner = model.predictor._inference_features
    model.predictor._inference_features = lambda *given, **named: kept.setdefault("out", inner(*given, **named))
    result = model.predict(image, bboxes=BOXES, conf=0, save=False, verbose=False)[0]
    own = segmenter(path, imgsz=0, batch=2)
    encoded = own.embed(image)
    prompts = segmentation.Prompts.checked(BOXES, None, None, 333, 250)
    numbers, logits, scores = (list(column) for column in zip(*own.logits(encoded, prompts), strict=True))
    assert np.concatenate(numbers).tolist() == list(range(len(BOXES)))
    assert torch.allclose(torch.cat(logits), kept["out"][0], atol=1e-4)
    assert torch.allclose(torch.cat(scores), kept["out"][1], atol=1e-4)
    assert agrees(segmenter(path, imgsz=0, batch=len(BOXES)).masks(encoded, boxes=BOXES), result)


def test_of_three_masks_the_best_is_taken(weights, image):
    own = segmenter(weights, multimask_output=True)
    found = own.masks(own.embed(image), points=[[30, 30], [120, 60]])
    result = predicted(weights, image, points=[[30, 30], [120, 60]], multimask_output=True)
    scores, theirs = (
        result.boxes.conf.numpy().reshape(2, 3),
        result.masks.data.bool().numpy().reshape(2, 3, HEIGHT, WIDTH),
    )
    best = scores.argmax(1)
    assert np.allclose(found.scores, scores.max(1), atol=1e-4)
    assert np.array_equal(masks(found), theirs[[0, 1], best])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"iou": 0.7},
        {"min_mask_region_area": 200},
        {"conf_thres": 0.76},
        pytest.param({"crop_n_layers": 1}, marks=pytest.mark.slow),
        pytest.param(
            {"crop_n_layers": 1, "crop_downscale_factor": 2, "min_mask_region_area": 50, "points_stride": 4},
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.parametrize("name", ["mobile_sam", pytest.param("sam2.1_t", marks=pytest.mark.slow)])
def test_automatic_masks_are_those_of_ultralytics(tmp_path, weights, image, name, changes):
    path = weights if name == "mobile_sam" else write_sam(tmp_path, name)
    own = segmenter(path, automatic=everything(**changes), conf=0.25)
    options = dataclasses.asdict(own.params.everything)
    result = predicted(path, image, {"conf": 0.25, "iou": options.pop("iou")}, **options)
    found = own.everything(own.embed(image))
    assert agrees(found, result)
    assert len(found) > 3 or changes.get("iou") == 0.7 or changes.get("conf_thres")
    assert (found.stability > 0.1).all()
    assert set(found.prompts.tolist()) <= set(range(500))


def test_an_image_is_encoded_once(mobile, image, monkeypatch):
    encoder, calls = mobile.steps.predictor.model.image_encoder, []
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))
    encoded = mobile.embed(image)
    mobile.masks(encoded, boxes=BOXES)
    mobile.masks(encoded, points=[[1, 1]])
    mobile.everything(encoded)
    hook.remove()
    assert len(calls) == 1


def test_batches_are_bounded_and_change_nothing(weights, image, monkeypatch):
    boxes = np.array(BOXES * 4, np.float64) + np.repeat(np.arange(4), 5)[:, None] % 2
    sizes = []
    results = []
    for batch in (1, 3, 20):
        own = segmenter(weights, batch=batch)
        decode = own.steps.decode

        def counted(*given, decode=decode, **named):
            sizes.append(len(named["boxes"]))
            return decode(*given, **named)

        monkeypatch.setattr(own.steps, "decode", counted)
        results.append(own.masks(own.embed(image), boxes=boxes))
        assert max(sizes) == batch
        sizes.clear()
    for other in results[:2]:
        assert np.allclose(other.scores, results[2].scores, atol=1e-5)
        assert (masks(other) != masks(results[2])).sum() <= 5  # pixels whose logits are nearly 0
        assert other.prompts.tolist() == list(range(20))


def test_images_take_turns(mobile, image, embedding):
    """No state is left from one to the next."""
    other = mobile.embed(photograph(90, 300, seed=3))
    first, second = mobile.masks(embedding, boxes=BOXES), mobile.masks(other, boxes=BOXES)
    again = mobile.masks(embedding, boxes=BOXES)
    assert first.masks == again.masks
    assert first.scores.tolist() == again.scores.tolist()
    assert second.masks != first.masks
    assert mobile.masks(mobile.embed(image), boxes=BOXES).masks == first.masks


def test_rows_are_those_of_the_shared_schema(mobile, embedding):
    found = mobile.masks(embedding, boxes=[[500, 500, 600, 600], *BOXES])
    prompts = [{"class_id": n, "class_name": f"c{n}", "track_id": n, "prompt_id": 10 + n} for n in range(6)]
    rows = [{"image_id": "a", **row} for row in found.rows(prompts)]
    table = objects_table(rows)
    assert list(table)[: len(OBJECTS)] == list(OBJECTS)
    assert list(table["class_id"]) == [1, 2, 3, 4, 5]
    assert list(table["prompt_id"]) == [11, 12, 13, 14, 15]
    assert {"area", "stability"} <= set(table)
    for row in table.itertuples():
        mask = decode_mask(row.rle, HEIGHT, WIDTH)
        assert (row.x1, row.y1, row.x2, row.y2) == mask_box(mask)
        assert row.area == mask.sum()
        assert 0 <= row.stability <= 1
    plain = list(found.rows())
    assert [row["prompt_id"] for row in plain] == [1, 2, 3, 4, 5]
    assert {row["class_name"] for row in plain} == {"object"}


def test_prompts_without_a_mask_say_why(mobile, embedding):
    boxes = [[10, 10, 50, 50], [-90, 3, -10, 30], [200, 0, 250, 50], [20, 20, 20, 60], [60, 60, 20, 20], [3, 3, 9, 9]]
    found = mobile.masks(embedding, boxes=boxes)
    assert found.prompts.tolist() == [0, 5]
    assert found.dropped == {
        1: segmentation.OUTSIDE,
        2: segmentation.OUTSIDE,
        3: segmentation.NO_AREA,
        4: segmentation.NO_AREA,
    }
    assert found.masks == mobile.masks(embedding, boxes=[boxes[0], boxes[5]]).masks
    points = mobile.masks(embedding, points=[[5, 5], [-1, 5], [5, 121]])
    assert points.prompts.tolist() == [0]
    assert set(points.dropped.values()) == {segmentation.OUTSIDE}


def test_masks_that_are_empty_or_of_low_score_say_so(weights, image, monkeypatch):
    own = segmenter(weights, conf=1.0)
    assert own.masks(own.embed(image), boxes=BOXES[:2]).dropped == dict.fromkeys(range(2), segmentation.LOW_SCORE)
    own = segmenter(weights)
    nothing = (torch.full((2, 1, 64, 64), -3.0), torch.full((2, 1), 0.9))
    monkeypatch.setattr(own.steps, "decode", lambda *_, **__: nothing)
    found = own.masks(own.embed(image), boxes=BOXES[:2])
    assert found.dropped == dict.fromkeys(range(2), segmentation.EMPTY_MASK)
    assert len(found) == 0


def test_a_box_over_the_edge_is_cut_off_there(mobile, embedding):
    over, cut = [[-30, 20, 80, 500]], [[0, 20, 80, HEIGHT]]
    assert mobile.masks(embedding, boxes=over).masks == mobile.masks(embedding, boxes=cut).masks


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), np.zeros((0, 2))])
def test_no_prompts_give_no_masks(mobile, embedding, empty):
    for name in ("boxes", "points"):
        found = mobile.masks(embedding, **{name: empty})
        assert len(found) == 0
        assert found.boxes.shape == (0, 4)
        assert list(found.rows([])) == []


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({}, r"call everything\(\)"),
        ({"boxes": [[1, 2, 3]]}, "boxes must be finite numbers"),
        ({"boxes": [[1, 2, 3, float("nan")]]}, "boxes must be finite numbers"),
        ({"boxes": [[1, 2, 3, 4], [1]]}, "boxes must be finite numbers"),
        ({"points": [[1, 2, 3]]}, "points must be finite numbers"),
        ({"points": [[1, 2]], "labels": [2]}, "labels must be 1 or 0"),
        ({"points": [[1, 2]], "labels": [1, 1]}, "labels must be 1 or 0, one for each of 1 x 1 points"),
        ({"boxes": BOXES, "labels": [1]}, "labels belong to points"),
        ({"boxes": BOXES, "points": [[1, 2]]}, "5 boxes and 1 points"),
    ],
)
def test_wrong_prompts_are_refused(mobile, embedding, prompts, said):
    with pytest.raises(ValueError, match=said):
        mobile.masks(embedding, **prompts)


def test_a_grey_image_is_its_own_colours(mobile, image):
    grey = image[..., 0]
    colour = mobile.masks(mobile.embed(np.stack([grey] * 3, axis=-1)), boxes=BOXES)
    for same in (grey, grey[..., None]):
        assert mobile.masks(mobile.embed(same), boxes=BOXES).masks == colour.masks


def test_a_wide_image_keeps_its_pixels(weights, mobile):
    wide = photograph(300, 10_000)
    boxes = [[100, 20, 900, 200], [9000, 0, 10_000, 300]]
    found = mobile.masks(mobile.embed(wide), boxes=boxes)
    assert agrees(found, reference(weights, wide, bboxes=boxes))
    assert found.boxes[:, 2].max() > 5000
    with pytest.raises(BadImage, match="too long and narrow: 10000x8 pixels"):
        mobile.embed(np.zeros((8, 10_000, 3), np.uint8))


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros(8, np.uint8)]
)
def test_other_arrays_are_refused(mobile, image):
    with pytest.raises(ValueError, match="an image must be uint8"):
        mobile.embed(image)


def test_a_grid_without_points_is_refused():
    with pytest.raises(ValueError, match="leaves no point in crop layer 2"):
        everything(crop_n_layers=2, crop_downscale_factor=2)


def test_few_masks_are_in_memory_at_a_time(mobile, monkeypatch):
    """Of a large image one after the other is scaled up, not all."""
    from ultralytics.utils import ops

    scaled, scale = [], ops.scale_masks
    monkeypatch.setattr(
        ops, "scale_masks", lambda masks, *rest, **named: scaled.append(masks.shape[1]) or scale(masks, *rest, **named)
    )
    list(mobile.steps.in_original(torch.zeros(5, 64, 64), (5000, 5000)))
    list(mobile.steps.in_original(torch.zeros(5, 64, 64), (100, 100)))
    assert scaled == [1, 1, 1, 1, 1, 5]
