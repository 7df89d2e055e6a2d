"""The stage evaluate_segmenter: prompts from the truth and from a detector, its figures, and Ultralytics beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from cnn_core.annotations.coco import to_coco
from cnn_core.annotations.tables import OBJECTS, read_annotations, read_objects
from cnn_core.annotations.yolo_labels import write_yolo
from cnn_core.detection.yolo import quiet
from cnn_core.params import from_mapping
from cnn_core.segmentation.evaluation.prompted_masks import (
    detected_prompts,
    evenly_spaced,
    read_masked_truth,
    segment_prompts,
    true_prompts,
)
from cnn_core.segmentation.sam.params import SmallSamParams
from cnn_core.segmentation.sam.small import build_small_sam
from cnn_core.segmentation.segments import Segments, SegmentsBuilder
from tasks import evaluate_segmenter
from tests.helpers.prediction_files import CLASSES, found_in, numbers_set, write_predictions
from tests.helpers.sam_files import write_sam

TEXTS = ["12", "9", "", "40"]
VALUES = {
    "weights": "mobile_sam.pt", "source": "set", "split": "test", "prompts": "detect", "imgsz": 128, "match_iou": 0.5,
    "tolerance": 0.008, "small": 0.16, "large": 0.24, "resamples": 20, "reference": 2, "shown": 2, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_sam(tmp_path_factory.mktemp("weights"), "mobile_sam")


@pytest.fixture
def place(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRIDFLOW_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("GRIDFLOW_CPUS_PER_WORKER", str(torch.get_num_threads()))
    (tmp_path / "mobile_sam.pt").symlink_to(weights)
    set_ = numbers_set(tmp_path / "set", TEXTS)
    images, truth, _ = read_annotations(set_, "test")
    images = images.assign(image_id=[name.rpartition("/")[2] for name in images["image_id"]])
    images = images[["image_id", "file", "width", "height"]]
    write_predictions(tmp_path / "detect", images, found_in(truth, masks=False)[1:])  # the first is missed
    return tmp_path


def run(**changes: object) -> dict:
    Path("params.yaml").write_text(yaml.safe_dump({"evaluate_segmenter": {"segmenter": VALUES | changes}}))
    evaluate_segmenter.main("segmenter")
    return json.loads(Path("data/metrics/evaluate_segmenter-segmenter.json").read_text())


def test_it_measures_with_true_boxes_and_the_detectors(place: Path) -> None:
    metrics = run()
    assert (metrics["images"], metrics["objects"], metrics["network"]) == (4, 5, "mobile_sam")
    assert 0 <= metrics["mean_iou_low"] <= metrics["mean_iou"] <= metrics["mean_iou_high"] <= 1
    assert set(metrics["by_class"]) == set("12940")
    found = read_objects("data/predictions/segmenter-test.parquet")
    assert list(found)[: len(OBJECTS)] == list(OBJECTS)
    own, detected = (found[found["prompted_by"] == name] for name in ("truth", "detector"))
    assert (len(own), len(detected)) == (5 - metrics["without_a_mask"], 4)
    assert metrics["mean_iou"] == pytest.approx(own["iou"].sum() / 5)
    detector = metrics["detector"]
    assert detector["found"] == 4 / 5
    assert detector["found_objects"]["mean_iou"] == pytest.approx(detected["iou"].mean())
    assert detector["all_objects"]["mean_iou"] == pytest.approx(detected["iou"].sum() / 5)
    assert metrics["mean_iou_by_detector"] == pytest.approx(detected["iou"].sum() / 5)
    table = pd.read_csv("data/plots/evaluate_segmenter-segmenter-calibration.csv")
    assert table["objects"].sum() == len(own)
    assert Image.open("data/plots/evaluate_segmenter-segmenter-examples.png").width > 600
    # the detector's boxes are the true ones here, so are the masks
    assert detected["rle"].tolist() == own["rle"].iloc[1:].tolist()
    reference = metrics["reference"]
    assert (reference["images"], reference["objects"], reference["equal_masks"]) == (2, 4, 1)
    assert reference["ultralytics_mean_iou"] == pytest.approx(reference["mean_iou"])


def test_without_a_detector_and_a_reference(place: Path) -> None:
    metrics = run(prompts="data/weights/none", reference=0, resamples=0)
    assert not {"detector", "mean_iou_by_detector", "reference", "mean_iou_low"} & set(metrics)


def test_a_detector_that_has_detected_nothing(place: Path) -> None:
    images, truth, _ = read_annotations("set", "test")
    images = images.assign(image_id=[name.rpartition("/")[2] for name in images["image_id"]])
    images = images[["image_id", "file", "width", "height"]]
    write_predictions(place / "nothing", images, found_in(truth, masks=False)[:0])
    metrics = run(prompts="nothing", reference=0, resamples=0)
    assert metrics["mean_iou_by_detector"] == 0
    assert metrics["mean_iou"] > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "data/weights/sam2.1_t.pt"}, r"gridflow fetch sam2\.1_t\.pt"),
        ({"source": "nowhere"}, "nowhere does not exist: name a folder"),
        ({"split": "val"}, "no images of the split 'val'"),
        ({"prompts": "nowhere"}, "the stage detect writes it"),
        ({"prompts": "some"}, "1 of the 4 images of set, split test; 3 would count as missed"),
        ({"small": 0.5}, "small must be at most large"),
    ],
)
def test_what_is_missing_is_one_sentence(place: Path, change: dict, words: str) -> None:
    images, truth, _ = read_annotations("set", "test")
    own = images[:1].assign(image_id="000001")
    write_predictions(place / "some", own[["image_id", "file", "width", "height"]], found_in(truth, masks=False)[:2])
    with pytest.raises(ValueError, match=words):
        run(**change)


def test_masks_are_read_from_polygons_and_coco(place: Path) -> None:
    images, truth, _ = read_annotations("set", "test")
    other = place / "yolo"
    (other / "images").mkdir(parents=True)
    (other / "images/test").symlink_to(place / "set/images/test")
    write_yolo(other, images, truth, CLASSES, masks=True)
    coco = to_coco(images, truth, CLASSES)
    coco["annotations"][0]["iscrowd"] = 1
    Path("test.json").write_text(json.dumps(coco))
    assert len(read_masked_truth("yolo", "test")[1]) == 5
    assert len(read_masked_truth("test.json", "test")[1]) == 4
    for entry in coco["annotations"]:
        del entry["segmentation"]
    Path("test.json").write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=r"4 of the 4 objects of test.json have a box but no mask"):
        read_masked_truth("test.json", "test")


def test_prompts_by_a_detector_are_of_the_objects_that_they_overlap(place: Path) -> None:
    _, truth, _ = read_annotations("set", "test")
    found = truth.assign(score=0.5).iloc[[4, 1]]
    found = pd.concat([found, found.assign(x1=0.0, x2=5.0, score=0.9)])  # two on nothing
    prompts = detected_prompts(truth, found.assign(class_id=0), 0.5)
    assert prompts["object"].tolist() == [1, 4]
    assert len(detected_prompts(truth, found[:0], 0.5)) == 0
    assert true_prompts(truth)["object"].tolist() == [0, 1, 2, 3, 4]
    assert evenly_spaced(pd.DataFrame({"a": range(10)}), 3)["a"].tolist() == [0, 4, 9]
    assert np.array_equal(evenly_spaced(pd.DataFrame({"a": range(2)}), 5)["a"], [0, 1])


class Fake:
    """A segmenter that finds no mask for every second prompt."""

    def embed(self, image: np.ndarray) -> np.ndarray:
        return image

    def masks(self, image: np.ndarray, boxes: np.ndarray) -> Segments:
        found = SegmentsBuilder(*image.shape[:2], {})
        for number in range(0, len(boxes), 2):
            found.add(number, 0.9, 0.8, torch.ones(image.shape[:2], dtype=torch.bool))
        return found.segments()


def test_a_prompt_without_a_mask_keeps_its_place(place: Path) -> None:
    images, truth, _ = read_annotations("set", "test")
    parts = [part for part in segment_prompts(Fake(), images, true_prompts(truth), {}) if len(part)]
    found = pd.concat(parts, ignore_index=True)
    assert found["rle"].map(type).tolist() == [str, type(None), str, str, type(None)]
    assert found["score"].isna().tolist() == [False, True, False, False, True]
    assert found["object"].tolist() == [0, 1, 2, 3, 4]
    params = evaluate_segmenter.EvaluateSegmenterParams(**VALUES)
    scores = evaluate_segmenter.scored(params, images, truth, found)
    assert (scores["iou"] == 0).tolist() == [False, True, False, False, True]


def test_images_that_cannot_be_segmented_are_left_out_counted_and_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (5, 5)).save("set/images/test/000002.png")  # "9"
    Path("set/images/test/000003.png").unlink()  # without a digit; detect ran after it was gone
    images, truth, _ = read_annotations("set", "test")
    images = images.assign(image_id=[name.rpartition("/")[2] for name in images["image_id"]])
    left = images.loc[images["image_id"] != "000003", ["image_id", "file", "width", "height"]]
    write_predictions(place / "after", left, found_in(truth, masks=False)[1:])
    metrics = run(prompts="after", reference=0)
    assert (metrics["listed"], metrics["images"], metrics["left_out"], metrics["objects"]) == (4, 2, 2, 4)
    masks = read_objects("data/predictions/segmenter-test.parquet")
    detected = masks[masks["prompted_by"] == "detector"]
    assert detected["class_name"].tolist() == ["2", "4", "0"]
    table = pd.read_csv("data/predictions/segmenter-left-out.csv")
    assert table["name"].tolist() == ["set/images/test/000003.png", "set/images/test/000002.png"]
    assert table["reason"][1] == "it is 5 x 5 pixels, but the set says 96 x 96"
    assert "2 of 4 images cannot be used" in " ".join(capsys.readouterr())
    for number in (1, 4):
        Path(f"set/images/test/00000{number}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 3 images of the split test of set can be read: .*000001\.png"):
        run(prompts="after", reference=0)


def test_ultralytics_gives_the_masks_of_the_small_sam_too(place: Path) -> None:
    torch.manual_seed(0)
    model = {"widths": [8, 16, 16, 16], "depths": [0, 1, 1, 0], "windows": [4, 4, 4], "head_width": 8, "dim": 16}
    model |= {"layers": 2, "heads": 2, "mlp_dim": 32, "frequency": 0.5}
    quiet(place / "settings")
    network = build_small_sam(from_mapping(SmallSamParams, model, "model"), 64)
    for branch in network.mask_decoder.output_hypernetworks_mlps:  # logits of both signs: weights with a mean of 0
        for part in branch.layers[-1].parameters():
            part.data.sub_(part.data.mean(0)).mul_(20)
    network.mask_decoder.iou_prediction_head.layers[-1].bias.data.fill_(0.9)
    (place / "small").mkdir()
    torch.save(network.state_dict(), place / "small/model.pt")
    (place / "small/model.json").write_text(json.dumps({"imgsz": 64, "model": {"architecture": "small_sam", **model}}))
    metrics = run(weights="small", imgsz=0, reference=4)
    found = read_objects("data/predictions/segmenter-test.parquet")
    assert found[found["prompted_by"] == "truth"]["rle"].nunique() == 5
    reference = metrics["reference"]
    assert (metrics["network"], reference["objects"]) == ("small_sam", 5)
    assert reference["equal_masks"] >= 3 / 5  # a logit of nearly 0 may come out on the other side
    assert reference["ultralytics_mean_iou"] == pytest.approx(reference["mean_iou"], abs=1e-3)
