"""The model card beside each model: front matter as the Hub wants it, figures of model.json, no moment in it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import torch
import yaml

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.transforms import CLASSES_OF_ROTATIONS
from cnn_core.classification.inference.looks import measure_look
from cnn_core.classification.training.loop import TrainingResult
from cnn_core.classification.training.params import TrainParams
from cnn_core.detection import yolo
from cnn_core.files import write_json
from cnn_core.model_card.card import DETECTOR, classifier_card, finder_card
from cnn_core.params import from_mapping, load_section
from cnn_core.segmentation.training.data import read_masks
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.train import SegmenterJob, train
from tasks import train_detector, train_segmenter
from tasks.common import classifier_training
from tests.helpers.detection_sets import rectangles
from tests.helpers.detector_training import job_of, params_of
from tests.helpers.detector_training import trained as trained_detector
from tests.helpers.learning import params
from tests.helpers.mask_files import PARAMS, write_set
from tests.helpers.paths import ROOT

# https://github.com/huggingface/hub-docs/blob/main/modelcard.md; the fields that the Hub verifies, and those we use
FIELDS = {"license", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index"}
LICENCES = {"apache-2.0", "agpl-3.0"}
TASKS = {"image-classification", "image-feature-extraction", "object-detection", "mask-generation"}
DATASET = {
    "set": "digits", "classes": list("0123456789"), "shape": [1, 28, 28], "mean": [0.1], "std": [0.3],
    "counts": {"train": 80, "val": 9, "test": 11}, "originals": 40, "copies": 1, "content_sha256": "ab" * 32,
}  # fmt: skip


def front_matter(text: str) -> dict:
    """The YAML between the first two lines of dashes, held against the Hub's specification."""
    empty, front, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    assert empty == ""
    assert body.startswith("\n# ")
    found = yaml.safe_load(front)
    assert found.keys() == FIELDS
    assert found["license"] in LICENCES
    assert found["pipeline_tag"] in TASKS
    for key in ("tags", "datasets", "metrics"):
        assert all(isinstance(entry, str) for entry in found[key]), key
    assert all(re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", name) for name in found["datasets"])
    (index,) = found["model-index"]
    (result,) = index["results"]
    assert isinstance(index["name"], str)
    assert result["task"]["type"] == found["pipeline_tag"]
    assert {"type", "name"} <= result["dataset"].keys()
    for metric in result["metrics"]:
        assert {"type", "value"} <= metric.keys()
        assert isinstance(metric["value"], float)
        assert metric["type"] in found["metrics"]
    return found


def values(front: dict) -> list[float]:
    return [metric["value"] for metric in front["model-index"][0]["results"][0]["metrics"]]


def save(folder: Path, params_: TrainParams, classes: list[str], dataset: dict = DATASET) -> tuple[str, dict]:
    """A classifier's folder as the stages train and pretrain write it: the card and model.json."""
    network = registry.build(params_.model, len(classes), tuple(dataset["shape"])).state_dict()
    best = {"epoch": 1, "val_loss": 0.25, "val_accuracy": 0.875}
    history = [{"phase": "select", "seconds": 1.0}]
    result = TrainingResult(shipped=network, evaluated=network, best=best, history=history)
    strokes = np.pad(np.full((1, 1, 20, 9), 255, np.uint8), ((0, 0), (0, 0), (4, 4), (9, 10)))
    look = measure_look(strokes)
    classifier_training.save_trained(folder, params_, dataset, result, classes=classes, look=look)
    return (folder / "README.md").read_text(), json.loads((folder / "model.json").read_text())


def test_a_classifiers_card(tmp_path: Path) -> None:
    card, model = save(tmp_path / "digits", params(epochs=7), DATASET["classes"])
    front = front_matter(card)
    assert (front["license"], front["pipeline_tag"], front["datasets"]) == (
        "apache-2.0",
        "image-classification",
        ["digits"],
    )
    assert values(front) == [model["metrics"]["val_accuracy"], model["metrics"]["val_loss"]]
    recipe = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert recipe == json.loads(json.dumps(model["params"]))
    data = ["0, 1, 2, 3", "40 images, and a seeded copy of each", "9 images", model["data_sha256"]]
    rest = [
        "0.8750",
        "`data/metrics/evaluate-digits.json`",
        'Predictor("data/models/digits")',
        "light ink on a dark ground",
    ]
    assert [words for words in (*data, *rest) if words not in card] == []
    assert "evaluated.safetensors" not in card


def test_a_classifier_of_generated_images_says_so(tmp_path: Path) -> None:
    assert "generated" not in save(tmp_path / "digits", params(), DATASET["classes"])[0]
    model = json.loads((tmp_path / "digits/model.json").read_text())
    card = classifier_card(model, DATASET, name="scenes", generated=True)
    assert "generated by a program" in card
    assert "Nothing here says how good it is on photographs." in card


def test_the_same_model_gives_the_same_bytes_and_no_moment(tmp_path: Path) -> None:
    first, model = save(tmp_path / "a" / "digits", params(), DATASET["classes"])
    again, _ = save(tmp_path / "b" / "digits", params(), DATASET["classes"])
    assert first == again
    words = first.replace(model["git_commit"], "").replace(model["data_sha256"], "")
    assert not re.search(r"20\d\d-|\d\d:\d\d", words)
    assert str(tmp_path) not in first


def test_a_refitted_classifier_says_which_weights_were_measured(tmp_path: Path) -> None:
    card, _ = save(tmp_path / "digits", params(refit="all"), DATASET["classes"])
    assert "every labelled image, validation and test part included" in " ".join(card.split())
    assert "`evaluated.safetensors`, which has seen neither" in " ".join(card.split())


def test_features_without_labels_are_no_classifier(tmp_path: Path) -> None:
    section = load_section(TrainParams, "pretrain.scenes", ROOT / "params.yaml")
    section = dataclasses.replace(section, model=section.model | {"builder": "squeezenet1_1"})
    dataset = DATASET | {"set": "scenes", "shape": [3, 64, 64], "classes": ["sea", "street"], "copies": 0}
    card, _ = save(tmp_path / "scenes-pretrained", section, list(CLASSES_OF_ROTATIONS), dataset)
    front = front_matter(card)
    assert (front["pipeline_tag"], front["tags"]) == ("image-feature-extraction", ["gridflow", "squeezenet1_1"])
    assert "--set train.scenes.weights=data/models/scenes-pretrained" in card
    assert "test part, with their intervals" not in card


def test_a_start_from_other_weights_is_told() -> None:
    parameters = {"source": "/mine/set", "weights": "data/weights/yolo11n.pt"}
    model = {"architecture": "yolo11n.yaml", "model": {}, "classes": ["a"], "imgsz": 64, "epochs": 1, "metrics": {}}
    model |= {"params": parameters, "data_sha256": "", "git_commit": ""}
    card = finder_card(DETECTOR, model, {"train": 3, "val": 0}, name="detector")
    assert "1 epoch, from `data/weights/yolo11n.pt`, whose licence holds too" in card
    assert "Nothing was measured on a validation part." in card
    assert front_matter(card)["datasets"] == ["set"]


def test_the_stages_of_detector_and_segmenter_write_one(tmp_path: Path) -> None:
    yolo.quiet(tmp_path)
    source = rectangles(tmp_path / "set")
    found = params_of(source=str(source), epochs=1)
    job = job_of(found, tmp_path, source)
    train_detector.save(tmp_path / "models" / "detector", job, trained_detector(job, tmp_path)[-1], "cd" * 32, [])
    card, model = (tmp_path / "models/detector/README.md"), (tmp_path / "models/detector/model.json")
    front, metrics = front_matter(card.read_text()), json.loads(model.read_text())["metrics"]
    assert (front["license"], front["library_name"]) == ("agpl-3.0", "ultralytics")
    assert values(front) == [round(metrics[key], 6) for key in ("mAP50", "mAP50-95", "precision", "recall")]
    assert "12 images" in card.read_text()
    assert "composed" not in card.read_text()

    source = write_set(tmp_path / "masks")
    manifest = json.loads((source / "manifest.json").read_text())
    write_json(source / "manifest.json", {**manifest, "generated": True})
    ours = from_mapping(TrainSegmenterParams, {**PARAMS, "source": str(source), "epochs": 1}, "train_segmenter")
    kept: list[dict] = []
    job = SegmenterJob(params=ours, source=str(source), start="none")
    train(job, folder=tmp_path, device=torch.device("cpu"), on_epoch=lambda _, make: kept.append(make()))
    parts = {split: read_masks(str(source), split) for split in ("train", "val")}
    train_segmenter.save(tmp_path / "models" / "segmenter", job, kept[-1], "ef" * 32, parts, [], 1)
    text = (tmp_path / "models/segmenter/README.md").read_text()
    front = front_matter(text)
    assert (front["license"], front["pipeline_tag"]) == ("agpl-3.0", "mask-generation")
    assert values(front) == [round(kept[-1]["history"][-1][key], 6) for key in ("val_iou", "val_iou_error")]
    assert "composed by a program" in text
    assert "4 images" in text
