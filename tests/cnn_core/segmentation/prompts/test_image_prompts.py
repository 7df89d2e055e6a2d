"""Any prompt and any image has one clear result or error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cnn_core.annotations.masks import decode_mask, mask_box
from cnn_core.annotations.tables import OBJECTS, objects_table
from cnn_core.images.decoding import BadImage
from cnn_core.segmentation.prompts.image_prompts import NO_AREA, OUTSIDE
from cnn_core.segmentation.segments import EMPTY_MASK, LOW_SCORE
from tests.helpers.detector_files import photograph
from tests.helpers.segmenters import BOXES, HEIGHT, WIDTH, agrees, everything, reference, segmenter


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
        1: OUTSIDE,
        2: OUTSIDE,
        3: NO_AREA,
        4: NO_AREA,
    }
    assert found.masks == mobile.masks(embedding, boxes=[boxes[0], boxes[5]]).masks
    points = mobile.masks(embedding, points=[[5, 5], [-1, 5], [5, 121]])
    assert points.prompts.tolist() == [0]
    assert set(points.dropped.values()) == {OUTSIDE}


def test_masks_that_are_empty_or_of_low_score_say_so(mobile, image, monkeypatch):
    own = segmenter(mobile.loaded, conf=1.0)
    assert own.masks(own.embed(image), boxes=BOXES[:2]).dropped == dict.fromkeys(range(2), LOW_SCORE)
    own = segmenter(mobile.loaded)
    nothing = (torch.full((2, 1, 64, 64), -3.0), torch.full((2, 1), 0.9))
    monkeypatch.setattr(own.steps, "decode", lambda *_, **__: nothing)
    found = own.masks(own.embed(image), boxes=BOXES[:2])
    assert found.dropped == dict.fromkeys(range(2), EMPTY_MASK)
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
    ("prompts", "message"),
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
def test_wrong_prompts_are_refused(mobile, embedding, prompts, message):
    with pytest.raises(ValueError, match=message):
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
