"""No name of a user's meets a word of ours: classes and files of any name go from the set to the page and come back."""

from __future__ import annotations

import csv
import html
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_core.classification.inference.classifier import predictions_table
from cnn_core.classification.inference.metrics import classification
from cnn_core.data.augmented import arrays_writer, load_arrays, read_dataset
from cnn_core.data.raw import RawRow, read_manifest, read_raw, write_raw
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import read_csv, write_csv, write_json
from cnn_core.images.decoding import encode_png
from cnn_core.markdown import escape
from cnn_core.model_card.card import classifier_card
from cnn_core.reporting import classifiers
from cnn_core.reporting.numbers import Numbers, pointer
from cnn_core.reporting.page import environment
from tasks import evaluate

OURS = [
    *("background", "file", "class", "classes", "NA", "N/A", "null", "None", "nan", "accuracy", "macro avg", "label"),
    *("weighted avg", "score", "id", "split", "top1", "n", "f1", "p0", "p(a)", "actual", "predicted", "unlabelled"),
    *("any", "–", "True", "1", "01", "-1", "1e3", "seg_train", "image", "none", "train", "other", "mean", "index"),
]
FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "'", "'=1", "''", "\t=1", "\r=1", "\n=1"]
MARKUP = [
    "a,b",
    'a"b',
    "a\nb",
    "a\rb",
    "a\r\nb",
    " a ",
    "<b>x</b>",
    "</script>",
    "|",
    "`",
    "``a`",
    "$x_$",
    "a/b",
    "a:b",
    "{{ a }}",
]
MODEL = {"architecture": "digit_cnn", "model": {}, "metrics": {}, "epochs": 1, "git_commit": "", "data_sha256": ""}
MODEL["params"] = {"weights": "data/weights/none"}
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12)
NAMES = st.sampled_from(OURS + FORMULAS + MARKUP) | TEXTS


def answered(folder: Path, classes: list[str], files: list[str]) -> np.ndarray:
    """Write a RAW and an AUGMENTED set of one test image a class, and what evaluate makes of right answers to them."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    facts = {"image": encode_png(pixels), "width": 8, "height": 8, "sha256": "", "split": "test"}
    rows = [RawRow(id=file, label=number, **facts) for number, file in enumerate(files)]
    write_raw(folder / "data/raw/x", rows, [], {"set": "x", "classes": classes, "source": "x", "warnings": []})
    labels, images = np.arange(len(classes)), np.broadcast_to(pixels, (len(classes), 1, 8, 8))
    with arrays_writer(folder / "set", name="x", classes=classes, shape=(1, 8, 8), copies=0) as writer:
        for split in ("train", "val", "test"):
            writer.add(split, files, labels)[:] = images
    probabilities = np.eye(len(classes), dtype=np.float32)
    test = load_arrays(folder / "set", "test")
    evaluate.write_predictions(folder / "data/predictions/x-test.parquet", test, probabilities)
    evaluate.write_confusion(folder / "data/plots/evaluate-x-confusion.csv", labels, probabilities, classes)
    evaluate.show_mistakes(folder / "mistakes.png", test, np.roll(probabilities, 1, 1), classes, most=4)
    (folder / "data/metrics").mkdir()
    measured = {**classification(probabilities, labels, classes), "evaluated_model": "shipped"}
    write_json(folder / "data/metrics/evaluate-x.json", measured)
    return probabilities


@settings(max_examples=25)
@given(classes=st.lists(NAMES, min_size=2, max_size=5, unique=True), data=st.data())
def test_classes_and_files_of_any_name_come_back_from_every_table(classes: list[str], data: st.DataObject) -> None:
    files = data.draw(st.lists(NAMES, min_size=len(classes), max_size=len(classes), unique=True))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        probabilities = answered(folder, classes, files)
        assert read_manifest(folder / "data/raw/x")["classes"] == read_dataset(folder / "set")["classes"] == classes
        assert read_raw(folder / "data/raw/x", "test").ids == load_arrays(folder / "set", "test").ids == files

        write_csv(folder / "predictions.csv", predictions_table(files, probabilities, classes))
        table = read_csv(folder / "predictions.csv")
        assert list(table.columns) == ["file", "class", *(f"p({name})" for name in classes)]
        assert (table["file"].tolist(), table["class"].tolist()) == (files, classes)

        section = classifiers.section(folder, "x", {}, Numbers(folder), limit=10)
        assert section["confusion"]["classes"] == sorted(classes)
        assert section["confusion"]["rows"] == np.eye(len(classes), dtype=int).tolist()
        assert section["answers"]["classes"] == classes
        assert sorted(row[0] for row in section["answers"]["rows"]) == sorted(files)
        numbers = Numbers(folder)
        assert numbers.value("evaluate-x:accuracy") == 1.0
        assert all(
            numbers.value(f"evaluate-x:{key}/{pointer(name)}") == 1.0 for key in ("precision", "f1") for name in classes
        )
        page = environment().get_template("classifiers.html.j2").render(classifiers=[section], numbers=numbers)
        assert [html.unescape(cell) for cell in re.findall(r"<td data-class>(.*?)</td>", page, re.S)] == classes
        answers = re.search(r'<script type="application/json">(\{"classes.*?)</script>', page, re.S)
        assert answers
        assert json.loads(answers[1])["classes"] == classes

        text = classifier_card({**MODEL, "classes": classes}, read_dataset(folder / "set"), name="x")
        assert all(escape(name) in text for name in classes)
        assert yaml.safe_load(text.split("---\n")[1])["license"] == "apache-2.0"
        contact_sheet(
            folder / "sheet.png", [[np.zeros((1, 8, 8), np.uint8)] * len(classes)], title="x", headings=classes
        )


def test_missing_values_are_empty_cells(tmp_path: Path) -> None:
    table = pd.DataFrame({"n": pd.array([1, None], "Int64"), "x": [0.5, float("nan")], "t": ["a", None]})
    write_csv(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text() == "n,x,t\n1,0.5,a\n,,\n"


@settings(max_examples=60)
@given(NAMES)
def test_a_spreadsheet_computes_no_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        write_csv(path, predictions_table([name], np.ones((1, 1), np.float32), [name]))
        with path.open(encoding="utf-8", newline="") as file:
            _, (cell, *_) = csv.reader(file)
        plain = re.fullmatch(r"[-+]\d+", name)
        assert plain or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert read_csv(path)["file"].tolist() == [name]
