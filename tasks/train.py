"""Train a classifier on Ray Train: data/augmented/<set> -> data/models/<set>."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import torch

from cnn_core import models
from cnn_core.arrays import load_arrays, read_dataset
from cnn_core.batches import Split
from cnn_core.checkpoints import ModelCard, save_model
from cnn_core.params import from_mapping, load_section
from cnn_core.training import Outcome, Task, TrainParams, augmenter, outcome, parameter_count, train
from tasks import distributed, events
from tasks.cluster import ray_cluster
from tasks.runtime import load_runtime
from tasks.state import key_of, run_in_progress

PARAMS = TrainParams

CURVE = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate", "images_per_s")


def main(name: str) -> None:
    params = load_section(PARAMS, f"train.{name}")
    runtime = load_runtime()
    folder = Path("data/augmented", name).absolute()
    dataset = read_dataset(folder)
    values = dataclasses.asdict(params)
    key = key_of(params=values, data=dataset["content_sha256"], torch=torch.__version__)
    config = {"params": values, "data": str(folder), "micro_batch": runtime.micro_batch}
    with run_in_progress(runtime, f"train-{name}-{key}") as run:
        story = Story(name, dataset, params)
        config["folder"] = run.folder
        with ray_cluster(runtime), story:
            checkpoint = distributed.fit(work, config, runtime, run, on_message=story.tell)
        done = outcome(checkpoint)
        write_outputs(name, params, dataset, done, resumed_at=story.resumed_at)


def work(config: dict[str, Any], rank: distributed.Rank) -> None:
    """What every training worker does; ``config`` is what `main` gave."""
    params = from_mapping(TrainParams, config["params"], "train")
    task = load_task(params, config["data"], rank.device, config["micro_batch"])
    resume = rank.restored()
    if resume:
        epochs = params.epochs if resume["phase"] == "select" else int(resume["best"]["epoch"])
        rank.send(resumed=resume["epoch"], phase=resume["phase"], epochs=epochs, folder=config["folder"])

    def report(record: dict[str, Any], make: Any) -> None:
        rank.report({"epoch": record["epoch"]}, make)
        rank.send(record=record)

    train(params, task, resume=resume, on_step=lambda numbers: rank.send(step=numbers), on_epoch=report)


def load_task(params: TrainParams, folder: str | Path, device: torch.device, micro_batch: int) -> Task:
    """The AUGMENTED set at ``folder``, on the device."""
    dataset = read_dataset(folder)
    shape = tuple(dataset["shape"])
    arrays = {split: load_arrays(folder, split) for split in ("train", "val", "test")}
    splits = {split: Split.from_arrays(a.images, a.labels, device) for split, a in arrays.items()}
    everything = splits["train"].joined(splits["val"], splits["test"]) if params.refit == "all" else None
    return Task(
        train=splits["train"],
        val=splits["val"],
        refit=everything,
        mean=tuple(dataset["mean"]),
        std=tuple(dataset["std"]),
        build=lambda: models.build(params.model, len(dataset["classes"]), shape),
        augment=augmenter(params.augmentation),
        device=device,
        micro_batch=micro_batch,
    )


class Story:
    """Tells the workers' messages: a bar a fit, a line an epoch, and where an interrupted run goes on."""

    def __init__(self, name: str, dataset: dict[str, Any], params: TrainParams) -> None:
        self.name, self.params, self.resumed_at = name, params, 0
        counts = dataset["counts"]
        drawn = {"select": counts["train"], "refit": sum(counts.values())}
        self._draws = {phase: params.epoch_images or images for phase, images in drawn.items()}
        self._epochs = params.epochs  # of the phase under way
        self._bar: events.Progress | None = None
        self._phase = ""
        self._skip = 0

    def __enter__(self) -> Story:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, message: dict[str, Any]) -> None:
        if "traceback" in message:
            events.log(message["traceback"])
        elif "resumed" in message:
            self._resume(message)
        elif "step" in message:
            self._step(message["step"])
        elif "record" in message:
            self._epoch(message["record"])

    def _resume(self, message: dict[str, Any]) -> None:
        done, epochs, phase = message["resumed"], message["epochs"], message["phase"]
        self.resumed_at, self._skip = done, done * self._draws[phase]
        what = {"select": "", "refit": " of the refit"}[phase]
        said = "nothing is left to train" if done >= epochs else f"resuming at epoch {done + 1} of {epochs}{what}"
        events.log(f"{said}: found the finished epochs of an interrupted run in {message['folder']}")
        self._epochs = epochs

    def _step(self, numbers: dict[str, Any]) -> None:
        phase, draws = numbers["phase"], self._draws[numbers["phase"]]
        self._epochs = numbers["epochs"]
        if phase != self._phase:
            self._open(phase)
        assert self._bar is not None
        done = (numbers["epoch"] - 1) * draws + numbers["done"]
        shown = {key: numbers[key] for key in ("loss", "accuracy", "images_per_s")}
        self._bar.update(max(0, done - self._bar.done), epoch=numbers["epoch"], **shown)

    def _open(self, phase: str) -> None:
        self.__exit__()
        self._phase = phase
        label = {"select": f"train {self.name}", "refit": f"refit {self.name}"}[phase]
        self._bar = events.Progress(label, self._epochs * self._draws[phase], "images")
        if self._skip:
            self._bar.skip(self._skip)
            self._skip = 0

    def _epoch(self, record: dict[str, Any]) -> None:
        keys = ("train_loss", "val_loss", "val_accuracy", "images_per_s")
        numbers = {key: record[key] for key in keys if key in record}
        label = {"select": "epoch", "refit": "refit epoch"}[record["phase"]]
        events.log(events.progress_line(label, record["epoch"], self._epochs, "", None, numbers))


def write_outputs(name: str, params: TrainParams, dataset: dict[str, Any], done: Outcome, *, resumed_at: int) -> None:
    """The model folder, the learning curve and the metrics."""
    selected = [record for record in done.history if record["phase"] == "select"]
    values = dataclasses.asdict(params)
    card = ModelCard(
        model=values["model"],
        classes=dataset["classes"],
        preprocessing={key: dataset[key] for key in ("shape", "mean", "std")},
        metrics=done.best,
        params=values,
        data_sha256=dataset["content_sha256"],
        git_commit=git_commit(),
        refit=params.refit,
        epochs=len(selected),
    )
    save_model(Path("data/models", name), card, shipped=done.shipped, evaluated=done.evaluated)
    curve = Path(f"data/plots/train-{name}.csv")
    curve.parent.mkdir(parents=True, exist_ok=True)
    with curve.open("w", newline="") as file:
        writer = csv.DictWriter(file, CURVE, extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in r.items()} for r in selected)
    best = {f"best_{key}" if key == "epoch" else key: value for key, value in done.best.items()}
    seconds = sum(record["seconds"] for record in done.history)
    metrics = {
        **best,
        "epochs": len(selected),
        "refit_epochs": len(done.history) - len(selected),
        "train_loss": selected[-1]["train_loss"],
        "parameters": parameter_count(models.build(params.model, len(dataset["classes"]), card.shape)),
        "images_per_s": round(sum(r["images_per_s"] * r["seconds"] for r in done.history) / seconds, 1),
        "training_seconds": round(seconds, 1),
        "resumed_at": resumed_at,
    }
    events.write_metrics(f"data/metrics/train-{name}.json", metrics)


def git_commit() -> str:
    """The commit that the code is of, or an empty text outside git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=events.ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    events.run_stage(main)
