"""A model folder classifies image files, from the command line and from Python."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.looks import measure_look
from cnn_core.data.image_files import read_paths
from cnn_core.images.decoding import decode_square
from cnn_core.predict import Predictor, main
from cnn_core.synthetic.scenes import draw_scene
from tests.helpers.examples import run_examples
from tests.helpers.handwriting import sheet, sign
from tests.helpers.model_folders import SCENES, digit_model, photo_model
from tests.helpers.paths import ROOT


def jpeg(kind: str, side: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(kind, side, np.random.default_rng(1))).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that sees 32 of 48 pixels, a file, a folder with a broken one, a .zip and a folder without an image."""
    folder = tmp_path_factory.mktemp("folder")
    photo_model(folder / "model", "mobilenet_v3_small", side=32, stored=48)
    pictures = {kind: jpeg(kind) for kind in SCENES}
    (folder / "a.jpg").write_bytes(pictures["sea"])
    (folder / "holiday/deep").mkdir(parents=True)
    (folder / "holiday/b.jpg").write_bytes(pictures["forest"])
    (folder / "holiday/deep/c.jpg").write_bytes(pictures["street"])
    (folder / "holiday/broken.jpg").write_bytes(pictures["street"][:200])
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("in/d.jpg", pictures["glacier"])
    (folder / "none").mkdir()
    (folder / "none/notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """Return a function that runs the command on the model: the exit code, stdout and stderr."""

    def run(*arguments, model="model"):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["predict", model, *arguments])
        return main(), *capsys.readouterr()

    return run


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own_which_loads_no_pipeline(folder):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['predict', 'model', 'a.jpg', 'holiday', 'more.zip', '--csv', 'new/out.csv', '--tta', '2']\n"
        "try:\n    runpy.run_module('cnn_core.predict', run_name='__main__')\n"
        "finally:\n    assert not {'ray', 'prefect', 'dvc', 'tasks', 'flows'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["file", "class", "most", "probable"]
    assert [row.split()[0] for row in rows] == ["a.jpg", "holiday/b.jpg", "holiday/deep/c.jpg", "more.zip/in/d.jpg"]
    assert done.stderr.startswith("refused: holiday/broken.jpg: damaged image (OSError: ")
    assert done.stderr.count("\n") == 1
    table = pd.read_csv(folder / "new/out.csv")
    columns = [f"p({name})" for name in SCENES]
    assert list(table.columns) == ["file", "class", *columns]
    np.testing.assert_allclose(table[columns].sum(axis=1), 1, atol=1e-5)
    predicted = [SCENES[index] for index in table[columns].to_numpy().argmax(1)]
    assert predicted == list(table["class"]) == [row.split()[1] for row in rows]


def test_the_probabilities_are_the_classifiers_on_the_middle_squares(folder):
    classified = Predictor(folder / "model", tta=2)([folder / "holiday", str(folder / "a.jpg")])
    names = ["holiday/b.jpg", "holiday/deep/c.jpg", "a.jpg"]
    assert classified.files == [str(folder / name) for name in names]
    squares = np.stack([decode_square((folder / name).read_bytes(), 48) for name in names])
    np.testing.assert_allclose(classified.probabilities, Classifier(folder / "model", tta=2)(squares), atol=1e-6)
    assert [entry.reason for entry in classified.refused] == ["damaged image"]
    table = classified.table()
    assert table["file"].tolist() == classified.files
    assert table["class"].tolist() == [SCENES[index] for index in classified.probabilities.argmax(1)]
    np.testing.assert_allclose(table.iloc[:, 2:], classified.probabilities, atol=1e-6)


def test_one_path_and_a_set_with_a_class_called_class(folder, tmp_path):
    digit_model(tmp_path / "digits")
    predictor = Predictor(tmp_path / "digits")
    assert predictor(folder / "a.jpg").files == [str(folder / "a.jpg")]  # a colour photograph becomes grey
    predictor.card.classes[:2] = ["class", "file"]
    assert predictor(str(folder / "a.jpg")).table().shape == (1, 12)


def test_the_table_is_aligned_and_shows_the_most_probable_first(call):
    code, out, err = call("holiday/b.jpg", "more.zip", "a.jpg", "--top", "2")
    assert (code, err) == (0, "")
    heading, *rows = out.splitlines()
    start = heading.index("class")
    assert len(rows) == 3
    assert all(row[start - 2 : start] == "  " and row[start] != " " for row in rows)
    for row in rows:
        _, chosen, first, high, _, low = row.split()
        assert chosen == first
        assert float(high) >= float(low) > 0
    assert len(call("a.jpg", "--top", "99")[1].splitlines()[1].split()) == 2 + 2 * 6
    with pytest.raises(SystemExit):
        call("a.jpg", "--top", "0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.jpg"], "nothing.jpg does not exist: name image files, folders or .zip archives"),
        (["a.jpg", "empty"], "empty has no images"),
        (["none"], "none has no images (there are 1 .txt)"),
        (["model/model.json"], "none of the 1 files could be read as an image"),
        (["a.jpg", "--tta", "99"], "tta is 99, but there are 8 views of a photo: choose 1 to 8"),
        (["a.jpg", "--csv", "a.jpg/x.csv"], "File exists"),
    ],
)
def test_an_error_is_one_sentence(call, arguments, words):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last


def test_a_missing_model_is_an_error(call):
    code, _, err = call("a.jpg", model="nowhere")
    assert code == 1
    assert err.startswith("error: nowhere/model.json does not exist")
    assert err.count("\n") == 1


def test_a_name_cannot_steer_the_terminal(call, folder):
    (folder / "odd").mkdir()
    (folder / "odd/\x1b[31mé.jpg").write_bytes((folder / "a.jpg").read_bytes())
    (folder / "odd/\x1b[31m.txt").write_bytes(b"no image")
    code, out, err = call("odd")
    assert code == 0
    assert "\x1b" not in out + err
    assert r"odd/\x1b[31m" in out


def test_neighbouring_files_share_a_block_and_the_order_stays(folder, monkeypatch):
    monkeypatch.chdir(folder)
    files = read_paths(["a.jpg", "a.jpg", "more.zip", "holiday", "a.jpg"], (3, 16, 16))
    total, blocks = files.count, files.blocks
    blocks = list(blocks)
    assert [block.names for block in blocks] == [
        ["a.jpg", "a.jpg"],
        ["more.zip/in/d.jpg"],
        ["holiday/b.jpg", "holiday/deep/c.jpg"],
        ["a.jpg"],
    ]
    assert [entry.id for block in blocks for entry in block.refused] == ["holiday/broken.jpg"]
    assert total == 7


def test_the_examples_of_the_predictor_run(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "data/models/scenes")
    shutil.copytree(folder / "holiday", tmp_path / "holiday")
    for name in ("a.jpg", "more.zip"):
        shutil.copy(folder / name, tmp_path / name)
    run_examples(Predictor, tmp_path)
    assert list(pd.read_csv(tmp_path / "predictions.csv")["file"])[:2] == ["a.jpg", "holiday/b.jpg"]


def test_pictures_of_one_sign_are_brought_into_the_model_s_form_or_named(call, folder):
    file = digit_model(folder / "glyphs") / "model.json"
    card = json.loads(file.read_text())
    look = measure_look(np.stack([sign(28, seed) for seed in range(9)])[:, None])
    file.write_text(json.dumps(card | {"preprocessing": card["preprocessing"] | {"look": dataclasses.asdict(look)}}))
    Image.fromarray(sheet(sign(28, 3), 0)).save(folder / "sheet.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)).save(folder / "noise.png")
    code, _, err = call("sheet.png", "noise.png", model="glyphs")
    assert code == 0
    assert "of 2 pictures were brought into the form of the model's images: light ink on a dark ground" in err
    assert "warning: 1 of 2 pictures do not look like what the model learned from" in err
    assert err.rstrip().endswith("their classes are guesses: noise.png")
