"""The adapters around Ultralytics: apart from the user's settings and from the network; weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from cnn_core.detection import yolo
from tests.helpers.detection_sets import rectangles
from tests.helpers.detector_files import new_weights
from tests.helpers.imports import imported
from tests.helpers.paths import ROOT

NETWORK = str(ROOT / "cnn_core/detection/training/networks/small.yaml")


class Foreign:
    """Of a class that a weights file must not bring along."""


@pytest.fixture(scope="session", autouse=True)
def _quiet(tmp_path_factory):
    yolo.quiet(tmp_path_factory.mktemp("ultralytics"))


def test_nothing_imports_ultralytics_before_it_has_been_made_quiet():
    """A module that does so at its top is itself imported inside functions only."""
    at_top = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): set(imported(file, top_level_only=True))
        for layer in ("cnn_core", "tasks", "flows")
        for file in (ROOT / layer).rglob("*.py")
    }
    early = {module for module, names in at_top.items() if any(name.split(".")[0] == "ultralytics" for name in names)}
    assert "cnn_core.detection.training.trainer" in early
    assert {module for module, names in at_top.items() if names & early and module not in early} == set()


def test_weights_say_what_they_are(tmp_path):
    # A quote, and a name that Ultralytics would change.
    file = new_weights(tmp_path / "it's a yolov5s.pt", "yolo11n-seg")
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
        (lambda folder: new_weights(folder / "c.pt", "yolo11n-cls"), "a model for the task 'classify'"),
        (lambda folder: transformer(folder / "yolo11n.pt"), "yolo11n.pt ends in RTDETRDecoder"),
        (lambda folder: new_weights(folder / "yolo11n.pt", "yolov8n-world"), "yolo11n.pt ends in WorldDetect"),
        (lambda folder: changed(folder / "a.pt", whole=False), "holds tensors only (a state dict)"),
        (lambda folder: changed(folder / "a.pt", bare=True), "holds a bare network (Sequential) without its classes"),
        (lambda folder: changed(folder / "a.pt", names={0: "x"}), "has 1 names for the 80 classes"),
    ],
)
def test_what_is_no_weights_is_said_in_one_sentence(tmp_path, make, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        yolo.load_network(make(tmp_path))
    assert words in str(raised.value)
    assert ("SAFE_LOAD" in str(raised.value)) == ("SAFE_LOAD" in words)


def test_weights_that_dvc_knows_are_to_be_pulled(tmp_path):
    (tmp_path / "a.pt.dvc").write_text("")
    with pytest.raises(ValueError, match=r"dvc pull .*a\.pt\.dvc"):
        yolo.weights_file(tmp_path / "a.pt")


def test_a_model_folder_names_its_file(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds neither model\.pt"):
        yolo.weights_file(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"")
    assert yolo.weights_file(tmp_path) == tmp_path / "model.pt"


def written(path, content):
    path.write_bytes(content)
    return path


def changed(path, *, whole=True, bare=False, names=None):
    """A detector's weights as people save them: the tensors, or the network alone, or with other names."""
    from ultralytics import YOLO

    yolo.quiet(path.parent)
    model = YOLO(NETWORK)
    if bare or not whole:
        torch.save(model.model if bare else model.model.state_dict(), path)
    else:
        model.model.names = names
        model.save(path)
    return path


def transformer(path):
    """RT-DETR under the name of a YOLO."""
    from ultralytics import RTDETR

    RTDETR("yolov8n-rtdetr.yaml").save(path)
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
from cnn_core.detection.training.job import DetectorJob, architecture
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.detection.training.train import train
params = from_mapping(TrainDetectorParams, detector_params(epochs=1, source={data!r}), "train_detector")
torch.set_num_threads(2)
data = open_source(params.source, outlines=False)
job = DetectorJob(params=params, data=data, architecture=architecture(params.model, params.weights), start="none",
                  loaders=0)
train(job, folder=Path({folder!r}, "run"), device=torch.device("cpu"), on_step=lambda numbers: None,
      on_epoch=lambda record, make: None)
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
