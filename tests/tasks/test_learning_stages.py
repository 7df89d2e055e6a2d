"""The stages augment, evaluate and predict on a small RAW set and an untrained model."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from cnn_core.classification.architectures import registry
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.data.augmented import load_arrays, read_dataset
from cnn_core.data.raw import RawRow, read_raw, write_raw
from cnn_core.images.decoding import encode_png, pixels_sha256
from tasks import augment, evaluate, predict
from tests.helpers.learning import ROOT

MODEL = {"architecture": "digit_cnn", "width": 2, "depth": 2, "channel_dropout": 0.0, "dropout": 0.0}
CLASSES = [str(digit) for digit in range(10)]


def raw(folder, unlabelled=5, refused=()):
    draws = np.random.default_rng(0)
    rows = []

    def add(prefix, number, split, label):
        pixels = np.zeros((28, 28), np.uint8)
        pixels[6:22, 8:20] = draws.integers(100, 255, (16, 12))
        png = encode_png(pixels)
        named = {"id": f"{prefix}/{number:05d}", "image": png, "label": label, "split": split}
        rows.append(RawRow(**named, width=28, height=28, sha256=pixels_sha256(pixels)))

    for number in range(1, 61):
        split = "val" if number % 10 == 0 else "test" if number % 10 == 1 else "train"
        add("train", number, split, number % 10 if number % 20 < 10 else (number + 1) % 10)
    for number in range(1, unlabelled + 1):
        if f"test/{number:05d}" not in refused:
            add("test", number, "unlabelled", -1)
    entries = [SimpleNamespace(id=id_, reason="pixels", detail="300") for id_ in refused]
    description = {"set": "digits", "classes": CLASSES, "source": "x", "seed": 0}
    write_raw(folder / "data/raw/digits", rows, entries, description)


def model(folder, refit="none", seeds=(0, 1), classes=CLASSES):
    weights = []
    for seed in seeds:
        torch.manual_seed(seed)
        weights.append(registry.build(MODEL, len(classes), (1, 28, 28)).state_dict())
    preprocessing = {"shape": [1, 28, 28], "mean": [0.1], "std": [0.3], "views": "glyph", "side": 28}
    rest = {"metrics": {}, "params": {}, "data_sha256": "", "git_commit": "", "refit": refit, "epochs": 1}
    card = ModelCard(model=MODEL, classes=classes, preprocessing=preprocessing, **rest)
    save_model(folder / "data/models/digits", card, shipped=weights[0], evaluated=weights[1])


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw(tmp_path)
    settings(tmp_path)
    return tmp_path


def settings(folder, **sections):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for stage, changes in sections.items():
        content[stage]["digits"] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def augmented(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "data/augmented/digits").iterdir())}


def test_copies_are_seeded_and_the_same_bytes_whatever_the_threads(workplace):
    settings(workplace, augment={"copies": 2})
    augment.main("digits")
    first = augmented(workplace)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    augment.main("digits")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert augmented(workplace) == first
    settings(workplace, augment={"copies": 2, "seed": 1})
    augment.main("digits")
    second = augmented(workplace)
    assert second["train_images.npy"] != first["train_images.npy"]
    assert second["test_images.npy"] == first["test_images.npy"]


def test_copies_follow_the_originals_with_their_labels(workplace):
    settings(workplace, augment={"copies": 2})
    augment.main("digits")
    train, dataset = load_arrays("data/augmented/digits", "train"), read_dataset("data/augmented/digits")
    originals = dataset["originals"]
    assert len(train.images) == 3 * originals
    assert (train.labels.reshape(3, -1) == train.labels[:originals]).all()
    parts = train.images.reshape(3, originals, 1, 28, 28)
    assert not (parts[1] == parts[0]).all((1, 2, 3)).any()
    assert not (parts[2] == parts[1]).all((1, 2, 3)).any()
    metrics = json.loads((workplace / "data/metrics/augment-digits.json").read_text())
    assert (metrics["originals"], metrics["copies"], metrics["train"]) == (originals, 2 * originals, 3 * originals)
    with Image.open("data/plots/augment-digits.png") as picture:
        assert picture.width > 9 * 84


def test_no_copies_leave_the_images_as_they_are(workplace):
    settings(workplace, augment={"copies": 0})
    augment.main("digits")
    dataset = read_dataset("data/augmented/digits")
    assert dataset["counts"]["train"] == dataset["originals"]
    assert (workplace / "data/plots/augment-digits.png").is_file()


def test_evaluate_writes_what_it_measured(workplace):
    augment.main("digits")
    model(workplace)
    evaluate.main("digits")
    table = pd.read_parquet("data/predictions/digits-test.parquet")
    assert list(table.columns) == ["id", "label", "predicted", *[f"p{digit}" for digit in range(10)]]
    np.testing.assert_array_equal(table[[f"p{d}" for d in range(10)]].to_numpy().argmax(1), table["predicted"])
    metrics = json.loads((workplace / "data/metrics/evaluate-digits.json").read_text())
    assert metrics["accuracy"] == pytest.approx((table["label"] == table["predicted"]).mean())
    assert metrics["n"] == len(table) == 6
    assert metrics["evaluated_model"] == "shipped"
    with open("data/plots/evaluate-digits-confusion.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["actual"]) for row in rows] == table["label"].tolist()
    assert [int(row["predicted"]) for row in rows] == table["predicted"].tolist()
    with Image.open("data/plots/evaluate-digits-mistakes.png") as picture:
        assert picture.height > 112


def test_after_a_refit_the_model_that_has_not_seen_the_test_part_is_measured(workplace):
    augment.main("digits")
    model(workplace, refit="all", seeds=(0, 1))
    evaluate.main("digits")
    refitted = pd.read_parquet("data/predictions/digits-test.parquet")
    metrics = json.loads((workplace / "data/metrics/evaluate-digits.json").read_text())
    assert metrics["evaluated_model"] == "without held-out images"
    model(workplace, seeds=(1, 1))
    evaluate.main("digits")
    pd.testing.assert_frame_equal(refitted, pd.read_parquet("data/predictions/digits-test.parquet"))


def test_evaluate_refuses_a_model_of_other_classes(workplace):
    augment.main("digits")
    model(workplace, classes=list("abcdefghij"))
    with pytest.raises(ValueError, match="has the classes"):
        evaluate.main("digits")


def test_evaluate_matches_classes_by_name(workplace, capsys):
    augment.main("digits")
    model(workplace)
    evaluate.main("digits")
    plain = pd.read_parquet("data/predictions/digits-test.parquet")
    path = workplace / "data/models/digits/model.json"
    card = json.loads(path.read_text())
    order = [3, 0, 1, 2, 4, 5, 6, 7, 8, 9]  # the set's numbers of the model's classes
    path.write_text(json.dumps(card | {"classes": [CLASSES[number] for number in order]}))
    evaluate.main("digits")
    turned = pd.read_parquet("data/predictions/digits-test.parquet")
    assert turned["predicted"].tolist() == [order[number] for number in plain["predicted"]]
    assert "does not know" not in capsys.readouterr().out

    path.write_text(json.dumps(card | {"classes": [*CLASSES[:9], "gone"]}))
    evaluate.main("digits")
    other = pd.read_parquet("data/predictions/digits-test.parquet")
    assert other["label"].tolist() == plain["label"].tolist()
    assert other["p10"].tolist() == plain["p9"].tolist()
    assert (other["p9"] == 0).all()
    metrics = json.loads((workplace / "data/metrics/evaluate-digits.json").read_text())
    of_old_classes = other[other["label"] != 9]
    assert (metrics["n"], metrics["not_known"]) == (len(of_old_classes), ["9"])
    assert metrics["accuracy"] == pytest.approx((of_old_classes["label"] == of_old_classes["predicted"]).mean())
    assert "the model does not know 9" in capsys.readouterr().out

    (workplace / "data/models/digits/renamed.json").write_text(json.dumps({"gone": "9"}))
    evaluate.main("digits")
    pd.testing.assert_frame_equal(pd.read_parquet("data/predictions/digits-test.parquet"), plain)


def submission(folder):
    return pd.read_csv(folder / "data/predictions/digits/submission.csv")


def test_predict_labels_the_unlabelled_part_in_the_sources_order(workplace):
    model(workplace)
    predict.main("digits")
    found = submission(workplace)
    assert list(found.columns) == ["ImageId", "Label"]
    assert found["ImageId"].tolist() == [1, 2, 3, 4, 5]
    table = pd.read_csv(workplace / "data/predictions/digits/predictions.csv")
    columns = [f"p({name})" for name in CLASSES]
    assert list(table.columns) == ["file", "class", *columns]
    assert table["class"].tolist() == found["Label"].tolist()
    np.testing.assert_allclose(table[columns].sum(axis=1), 1, atol=1e-5)
    assert b"\r" not in (workplace / "data/predictions/digits/submission.csv").read_bytes()


def test_a_refused_image_is_left_out_counted_and_told_and_the_others_keep_their_numbers(workplace, capsys):
    raw(workplace, refused=["test/00002"])
    model(workplace)
    predict.main("digits")
    assert submission(workplace)["ImageId"].tolist() == [1, 3, 4, 5]
    assert json.loads((workplace / "data/metrics/predict-digits.json").read_text())["refused"] == 1
    assert "warning: 1 images" in capsys.readouterr().out


def test_predict_labels_the_test_part_when_there_is_no_unlabelled_one(workplace):
    raw(workplace, unlabelled=0)
    model(workplace)
    predict.main("digits")
    assert submission(workplace)["ImageId"].tolist() == [1, 2, 3, 4, 5, 6]
    table = pd.read_csv(workplace / "data/predictions/digits/predictions.csv")
    assert table["file"].tolist() == read_raw("data/raw/digits", "test").ids
    assert json.loads((workplace / "data/metrics/predict-digits.json").read_text())["unlabelled"] == 0


def test_predict_labels_any_folder_of_images_and_names_what_it_cannot_read(workplace):
    folder = workplace / "pictures"
    (folder / "more").mkdir(parents=True)
    for name, size in [("b.png", (28, 28)), ("more/a.jpg", (90, 60))]:
        Image.new("RGB", size, (200, 10, 10)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    content = yaml.safe_load((workplace / "params.yaml").read_text())
    content["predict"]["digits"]["source"] = "pictures"
    (workplace / "params.yaml").write_text(yaml.safe_dump(content))
    model(workplace)
    predict.main("digits")
    made = workplace / "data/predictions/digits"
    assert pd.read_csv(made / "predictions.csv")["file"].tolist() == ["b.png", "more/a.jpg"]
    assert pd.read_csv(made / "refused.csv")["id"].tolist() == ["broken.jpg"]
    assert not (made / "submission.csv").exists()
    for picture in folder.rglob("*.*"):
        picture.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of pictures could be read: b\.png: 0 bytes"):
        predict.main("digits")
    assert pd.read_csv(made / "predictions.csv")["file"].tolist() == ["b.png", "more/a.jpg"]
