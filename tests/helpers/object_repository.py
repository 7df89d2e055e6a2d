"""A small real repository with a set of boxes, ingested for real, and a "detector" that a parameter makes good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML

from tests.helpers.champion_repository import make
from tests.helpers.object_deliveries import coco

# train_detector.detector.lr0 is the share of objects that the "detector" finds, known by their pictures' names.
STAGES = """
import hashlib, json, pathlib, sys
import yaml
from cnn_core.annotations.raw_objects import read_raw_objects
from cnn_core.annotations.tables import write_objects

params, stage = yaml.safe_load(open("params.yaml")), sys.argv[1]

def train():
    images, _, _ = read_raw_objects("data/raw/things", "train")
    folder = pathlib.Path("data/models/detector")
    folder.mkdir(parents=True)
    model = {"skill": params["train_detector"]["detector"]["lr0"], "images": len(images)}
    (folder / "model.json").write_text(json.dumps(model))

def evaluate():
    weights = params["evaluate_detector"]["detector"]["weights"]
    model = json.loads(pathlib.Path(weights, "model.json").read_text())
    _, objects, _ = read_raw_objects("data/raw/things", "test")
    draws = [int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8 for name in objects["image_id"]]
    detected = [draw < model["skill"] for draw in draws]
    for folder in ("data/predictions", "data/metrics"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    write_objects("data/predictions/detector-test.parquet", objects.assign(score=0.9)[detected])
    record = json.dumps({"map50": sum(detected) / len(detected), "n": len(detected)})
    pathlib.Path("data/metrics/evaluate_detector-detector.json").write_text(record)

{"train": train, "evaluate": evaluate}[stage]()
"""
DVC_YAML = """
stages:
  ingest:
    foreach: [things]
    do:
      cmd: python -m tasks.ingest ${item}
      deps: ['${ingest.things.source}']
      outs: ['data/raw/${item}']
      metrics: ['data/metrics/ingest-${item}.json']
  train_detector:
    foreach: [detector]
    do:
      cmd: python things.py train
      meta: {role: train, task: detection}
      deps: [data/raw/things, things.py]
      params: [train_detector.detector.lr0]
      outs: [data/models/detector]
  evaluate_detector:
    foreach: [detector]
    do:
      cmd: python things.py evaluate
      meta: {role: evaluate, task: detection}
      deps: [data/raw/things, '${evaluate_detector.detector.weights}']
      outs: [data/predictions/detector-test.parquet]
      metrics: [data/metrics/evaluate_detector-detector.json]
"""
IGNORED = "/.gridflow\n__pycache__/\n/data/inbox\n/data/sources/things\n/data/unpacked\n"


def make_objects(root: Path, run: Callable, repository: Path, *, images: int = 120) -> Path:
    """Make and commit the repository; the source is a COCO set that neither git nor DVC tracks."""
    make(root, run, repository, images=10)
    for name, text in (("things.py", STAGES), ("dvc.yaml", DVC_YAML), (".gitignore", IGNORED)):
        (root / name).write_text(text)
    yaml = YAML()
    params = yaml.load(root / "params.yaml")
    drawn = {"val_fraction": 0.1, "test_fraction": 0.4, "seed": 0, "max_bad_fraction": 0.01, "near_duplicates": False}
    params["ingest"] = {"things": {"source": "data/sources/things", "kind": "objects", **drawn}}
    for section in ("train_detector", "evaluate_detector"):
        params[section]["detector"]["source"] = "data/raw/things"
    params["train_detector"]["detector"]["lr0"] = 0.5
    yaml.dump(params, root / "params.yaml")
    coco(root / "data/sources/things", range(images))
    run("git", "rm", "-rq", "--cached", "stages.py", cwd=root)
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "objects", cwd=root)
    return root
