"""A small real repository whose model is right on the share of images that a parameter says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

# train.digits.learning_rate is the share of images that the "model" gets right: the real parameters, of which stages
# here use few. An image is hard or easy by its pixels alone, so a better model is right wherever a worse one is.
STAGES = """
import json, pathlib, sys
import numpy as np, pandas as pd, yaml
from cnn_core.data.class_changes import names_now
from cnn_core.images.decoding import pixels_sha256
from cnn_core.data.splits import assign_split

params, stage = yaml.safe_load(open("params.yaml")), sys.argv[1]

def ingest():
    table = pd.read_csv(pathlib.Path(params["ingest"]["digits"]["source"], "train.csv"))
    pixels = table.filter(like="pixel").to_numpy(np.uint8).reshape(-1, 28, 28)
    sha256 = [pixels_sha256(image) for image in pixels]
    split = [assign_split(key, seed=0, val_fraction=0.1, test_fraction=0.4) for key in sha256]
    ids = [f"train/{row:05d}" for row in range(1, len(table) + 1)]
    folder = pathlib.Path("data/raw/digits")
    folder.mkdir(parents=True)
    rows = pd.DataFrame({"id": ids, "label": table["label"], "split": split, "sha256": sha256})
    rows.to_parquet(folder / "part-00000.parquet")
    names = pathlib.Path(params["ingest"]["digits"]["source"], "names.json")
    classes = json.loads(names.read_text()) if names.exists() else list("0123456789")
    manifest = {"schema_version": 1, "classes": classes, "counts": rows["split"].value_counts().to_dict()}
    (folder / "manifest.json").write_text(json.dumps(manifest))

def train():
    folder = pathlib.Path("data/models/digits")
    folder.mkdir(parents=True)
    images = len(pd.read_parquet("data/raw/digits/part-00000.parquet").query("split == 'train'"))
    classes = json.loads(pathlib.Path("data/raw/digits/manifest.json").read_text())["classes"]
    model = {"skill": params["train"]["digits"]["learning_rate"], "images": images, "classes": classes}
    (folder / "model.json").write_text(json.dumps(model))

def evaluate():
    weights = pathlib.Path(params["evaluate"]["digits"]["weights"])
    model = json.loads((weights / "model.json").read_text())
    classes = json.loads(pathlib.Path("data/raw/digits/manifest.json").read_text())["classes"]
    names = names_now(weights, model.get("classes", classes))
    numbers = [*classes, *(name for name in names if name not in classes)]  # as tasks.evaluate numbers them
    rows = pd.read_parquet("data/raw/digits/part-00000.parquet").query("split == 'test'").reset_index()
    easy = rows["sha256"].map(lambda digest: int(digest[-8:], 16) / 16**8) < model["skill"]
    def wrong(label):
        number = names.index(classes[label]) if classes[label] in names else -1
        return numbers.index(names[(number + 1) % len(names)])
    easy &= rows["label"].map(lambda label: classes[label] in names)
    predicted = rows["label"].where(easy, rows["label"].map(wrong))
    for folder in ("data/predictions", "data/metrics"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"id": rows["id"], "label": rows["label"], "predicted": predicted})
    table.to_parquet("data/predictions/digits-test.parquet")
    metrics = {"n": len(rows), "accuracy": float(easy.mean())}
    pathlib.Path("data/metrics/evaluate-digits.json").write_text(json.dumps(metrics))

def predict():
    model = json.loads(pathlib.Path(params["predict"]["digits"]["weights"], "model.json").read_text())
    names = sorted(path.name for path in pathlib.Path(params["predict"]["digits"]["source"]).iterdir())
    folder = pathlib.Path("data/predictions/digits")
    folder.mkdir(parents=True)
    (folder / "predictions.csv").write_text("".join(f"{name},{model['skill']}\\n" for name in names))

