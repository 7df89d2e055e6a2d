"""The segmenter gives what Ultralytics' own predictor gives, and encodes an image once."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
import yaml

from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from tests.helpers.detector_files import photograph
from tests.helpers.examples import run_examples
from tests.helpers.paths import ROOT
from tests.helpers.sam_files import write_sam
from tests.helpers.segmenters import (
    BOXES,
    HEIGHT,
    SIDE,
    WIDTH,
    agrees,
    everything,
    masks,
    predicted,
    reference,
    segmenter,
)

NAMES = [
    "mobile_sam",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("sam2_t", "sam2.1_t", "sam_b")),
]


@pytest.mark.parametrize("name", NAMES)
def test_boxes_and_points_give_what_ultralytics_gives(tmp_path, weights, mobile, image, name):
    path = weights if name == "mobile_sam" else write_sam(tmp_path, name)
    own = mobile if name == "mobile_sam" else segmenter(path)
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
    prompts = CheckedPrompts.checked(BOXES, None, None, 333, 250)
    numbers, logits, scores = (list(column) for column in zip(*own.logits(encoded, prompts), strict=True))
    assert np.concatenate(numbers).tolist() == list(range(len(BOXES)))
    assert torch.allclose(torch.cat(logits), kept["out"][0], atol=1e-4)
    assert torch.allclose(torch.cat(scores), kept["out"][1], atol=1e-4)
    assert agrees(segmenter(path, imgsz=0, batch=len(BOXES)).masks(encoded, boxes=BOXES), result)


def test_half_on_a_cpu_is_close(mobile, embedding, image):
    """In bfloat16, which has 8 bits: the same shapes, but for their edges."""
    half = segmenter(mobile.loaded, half=True)
    found, exact = half.masks(half.embed(image), boxes=BOXES), mobile.masks(embedding, boxes=BOXES)
    assert found.prompts.tolist() == exact.prompts.tolist()
    assert np.allclose(found.scores, exact.scores, atol=0.02)
    one, two = masks(found), masks(exact)
    assert ((one & two).sum((1, 2)) / (one | two).sum((1, 2)) > 0.9).all()
    assert found.masks != exact.masks


def test_of_three_masks_the_best_is_taken(weights, mobile, image):
    own = segmenter(mobile.loaded, multimask_output=True)
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
        pytest.param({"iou": 0.7}, marks=pytest.mark.slow),
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
def test_automatic_masks_are_those_of_ultralytics(tmp_path, weights, mobile, image, name, changes):
    path = weights if name == "mobile_sam" else write_sam(tmp_path, name)
    own = segmenter(mobile.loaded if name == "mobile_sam" else path, automatic=everything(**changes), conf=0.25)
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


def test_batches_are_bounded_and_change_nothing(mobile, image, monkeypatch):
    boxes = np.array(BOXES * 4, np.float64) + np.repeat(np.arange(4), 5)[:, None] % 2
    sizes = []
    results = []
    for batch in (1, 3, 20):
        own = segmenter(mobile.loaded, batch=batch)
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


def test_the_examples_of_the_docstring_run(tmp_path):
    write_sam(tmp_path, "mobile_sam")
    cv2.imwrite(str(tmp_path / "photo.jpg"), photograph(HEIGHT, WIDTH, 0))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["segment"]["segmenter"] |= {"imgsz": SIDE, "conf": 0.0}
    params["segment"]["segmenter"]["everything"]["points_stride"] = 3
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    run_examples(Segmenter, tmp_path, Segmenter=Segmenter, torch=torch)
