"""From a table of several labels an image to predictions: ingest, augment, train, evaluate, predict, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from cnn_core.classification.training.loop import train
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import load_arrays, read_dataset
from cnn_core.data.class_changes import compare_classes, read_labels
from cnn_core.data.raw import read_manifest, read_quarantine, read_raw
from cnn_core.export import export
from cnn_core.params import load_section
from cnn_core.predict import Predictor
from cnn_core.reporting.headlines import headlines
from cnn_core.reporting.page import ReportParams, write_report
from cnn_core.reporting.summary import summary
from flows.entries.values import Survey
from tasks import anatomy, augment, baselines, evaluate, ingest, predict
from tasks.common.classifier_training import ClassifierJob, save_trained
from tasks.look import look
from tasks.train import load_setup
from tests.helpers.image_files import encoded, put, scene
from tests.helpers.paths import ROOT

CLASSES = ("blue", "green", "red")
MODEL = {"architecture": "digit_cnn", "width": 4, "depth": 2, "channel_dropout": 0.0, "dropout": 0.0}


def picture(number: int, labels: np.ndarray, side: int = 24) -> Image.Image:
    """A soft picture with a bright square of each of its colours."""
    pixels = np.array(scene(number, (side, side))) // 3
    for index in np.flatnonzero(labels):
        pixels[8 * index : 8 * index + 7, 2:20] = 0
        pixels[8 * index : 8 * index + 7, 2:20, 2 - index] = 250
    return Image.fromarray(pixels)


def source(folder: Path, count: int = 90) -> np.ndarray:
    """One folder of images and a table with a column of zeros and ones for each class."""
    labels = np.random.default_rng(0).integers(0, 2, (count, 3))
    lines = [f"image,{','.join(CLASSES)}"]
    for number, row in enumerate(labels):
        put(folder / f"images/{number:03d}.png", encoded(picture(number, row)))
        lines.append(f"{number:03d},{','.join(map(str, row))}")
    put(folder / "train.csv", "\n".join(lines).encode())
    return labels


def settings(folder: Path, **ingest_: object) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    entry = {"source": "source", "kind": "images", "val_fraction": 0.2, "test_fraction": 0.25, "seed": 0}
    entry |= {"max_bad_fraction": 0.1, "near_duplicates": False, "multilabel": True}
    content["ingest"] = {"colours": entry | ingest_}
    content["augment"] = {"colours": content["augment"]["scenes"] | {"size": 24}}
    augmentation = content["train"]["scenes"]["augmentation"] | {"flip": 0.0, "crop_scale": 1.0, "mixup": 0.2}
    small = {"data": "colours", "model": MODEL, "weights": "data/weights/none", "image_size": 24, "start_size": 0}
    small |= {"epochs": 12, "epoch_images": 0, "batch_size": 16, "refit": "none", "learning_rate": 0.02}
    small |= {"class_weights": "balanced", "label_smoothing": 0.0, "augmentation": augmentation, "select": "accuracy"}
    content["train"] = {"colours": content["train"]["scenes"] | small}
    model = {"data": "colours", "weights": "data/models/colours"}
    content["evaluate"] = {"colours": model | {"tta": 1, "worst": 6}}
    content["predict"] = {"colours": {"weights": model["weights"], "source": "data/raw/colours", "tta": 1}}
    content["anatomy"] = {"colours": content["anatomy"]["digits"] | model}
    content["baselines"] = {"colours": content["baselines"]["digits"] | model}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("colours")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        source(folder / "source")
        settings(folder)
        ingest.main("colours")
        augment.main("colours")
        learned(folder)
        evaluate.main("colours")
        predict.main("colours")
    return folder


def learned(folder: Path) -> None:
    """Train as a worker of the stage does, without Ray around it."""
    params = load_section(TrainParams, "train.colours")
    data = folder / "data/augmented/colours"
    job = ClassifierJob(params=params, data=data, start=Path("data/weights/none").absolute())
    done = train(params, load_setup(job, torch.device("cpu")))
    save_trained("data/models/colours", params, read_dataset(data), done, classes=CLASSES)


def metrics(run: Path, stage: str) -> dict:
    return json.loads((run / f"data/metrics/{stage}-colours.json").read_text())


def test_raw_and_augmented_hold_the_labels_of_the_table(run: Path) -> None:
    labels = source(run / "again")
    raw, manifest = read_raw(run / "data/raw/colours"), read_manifest(run / "data/raw/colours")
    by_id = dict(zip(raw.ids, raw.labels.tolist(), strict=True))
    assert by_id == {f"images/{number:03d}.png": row.tolist() for number, row in enumerate(labels)}
    assert (manifest["multilabel"], manifest["classes"]) == (True, list(CLASSES))
    counts = np.sum([list(of.values()) for of in manifest["class_counts"].values()], axis=0)
    assert counts.tolist() == labels.sum(0).tolist()
    assert sum(manifest["without_label"].values()) == (labels.sum(1) == 0).sum() > 0
    for split in ("train", "val", "test"):
        part, arrays = read_raw(run / "data/raw/colours", split), load_arrays(run / "data/augmented/colours", split)
        assert (part.labels == arrays.labels).all()
        assert arrays.labels.dtype == np.uint8


def test_the_model_learns_and_keeps_its_thresholds(run: Path) -> None:
    card = json.loads((run / "data/models/colours/model.json").read_text())
    assert len(card["thresholds"]) == 3
    readme = (run / "data/models/colours/README.md").read_text()
    assert all(f"| {name} | {at:.4f} |" in readme for name, at in zip(CLASSES, card["thresholds"], strict=True))
    measured = metrics(run, "evaluate")
    assert measured["map"] > 0.9
    assert measured["map_low"] <= measured["map"] <= measured["map_high"]
    table = pd.read_parquet(run / "data/predictions/colours-test.parquet")
    test = load_arrays(run / "data/augmented/colours", "test")
    truth = [np.flatnonzero(row).tolist() for row in test.labels]
    assert [list(row) for row in table["labels"]] == truth
    right = [list(row["predicted"]) == list(row["labels"]) for row in table.to_dict("records")]
    assert measured["exact_match"] == pytest.approx(np.mean(right))
    confusion = pd.read_csv(run / "data/plots/evaluate-colours-confusion.csv")
    assert (confusion["actual"] != "(no such label)").sum() == test.labels.sum() == measured["labels"]


def test_predictions_have_a_probability_a_class_and_the_labels(run: Path) -> None:
    table = pd.read_csv(run / "data/predictions/colours/predictions.csv", keep_default_na=False)
    assert list(table.columns) == ["file", "labels", *[f"p({name})" for name in CLASSES]]
    thresholds = json.loads((run / "data/models/colours/model.json").read_text())["thresholds"]
    sums = table[[f"p({name})" for name in CLASSES]].sum(axis=1)
    assert sums.max() > 1.5 > 0.75 > sums.min()  # each class has a probability of its own
    reached = table[[f"p({name})" for name in CLASSES]].to_numpy() >= np.array(thresholds)
    assert table["labels"].tolist() == ["|".join(np.array(CLASSES)[row]) for row in reached]
    counts = metrics(run, "predict")
    assert list(counts["predicted"].values()) == reached.sum(0).tolist()
    assert counts["without_label"] == (reached.sum(1) == 0).sum()
    classified = Predictor(run / "data/models/colours")(run / "source/images")
    assert list(classified.table().columns) == list(table.columns)
    assert "labels" in classified.lines(2)[0]


def test_an_export_gives_the_probabilities_and_names_the_thresholds(run: Path, tmp_path: Path) -> None:
    assert export(run / "data/models/colours", tmp_path / "colours.pt2") < 1e-4
    described = json.loads((tmp_path / "colours.pt2.json").read_text())
    card = json.loads((run / "data/models/colours/model.json").read_text())
    assert described["thresholds"] == card["thresholds"]
    assert described["included"]["sigmoid"]


def test_stages_of_one_label_an_image_refuse_the_set(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    for stage in (baselines, anatomy):
        with pytest.raises(ValueError, match=r"may have several labels, and .*colours works with one label an image"):
            stage.main("colours")


def test_copies_whose_labels_disagree_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source(tmp_path / "source")
    settings(tmp_path)
    lines = (tmp_path / "source/train.csv").read_text()
    (tmp_path / "source/images/copy.png").write_bytes((tmp_path / "source/images/004.png").read_bytes())
    same = lines.splitlines()[5].split(",", 1)[1]
    other = "0,0,0" if same != "0,0,0" else "1,1,0"
    (tmp_path / "source/train.csv").write_text(f"{lines}\ncopy,{other}")
    ingest.main("colours")
    entries = {entry["id"]: entry for entry in read_quarantine("data/raw/colours")}
    assert {id_: entry["reason"] for id_, entry in entries.items()} == dict.fromkeys(
        ("images/004.png", "images/copy.png"), "conflicting labels"
    )
    assert "images/copy.png says " in entries["images/copy.png"]["detail"]
    (tmp_path / "source/train.csv").write_text(f"{lines}\ncopy,{same}")
    ingest.main("colours")
    assert [entry["reason"] for entry in read_quarantine("data/raw/colours")] == ["duplicate"]


def test_what_looks_like_several_labels_is_refused_and_pixels_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source(tmp_path / "source", count=6)
    settings(tmp_path, multilabel=None)
    with pytest.raises(ValueError, match=r"train.csv has 3 columns of zeros and ones .*: set multilabel to true"):
        ingest.main("colours")
    settings(tmp_path, kind="pixels")
    with pytest.raises(ValueError, match=r"only images .* can have several labels"):
        ingest.main("colours")


def test_the_report_shows_the_classes_with_their_intervals(run: Path) -> None:
    values = yaml.safe_load((run / "params.yaml").read_text())
    for section in set(values) - {"ingest", "augment", "train", "evaluate", "predict", "report"}:
        values[section] = {}
    values["report"]["expected"] = {"colours": {"map": 0.5}}
    (run / "report.yaml").write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        (run / "params.yaml").rename(run / "kept.yaml")
        (run / "report.yaml").rename(run / "params.yaml")
        write_report(load_section(ReportParams, "report"), root=run, output=run / "index.html")
        figure = next(headline for headline in headlines(run) if headline.key == "evaluate-colours:map")
        text = summary(run)
        (run / "kept.yaml").rename(run / "params.yaml")
    page, measured = (run / "index.html").read_text(), metrics(run, "evaluate")
    assert (figure.value, figure.low, figure.expected) == (measured["map"], measured["map_low"], 0.5)
    assert f"| colours mAP | **{measured['map']:.3f}** |" in text
    assert "An image may have several labels, or none." in page
    for name, row in measured["by_class"].items():
        for key in ("ap", "ap_low", "threshold"):
            assert f'data-metric="evaluate-colours:by_class/{name}/{key}"' in page
            assert f">{row[key]:.3f}<" in page


def test_a_look_notices_several_labels(tmp_path: Path) -> None:
    labels = source(tmp_path / "source", count=40)
    manifest = look(str(tmp_path / "source"), "auto")
    assert manifest["multilabel"]
    assert sum(manifest["without_label"].values()) == (labels.sum(1) == 0).sum()
    survey = Survey(source="source", manifest=manifest)
    assert any("several labels an image" in line and "multilabel is set to true" in line for line in survey.lines())


def test_a_class_that_is_renamed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source(tmp_path / "source")
    settings(tmp_path)
    ingest.main("colours")
    before = read_labels(Path("data/raw/colours"))
    table = (tmp_path / "source/train.csv").read_text()
    (tmp_path / "source/train.csv").write_text(table.replace("blue", "azure", 1))
    ingest.main("colours")
    changes = compare_classes(before, read_labels(Path("data/raw/colours")))
    assert before.counts == {name: int(n) for name, n in zip(CLASSES, source(tmp_path / "again").sum(0), strict=True)}
    assert {name: rename.now for name, rename in changes.renamed.items()} == {"blue": "azure"}
    assert (changes.new, changes.gone) == ({}, {})