{"ingest": ingest, "train": train, "evaluate": evaluate, "predict": predict}[stage]()
"""
DVC_YAML = """
stages:
  ingest:
    foreach: [digits]
    do:
      cmd: python stages.py ingest
      deps: ['${ingest.digits.source}', stages.py]
      outs: [data/raw/digits]
  train:
    foreach: [digits]
    do:
      cmd: python stages.py train
      meta: {role: train, task: classification}
      deps: [data/raw/digits]
      params: [train.digits.learning_rate]
      outs: [data/models/digits]
  evaluate:
    foreach: [digits]
    do:
      cmd: python stages.py evaluate
      meta: {role: evaluate, task: classification}
      deps: [data/raw/digits, '${evaluate.digits.weights}']
      outs: [data/predictions/digits-test.parquet]
      metrics: [data/metrics/evaluate-digits.json]
  predict:
    foreach: [digits]
    do:
      cmd: python stages.py predict
      meta: {role: predict, task: classification}
      deps: ['${predict.digits.source}', '${predict.digits.weights}']
      outs: [data/predictions/digits]
artifacts:
  digits:
    path: data/models/digits
    type: model
"""
# train_detector.detector.lr0 is the share of objects that the "detector" finds,
# train_segmenter.segmenter.learning_rate how well masks fit. One picture a test digit, one object in it.
DETECTOR = """
import json, pathlib, sys
import pandas as pd, yaml
from cnn_core.annotations.tables import objects_table, read_annotations, write_images, write_objects
from cnn_core.annotations.tables import images_table

from cnn_core.data.class_changes import names_now

params, stage = yaml.safe_load(open("params.yaml")), sys.argv[1]

def classes_of(folder):
    return json.loads(pathlib.Path(folder, "manifest.json").read_text())["classes"]

def compose():
    rows = pd.read_parquet("data/raw/digits/part-00000.parquet").query("split == 'test'")
    folder = pathlib.Path("data/composed/numbers")
    folder.mkdir(parents=True)
    images = images_table(pd.DataFrame({"image_id": rows["sha256"], "file": "x.png", "width": 100, "height": 100,
                                        "split": "test"}))
    boxes = {"x1": 10.0, "y1": 10.0, "x2": 40.0, "y2": 50.0}
    classes = classes_of("data/raw/digits")
    objects = pd.DataFrame({"image_id": rows["sha256"], "class_id": rows["label"],
                            "class_name": [classes[label] for label in rows["label"]], **boxes})
    write_images(folder / "images.parquet", images)
    write_objects(folder / "objects.parquet", objects_table(objects))
    record = {"schema_version": 1, "classes": classes}
    (folder / "manifest.json").write_text(json.dumps(record))

def train_detector():
    folder = pathlib.Path("data/models/detector")
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"skill": params["train_detector"]["detector"]["lr0"],
                                                   "classes": classes_of("data/composed/numbers")}))

def evaluate_detector():
    weights = params["evaluate_detector"]["detector"]["weights"]
    model = json.loads(pathlib.Path(weights, "model.json").read_text())
    _, objects, _ = read_annotations("data/composed/numbers", "test")
    detected = objects["image_id"].map(lambda digest: int(digest[-8:], 16) / 16**8) < model["skill"]
    detected &= objects["class_name"].isin(names_now(weights, model["classes"]))
    for folder in ("data/predictions", "data/metrics"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    write_objects("data/predictions/detector-test.parquet", objects_table(objects.assign(score=0.9)[detected]))
    record = json.dumps({"map50": float(detected.mean())})
    pathlib.Path("data/metrics/evaluate_detector-detector.json").write_text(record)

def train_segmenter():
    folder = pathlib.Path("data/models/segmenter")
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"skill": params["train_segmenter"]["segmenter"]["learning_rate"],
                                                   "classes": classes_of("data/composed/numbers")}))

def evaluate_segmenter():
    weights = params["evaluate_segmenter"]["segmenter"]["weights"]
    skill = json.loads(pathlib.Path(weights, "model.json").read_text())["skill"]
    _, objects, _ = read_annotations("data/composed/numbers", "test")
    noise = objects["image_id"].map(lambda digest: int(digest[-8:], 16) / 16**8)
    masks = objects.assign(score=0.9, iou=skill * noise, prompted_by="truth", object=range(len(objects)))
    write_objects("data/predictions/segmenter-test.parquet", objects_table(masks))
    record = json.dumps({"mean_iou": float(masks["iou"].mean())})
    pathlib.Path("data/metrics/evaluate_segmenter-segmenter.json").write_text(record)

