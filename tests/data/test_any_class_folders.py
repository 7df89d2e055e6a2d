"""Class folders of any name go through the real stages: ingest, augment, evaluate, predict, and onto the page."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnn_core.classification.architectures import registry
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.data.augmented import read_dataset
from cnn_core.data.raw import read_manifest
from cnn_core.data.sources import sorted_names
from cnn_core.files import read_csv
from cnn_core.reporting import classifiers
from cnn_core.reporting.numbers import Numbers
from cnn_core.reporting.page import environment
from tasks import augment, evaluate, ingest, predict
from tests.data.test_any_names import FORMULAS, MARKUP, OURS
from tests.helpers.image_files import encoded, put, scene
from tests.helpers.paths import ROOT

SIDE = 16
MODEL = {"architecture": "digit_cnn", "width": 2, "depth": 1, "channel_dropout": 0.0, "dropout": 0.0}
FORMS = [
    "é",
    "e\u0301",
    "Å",
    "A\u030a",
    "ﬁ",
    "1e5",
    "True",
    "end ",
    " begin",
    "a\\b",
    "%s",
    "C:",
    "~",
    "-rf",
    "$HOME",
    "seg_test",
]
LETTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0/")
# What a folder can be called; those that begin with a dot are hidden, and left out by design.
NAMES = st.sampled_from([*OURS, *FORMULAS, *MARKUP, *FORMS]) | st.text(LETTERS, min_size=1, max_size=12)
FOLDERS = NAMES.filter(lambda name: "/" not in name and not name.startswith("."))


@contextlib.contextmanager
def workplace(classes: list[str]) -> Iterator[Path]:
    """A current folder with parameters and a source whose class folders are called so."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, label in enumerate(classes):
            for part, count in (("seg_train", 3), ("seg_test", 2)):
                for image in range(count):
                    file = folder / "source" / part / part / label / f"{image}.png"
                    put(file, encoded(scene(100 * number + 10 * count + image, (SIDE, SIDE))))
        put(folder / "source/seg_pred/seg_pred/=1.png", encoded(scene(7, (SIDE, SIDE))))
        content = yaml.safe_load((ROOT / "params.yaml").read_text())
        split = {"source": "source", "val_fraction": 0.001, "max_bad_fraction": 0.0, "near_duplicates": False}
        content["ingest"]["scenes"] |= split
        content["augment"]["scenes"] |= {"size": SIDE, "copies": 0}
        (folder / "params.yaml").write_text(yaml.safe_dump(content))
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def write_model(classes: list[str]) -> None:
    torch.manual_seed(0)
    network = registry.build(MODEL, len(classes), (3, SIDE, SIDE))
    square = {"shape": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.3] * 3, "views": "photo", "side": SIDE}
    rest = {"metrics": {}, "params": {}, "data_sha256": "", "git_commit": "", "refit": "none", "epochs": 1}
    card = ModelCard(model=MODEL, classes=classes, preprocessing=square, **rest)
    save_model("data/models/scenes", card, shipped=network.state_dict(), evaluated={})


@settings(max_examples=4, deadline=None)
@given(st.lists(FOLDERS, min_size=2, max_size=4, unique_by=str.lower))
@example(["NA", "null", "background", "file", "class", "=1+1", "01", "1e5", "True", "end ", "é", "e\u0301"])
@example(["nan", "None", "-2+3", "@SUM(1)", "'=1", "a\nb", "a\rb", "a\\b", '"', ",", " x", "1", "1.0", "seg_train"])
def test_they_come_back_from_every_stage(classes: list[str]) -> None:
    in_order = list(sorted_names(classes))
    with workplace(classes) as folder:
        ingest.main("scenes")
        assert read_manifest("data/raw/scenes")["classes"] == in_order
        assert read_manifest("data/raw/scenes")["class_counts"]["test"] == dict.fromkeys(in_order, 2)
        augment.main("scenes")
        assert read_dataset("data/augmented/scenes")["classes"] == in_order
        write_model(in_order)
        evaluate.main("scenes")
        confusion = read_csv("data/plots/evaluate-scenes-confusion.csv")
        assert sorted(confusion["actual"]) == sorted(classes * 2)
        assert set(json.loads(Path("data/metrics/evaluate-scenes.json").read_text())["f1"]) == set(classes)
        predict.main("scenes")
        table = read_csv("data/predictions/scenes/predictions.csv")
        assert list(table.columns) == ["file", "class", *(f"p({name})" for name in in_order)]
        assert table["file"].tolist() == ["seg_pred/=1.png"]
        chances = table[[f"p({name})" for name in in_order]].astype(float).to_numpy()[0]
        assert table["class"][0] == in_order[int(np.argmax(chances))]
        assert np.isclose(chances.sum(), 1, atol=1e-4)

        section = classifiers.section(folder, "scenes", {}, Numbers(folder), limit=100)
        assert section["answers"]["classes"] == in_order
        assert len(section["answers"]["rows"]) == 2 * len(classes)
        page = environment().get_template("classifiers.html.j2").render(classifiers=[section], numbers=Numbers(folder))
        shown = [html.unescape(cell) for cell in re.findall(r"<td data-class>(.*?)</td>", page, re.S)]
        assert shown == in_order
