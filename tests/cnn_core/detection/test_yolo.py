"""The adapters around Ultralytics: apart from the user's settings and from the network; weights; raw predictions."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from cnn_core.detection import yolo
from tests.helpers.detection_sets import rectangles
from tests.helpers.imports import imported
from tests.helpers.paths import ROOT


class Foreign:
    """Of a class that a weights file must not bring along."""


@pytest.fixture(scope="session", autouse=True)
def _quiet(tmp_path_factory):
    yolo.quiet(tmp_path_factory.mktemp("ultralytics"))


def saved(path, name="yolo11n"):
    from ultralytics import YOLO

    model = YOLO(f"{name}.yaml")
    model.save(str(path))
    return path


def test_nothing_imports_ultralytics_before_it_has_been_made_quiet():
    """A module that does so at its top is itself imported inside functions only."""
    at_top = {
        file: set(imported(file, top_level_only=True))
        for layer in ("cnn_core", "tasks", "flows")
        for file in (ROOT / layer).glob("*.py")
    }
    early = {file for file, names in at_top.items() if any(name.split(".")[0] == "ultralytics" for name in names)}
    assert ROOT / "cnn_core/detection/training/trainer.py" in early
    modules = {f"{file.parent.name}.{file.stem}" for file in early}
    assert {file.name for file, names in at_top.items() if names & modules and file not in early} == set()


@pytest.mark.parametrize("name", ["yolo11n", "yolo11n-seg", "yolov8n", "yolo26n"])
def test_raw_predictions_are_what_the_network_gives_before_non_maximum_suppression(tmp_path, name):
    torch.manual_seed(0)
    loaded = yolo.load_network(saved(tmp_path / "some.pt", name))
    images = torch.rand(2, 3, 64, 96)
    found = yolo.raw(loaded, images)
    grids = yolo.grid_sizes(loaded, 64, 96)
    assert grids == [(8, 12), (4, 6), (2, 3)]
    assert found.shape == (2, sum(rows * columns for rows, columns in grids), 4 + 80)
    boxes, scores = found[..., :4], found[..., 4:]
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    with torch.no_grad():
        output = loaded.network(images)[0]
    output = output[0] if isinstance(output, tuple) else output
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert torch.allclose(centres, output[:, :2].transpose(1, 2), atol=1e-3)
    assert torch.equal(scores, output[:, 4:84].transpose(1, 2))


def test_of_a_network_that_needs_no_suppression_they_are_those_that_it_chooses_from(tmp_path):
    torch.manual_seed(0)
    loaded = yolo.load_network(saved(tmp_path / "some.pt", "yolo26n"))
    loaded.network.end2end = True
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        chosen = loaded.network(images)[0][0]
    boxes, scores = yolo.raw(loaded, images)[0].split([4, 80], 1)
    for *box, score, number in chosen[:5].tolist():
        near = (boxes - torch.tensor(box)).abs().amax(1) < 1e-3
        assert (scores[near, int(number)] - score).abs().min() < 1e-6


def test_weights_say_what_they_are(tmp_path):
    file = saved(tmp_path / "it's a yolov5s.pt", "yolo11n-seg")  # a quote, and a name that Ultralytics would change
    loaded = yolo.load_network(file)
    assert (loaded.task, loaded.stride, loaded.imgsz) == ("segment", 32, 640)
    assert loaded.names[3] == "3"
    assert loaded.sha256 == yolo.file_sha256(file)
    assert not loaded.network.training
    assert next(loaded.network.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "yolo11s.pt", "`gridflow fetch yolo11s.pt` puts"),
        (lambda folder: folder / "none", "stands for no weights"),
        (lambda folder: written(folder / "a.txt", b"x"), "no weights file: its name must end in .pt"),
        (lambda folder: written(folder / "a.pt", b"PK garbage"), "cannot be read as weights"),
        (lambda folder: written(folder / "a.onnx", b"x"), "an exported engine"),
        (lambda folder: folder, "holds neither model.pt and model.json nor an OpenVINO model"),
        (lambda folder: foreign(folder / "a.pt"), "ULTRALYTICS_SAFE_LOAD=false"),
        (lambda folder: saved(folder / "c.pt", "yolo11n-cls"), "a model for the task 'classify'"),
    ],
)
def test_what_is_no_weights_is_said_in_one_sentence(tmp_path, make, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        yolo.load_network(make(tmp_path))
    assert words in str(raised.value)


def test_weights_that_dvc_knows_are_to_be_pulled(tmp_path):
    (tmp_path / "a.pt.dvc").write_text("")
    with pytest.raises(ValueError, match=r"dvc pull .*a\.pt\.dvc"):
        yolo.weights_file(tmp_path / "a.pt")


def test_a_model_folder_names_its_file(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no model\.pt"):
        yolo.weights_file(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"")
    assert yolo.weights_file(tmp_path) == tmp_path / "model.pt"


def written(path, content):
    path.write_bytes(content)
    return path


def foreign(path):
    torch.save({"model": Foreign()}, path)
    return path


ALONE = """
import json, os, socket, sys
from pathlib import Path
asked = []
def refuse(*arguments, **_):
    asked.append(str(arguments[:2]))
    raise OSError("no network")
socket.getaddrinfo = socket.create_connection = refuse
sys.path[:0] = [{root!r}]
from cnn_core.detection import yolo
yolo.quiet({folder!r})
import torch, ultralytics
from tests.helpers.detection_sets import detector_params
from cnn_core.params import from_mapping
from cnn_core.detection.training.data import open_source
from cnn_core.detection.training.job import Job, architecture
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.detection.training.train import train
params = from_mapping(TrainDetectorParams, detector_params(epochs=1, source={data!r}), "train_detector")
torch.set_num_threads(2)
data = open_source(params.source, "unused")
job = Job(data=data, architecture=architecture(params.model, params.weights), start="none",
          folder=Path({folder!r}, "run"), device=torch.device("cpu"), workers=0)
train(params, job, on_step=lambda numbers: None, on_epoch=lambda record, make: None)
trackers = [key for key in ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "sync")
            if ultralytics.settings[key]]
print(json.dumps([asked, trackers, os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads(),
                  [name for name in ("mlflow", "dvclive", "wandb", "tensorboard", "comet_ml") if name in sys.modules]]))
"""


@pytest.mark.slow
def test_a_training_touches_neither_the_users_settings_nor_the_data_nor_the_network(tmp_path):
    data = rectangles(tmp_path / "data")
    places = [tmp_path / name for name in ("home", "here", "own")]
    for place in places:
        place.mkdir()
    home, here, own = places
    before = sorted(path for path in data.rglob("*"))
    code = ALONE.format(root=str(ROOT), folder=str(own), data=str(data))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("YOLO", "OMP", "XDG", "ULTRA"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, env=clean | {"HOME": str(home)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    asked, trackers, threads, kept, imported_trackers = json.loads(done.stdout.splitlines()[-1])
    assert (asked, trackers, threads, kept, imported_trackers) == ([], [], None, 2, [])
    assert sorted(data.rglob("*")) == before
    assert list(here.rglob("*")) == []
    assert [path for path in home.rglob("*") if "ltralytics" in str(path)] == []
    assert list(own.rglob("settings.json"))