{"compose": compose, "train_detector": train_detector, "evaluate_detector": evaluate_detector,
 "train_segmenter": train_segmenter, "evaluate_segmenter": evaluate_segmenter}[stage]()
"""
DETECTOR_YAML = """
  compose:
    foreach: [numbers]
    do:
      cmd: python detector.py compose
      deps: [data/raw/digits, detector.py]
      outs: [data/composed/numbers]
  train_detector:
    foreach: [detector]
    do:
      cmd: python detector.py train_detector
      meta: {role: train, task: detection}
      deps: [data/composed/numbers]
      params: [train_detector.detector.lr0]
      outs: [data/models/detector]
  evaluate_detector:
    foreach: [detector]
    do:
      cmd: python detector.py evaluate_detector
      meta: {role: evaluate, task: detection}
      deps: [data/composed/numbers, '${evaluate_detector.detector.weights}']
      outs: [data/predictions/detector-test.parquet]
      metrics: [data/metrics/evaluate_detector-detector.json]
  train_segmenter:
    foreach: [segmenter]
    do:
      cmd: python detector.py train_segmenter
      meta: {role: train, task: segmentation}
      deps: [data/composed/numbers]
      params: [train_segmenter.segmenter.learning_rate]
      outs: [data/models/segmenter]
  evaluate_segmenter:
    foreach: [segmenter]
    do:
      cmd: python detector.py evaluate_segmenter
      meta: {role: evaluate, task: segmentation}
      deps: [data/composed/numbers, '${evaluate_segmenter.segmenter.weights}']
      outs: [data/predictions/segmenter-test.parquet]
      metrics: [data/metrics/evaluate_segmenter-segmenter.json]
"""
IGNORED = "/.gridflow\n__pycache__/\n/data/inbox\n"


def make(root: Path, run: Callable, repository: Path, *, images: int = 600) -> Path:
    """Make and commit the repository, with a source of images that git and DVC do not track; nothing has run."""
    root.mkdir()
    run("git", "init", "-q", cwd=root)
    run("dvc", "init", "-q", cwd=root)
    shutil.copytree(repository / "tasks", root / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tasks" / "check.py").write_text("")  # the real one imports every stage: seconds
    for name in ("params.yaml", "runtime.yaml"):
        shutil.copy(repository / name, root)
    (root / "stages.py").write_text(STAGES)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".gitignore").write_text(IGNORED + "/data/sources/digits\n")
    write_table(root / "data" / "sources" / "digits" / "train.csv", *digits(images, seed=0))
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "small", cwd=root)
    return root


def add_detector(root: Path, run: Callable) -> None:
    """Add and commit the stages of the detector and the segmenter."""
    (root / "detector.py").write_text(DETECTOR)
    pipeline = root / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("artifacts:\n", DETECTOR_YAML.lstrip("\n") + "artifacts:\n"))
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "detector", cwd=root)


def set_skill(root: Path, skill: float) -> None:
    text = (root / "params.yaml").read_text()
    lines = text.splitlines(keepends=True)
    start = lines.index("train:\n")
    row = next(n for n in range(start, len(lines)) if lines[n].lstrip().startswith("learning_rate:"))
    lines[row] = f"    learning_rate: {skill}\n"
    (root / "params.yaml").write_text("".join(lines))


def digits(count: int, *, seed: int, bright: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Draw random strokes of ten kinds: uint8 (N, 28, 28) and labels (N,)."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    images = np.zeros((count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, shift = 4 + 2 * int(label), int(random.integers(2, 8))
        image[row - 2 : row + 3, shift : shift + 15] = random.integers(bright // 2, bright + 1, (5, 15))
    return images, labels


def write_table(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """Write a train.csv as Kaggle has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ",".join(["label", *(f"pixel{number}" for number in range(784))])
    rows = np.column_stack([labels, images.reshape(len(images), -1)])
    np.savetxt(path, rows, fmt="%d", delimiter=",", header=header, comments="")
    return path
