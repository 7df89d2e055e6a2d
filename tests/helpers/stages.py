"""Shared by the tests that run stages as processes; for ``train`` also a place to run it in, and what it leaves."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml

from cnn_core.classification.training.loop import train
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import arrays_writer
from cnn_core.params import load_section
from tests.helpers.paths import ROOT

EPOCHS = 12


def small_set(folder):
    """An AUGMENTED set that is learned in seconds."""
    draws = np.random.default_rng(0)
    with arrays_writer(
        folder / "data/augmented/digits", name="digits", classes="abcd", shape=(1, 28, 28), copies=0
    ) as writer:
        for split, count in {"train": 600, "val": 61, "test": 50}.items():
            labels = draws.integers(0, 4, count)
            images = draws.integers(0, 120, (count, 1, 28, 28), dtype=np.uint8)
            for row, label in enumerate(labels):
                images[row, 0, 7 * label : 7 * label + 7] += 100
            writer.add(split, [f"{split}/{row}" for row in range(count)], labels)[:] = images


def write_params(folder, **changes):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    small = {
        "epochs": EPOCHS,
        "epoch_images": 0,
        "batch_size": 20,
        "ema_decay": 0.5,
        "precision": "float32",
        "refit": "none",
    }
    small["weights"] = "none"
    # Wide enough that an epoch outlasts the moment between its line on the terminal and a test's kill.
    model = {**content["train"]["digits"]["model"], "width": 16, "depth": 2}
    content["train"]["digits"] |= small | {"model": model} | changes
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def start(folder, tree=ROOT, stage="train digits", **environment):
    """The stage as a process in ``folder``, of the code in ``tree``, in a group of its own; its output can be read."""
    more = {"PYTHONPATH": str(tree), "GRIDFLOW_STATE": str(folder / ".gridflow/state"), "GRIDFLOW_CPUS_PER_WORKER": "1"}
    (folder / "run").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-u", "-m", *f"tasks.{stage}".split()],
        cwd=folder,
        env=os.environ | more | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, code=0):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def wait_for(process, text):
    """The output up to the line with ``text``."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def kill(process):
    """The process and all its descendants at once, as when the machine goes down."""
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def worker_processes(process):
    """Ray's training workers of a stage."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


def plain(folder):
    """The curve of the same training without Ray and without interruption."""
    from tasks.common.classifier_training import ClassifierJob
    from tasks.train import load_setup

    params = load_section(TrainParams, "train.digits", folder / "params.yaml")
    job = ClassifierJob(params=params, data=folder / "data/augmented/digits", start=Path("none"))
    done = train(params, load_setup(job, torch.device("cpu")))
    keys = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate")
    selected = [record for record in done.history if record["phase"] == "select"]
    return [{key: round(record[key], 6) for key in keys} for record in selected]


def curve(folder):
    with (folder / "data/plots/train-digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if key != "images_per_s"} for row in rows]
