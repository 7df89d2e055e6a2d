"""A model folder on image files: from the command line, and from Python."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_core.classification.inference.classifier import Classifier
from cnn_core.data.image_files import as_square, read_paths
from cnn_core.predict import Predictor, main
from cnn_core.synthetic.scenes import draw_scene
from tests.helpers.model_folders import SCENES, digit_model, photo_model
from tests.helpers.paths import ROOT


def jpeg(kind: str, side: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(kind, side, np.random.default_rng(1))).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that sees 32 of 48 pixels, and: a file, a folder with a broken one, a .zip, a folder with no image."""
    place = tmp_path_factory.mktemp("place")
    photo_model(place / "model", "mobilenet_v3_small", side=32, stored=48)
    pictures = {kind: jpeg(kind) for kind in SCENES}
    (place / "a.jpg").write_bytes(pictures["sea"])
    (place / "holiday/deep").mkdir(parents=True)
    (place / "holiday/b.jpg").write_bytes(pictures["forest"])
    (place / "holiday/deep/c.jpg").write_bytes(pictures["street"])
    (place / "holiday/broken.jpg").write_bytes(pictures["street"][:200])
    with zipfile.ZipFile(place / "more.zip", "w") as archive:
        archive.writestr("in/d.jpg", pictures["glacier"])
    (place / "none").mkdir()
    (place / "none/notes.txt").write_text("no image")
    (place / "empty").mkdir()
    return place


@pytest.fixture
def call(place, monkeypatch, capsys):
    """``call("a.jpg", "--top", "1")``: the exit code and both outputs of the command on the model."""

    def run(*arguments, model="model"):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["predict", model, *arguments])
        return main(), *capsys.readouterr()

    return run


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own_which_loads_no_pipeline(place):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['predict', 'model', 'a.jpg', 'holiday', 'more.zip', '--csv', 'new/out.csv', '--tta', '2']\n"
        "try:\n    runpy.run_module('cnn_core.predict', run_name='__main__')\n"
        "finally:\n    assert not {'ray', 'prefect', 'dvc', 'tasks', 'flows'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
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
    table = pd.read_csv(place / "new/out.csv")
    assert list(table.columns) == ["file", "class", *SCENES]
    np.testing.assert_allclose(table[SCENES].sum(axis=1), 1, atol=1e-5)
    assert list(table[SCENES].idxmax(axis=1)) == list(table["class"]) == [row.split()[1] for row in rows]


def test_the_probabilities_are_the_classifiers_on_the_middle_squares(place):
    found = Predictor(place / "model", tta=2)([place / "holiday", str(place / "a.jpg")])
    names = ["holiday/b.jpg", "holiday/deep/c.jpg", "a.jpg"]
    assert found.files == [str(place / name) for name in names]
    squares = np.stack([as_square((place / name).read_bytes(), (3, 48, 48)) for name in names])
    np.testing.assert_allclose(found.probabilities, Classifier(place / "model", tta=2)(squares), atol=1e-6)
    assert [entry.reason for entry in found.refused] == ["damaged image"]
    table = found.table()
    assert table["file"].tolist() == found.files
    assert table["class"].tolist() == [SCENES[index] for index in found.probabilities.argmax(1)]
    np.testing.assert_allclose(table[SCENES], found.probabilities, atol=1e-6)


def test_one_path_and_a_set_with_a_class_called_class(place, tmp_path):
    digit_model(tmp_path / "digits")
    predictor = Predictor(tmp_path / "digits")
    assert predictor(place / "a.jpg").files == [str(place / "a.jpg")]  # a colour photograph becomes grey
    predictor.card.classes[:2] = ["class", "file"]
    assert predictor(str(place / "a.jpg")).table().shape == (1, 12)


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
        (["a.jpg", "empty"], "empty has no files"),
        (["none"], "none of the 1 files could be read as an image"),
        (["model/model.json"], "none of the 1 files could be read as an image"),
        (["a.jpg", "--tta", "99"], "tta is 99, but there are 8 views of a photo: choose 1 to 8"),
        (["a.jpg", "--csv", "a.jpg/x.csv"], "File exists"),
    ],
)
def test_what_is_wrong_is_one_sentence(call, arguments, words):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last


def test_a_missing_model_is_told(call):
    code, _, err = call("a.jpg", model="nowhere")
    assert code == 1
    assert err.startswith("error: nowhere/model.json does not exist")
    assert err.count("\n") == 1


def test_a_name_cannot_steer_the_terminal(call, place):
    (place / "odd").mkdir()
    (place / "odd/\x1b[31mé.jpg").write_bytes((place / "a.jpg").read_bytes())
    (place / "odd/\x1b[31m.txt").write_bytes(b"no image")
    code, out, err = call("odd")
    assert code == 0
    assert "\x1b" not in out + err
    assert r"odd/\x1b[31m" in out


def test_neighbouring_files_share_a_block_and_the_order_stays(place, monkeypatch):
    monkeypatch.chdir(place)
    total, blocks = read_paths(["a.jpg", "a.jpg", "more.zip", "holiday", "a.jpg"], (3, 16, 16))
    blocks = list(blocks)
    assert [block.names for block in blocks] == [
        ["a.jpg", "a.jpg"],
        ["more.zip/in/d.jpg"],
        ["holiday/b.jpg", "holiday/deep/c.jpg"],
        ["a.jpg"],
    ]
    assert [entry.id for block in blocks for entry in block.refused] == ["holiday/broken.jpg"]
    assert total == 7
