"""Unusual numbers of classes and images, from folders to an evaluated model or to one sentence that says what lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cnn_core.classification.training.loop import train
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import read_dataset
from cnn_core.data.raw import read_manifest
from cnn_core.params import load_section
from cnn_core.reporting.page import ReportParams, write_report
from tasks import augment, evaluate, ingest
from tasks.common.classifier_training import ClassifierJob, save_trained
from tasks.train import load_setup
from tests.helpers.image_files import encoded, put
from tests.helpers.paths import ROOT

MODEL = {"architecture": "digit_cnn", "width": 2, "depth": 2, "channel_dropout": 0.0, "dropout": 0.0}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folders(counts: Mapping[str, int]) -> None:
    """Noise in a folder for each class, with so many images."""
    draws = np.random.default_rng(0)
    for name, count in counts.items():
        for number in range(count):
            pixels = draws.integers(0, 256, (12, 12, 3), np.uint8)
            put(Path("source", name, f"{number}.png"), encoded(Image.fromarray(pixels), compress_level=1))


def settings(**ingest_: object) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["ingest"] = {"own": content["ingest"]["scenes"] | {"source": "source"} | ingest_}
    content["augment"] = {"own": content["augment"]["scenes"] | {"size": 12}}
    small = {"data": "own", "model": MODEL, "weights": "data/weights/none", "image_size": 12, "start_size": 0}
    small |= {"epochs": 1, "epoch_images": 64, "batch_size": 64, "refit": "none", "class_weights": "balanced"}
    content["train"] = {"own": content["train"]["scenes"] | small}
    content["evaluate"] = {"own": {"data": "own", "weights": "data/models/own", "tta": 1, "worst": 4}}
    for section in set(content) - {"ingest", "augment", "train", "evaluate", "report"}:
        content[section] = {}
    content["report"]["expected"] = {}
    Path("params.yaml").write_text(yaml.safe_dump(content))


def run() -> dict:
    """Ingest, augment, train a step, evaluate and report; the measures."""
    ingest.main("own")
    augment.main("own")
    params, data = load_section(TrainParams, "train.own"), Path("data/augmented/own")
    job = ClassifierJob(params=params, data=data.absolute(), start=Path("data/weights/none").absolute())
    done = train(params, load_setup(job, torch.device("cpu")))
    dataset = read_dataset(data)
    save_trained("data/models/own", params, dataset, done, classes=dataset["classes"])
    evaluate.main("own")
    write_report(load_section(ReportParams, "report"), root=".", output="report.html")
    return json.loads(Path("data/metrics/evaluate-own.json").read_text())


def table(rows: list[str]) -> None:
    draws = np.random.default_rng(0)
    for number in range(len(rows)):
        put(Path(f"source/{number}.png"), encoded(Image.fromarray(draws.integers(0, 256, (12, 12, 3), np.uint8))))
    lines = [f"{number},{row}" for number, row in enumerate(rows)]
    put(Path("source/train.csv"), "\n".join(["id,labels", *lines]).encode())


def test_one_class_is_too_few_and_one_label_that_some_images_lack_is_enough() -> None:
    settings()
    folders({"cat": 3})
    with pytest.raises(
        ValueError, match="source/cat has 3 images but neither folders of two classes or more nor a table"
    ):
        ingest.main("own")
    Path("source/cat").rename("other")
    table(["cat"] * 30)
    with pytest.raises(ValueError, match="has images of the class cat alone, and at least two classes are needed"):
        ingest.main("own")
    settings(multilabel=True)
    with pytest.raises(ValueError, match="gives every image the label cat: add images that do not have it"):
        ingest.main("own")
    table(["cat", ""] * 30)
    measured = run()
    assert (measured["classes"], measured["n"] > 0) == (1, True)
    assert 0 <= measured["map"] <= 1


def test_two_images_are_learned_from_and_not_measured() -> None:
    settings()
    folders({"cat": 1, "dog": 1})
    with pytest.raises(ValueError, match="the test part is empty; raise ingest's test_fraction"):
        run()
    warnings = read_manifest("data/raw/own")["warnings"]
    assert "there are less than 10 images of the class cat (1), dog (1): too few to learn and measure it by" in warnings
    sentences = set()
    for seed in range(8):  # with one of them the only dog or cat falls into the test part
        settings(test_fraction=0.4, seed=seed)
        try:
            ingest.main("own")
        except ValueError as error:
            sentences.add(str(error))
    assert any("is left to train from, of 2 labelled ones in all: add images of it" in text for text in sentences)


@pytest.mark.slow
def test_a_thousand_classes() -> None:
    settings(seed=3, val_fraction=0.05, test_fraction=0.05)
    folders({f"c{number:04d}": 5 for number in range(1000)})
    measured = run()
    assert measured["classes"] == 1000
    assert measured["n"] > 200
    assert Path("report.html").stat().st_size < 6_000_000


@pytest.mark.slow
def test_ten_thousand_images_in_a_class_and_five_in_another() -> None:
    settings(seed=1)
    folders({"many": 10_000, "few": 5})
    measured = run()
    manifest = read_manifest("data/raw/own")
    assert (
        "there are less than 10 images of the class few (5): too few to learn and measure it by" in manifest["warnings"]
    )
    assert manifest["class_counts"]["train"]["few"] > 0
    assert measured["n"] == sum(manifest["class_counts"]["test"].values())
