"""What the stages that train have in common: a set of arrays, Ray, the story told meanwhile, what is left behind."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.photo import principal_colours
from cnn_core.classification.augmentation.transforms import Transform, transform
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.classification.training.batches import Feed, Split
from cnn_core.classification.training.initial_weights import load_initial
from cnn_core.classification.training.loop import TrainingResult, TrainingSetup, parameter_count, result_of, train
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import load_arrays, read_dataset
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.model_card.card import classifier_card
from cnn_core.seeds import generator
from tasks.engine import distributed, events
from tasks.engine.cluster import check_shared, ray_cluster
from tasks.engine.runtime import git_commit, load_runtime
from tasks.engine.state import input_sha256, key_of, run_in_progress
from tasks.engine.story import Story

CURVE = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate", "images_per_s")
TOLD = ("train_loss", "val_loss", "val_accuracy", "images_per_s")  # in an epoch's line
SEEN = 3  # draws of an image in the picture of what training sees
COLOUR_IMAGES = 500  # that the principal colours of a set are taken from
Work = Callable[[dict[str, Any], distributed.Rank], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What `fit_set` gives back."""

    outcome: TrainingResult
    dataset: dict[str, Any]  # dataset.json of the AUGMENTED set
    resumed_at: int  # finished epochs of an interrupted run that this one went on from
    size: int  # side of the images that the network takes


@contextlib.contextmanager
def fit_set(
    stage: str, name: str, params: TrainParams, work: Work, *, classes: Sequence[str] | None = None
) -> Iterator[Trained]:
    """Run ``work(config, rank)`` on every training worker, with the AUGMENTED set ``name``; an interrupted run of the
    same parameters, data and code is gone on with. The block writes the outputs; after it, the run's checkpoints go.

    ``classes`` is what is told apart, where that is not the set's own classes.
    """
    runtime = load_runtime()
    folder = Path("data/augmented", name).absolute()
    dataset = read_dataset(folder)
    values = dataclasses.asdict(params)
    start = Path(params.weights).absolute()
    say_start(params, dataset, str(start), classes or dataset["classes"])
    key = key_of(
        stage, params=values, data=dataset["content_sha256"], start=input_sha256(start), torch=torch.__version__
    )
    streamed = runtime.streams(dataset["counts"]["train"] * math.prod(dataset["shape"]))
    runtime = dataclasses.replace(runtime, feed="streamed" if streamed else "mapped")
    config = {
        "params": values,
        "data": str(folder),
        "start": str(start),
        "micro_batch": runtime.micro_batch,
        "compiled": runtime.compile,
        "streamed": streamed,
    }
    with run_in_progress(runtime, f"{stage}-{name}-{key}") as run:
        story = Story(f"{stage} {name}", params.epochs, told=TOLD)
        config["folder"] = run.folder
        with ray_cluster(runtime), story:
            if runtime.ray_address:
                check_shared(run.storage, folder)
            streams = streamed_sets(folder, refit=params.refit == "all") if streamed else {}
            checkpoint = distributed.fit(work, config, runtime, run, on_message=story.tell, datasets=streams)
        size = network_size(params, dataset)
        yield Trained(outcome=result_of(checkpoint), dataset=dataset, resumed_at=story.resumed_at, size=size)


def learn(params: TrainParams, task: TrainingSetup, config: Mapping[str, Any], rank: distributed.Rank) -> None:
    """A worker's training: from the last checkpoint on when there is one, told to the driver."""
    resume = rank.restored()
    if resume:
        epochs = params.epochs if resume["phase"] == "select" else int(resume["best"]["epoch"])
        rank.send(resumed=resume["epoch"], phase=resume["phase"], epochs=epochs, folder=config["folder"])

    def report(record: dict[str, Any], make: Any) -> None:
        rank.report({"epoch": record["epoch"]}, make)
        rank.send(record=record)

    train(params, task, resume=resume, on_step=lambda numbers: rank.send(step=numbers), on_epoch=report)


def load_splits(config: Mapping[str, Any], device: torch.device) -> dict[str, Split]:
    """train, val and test of the AUGMENTED set at ``config["data"]``; where train is streamed it stays on disk."""
    arrays = {split: load_arrays(config["data"], split) for split in ("train", "val", "test")}
    places = {"train": torch.device("cpu") if config["streamed"] else device}
    return {split: Split.from_arrays(a.images, a.labels, places.get(split, device)) for split, a in arrays.items()}


def load_feeds(params: TrainParams, config: Mapping[str, Any], splits: Mapping[str, Split]) -> tuple[Feed, Feed | None]:
    """What is trained on, and what is refitted on: the splits, or streams of their rows."""
    folder, refit = config["data"], params.refit == "all"
    if config["streamed"]:
        from tasks.engine.streaming import Stream

        return Stream.of("train", folder), Stream.of("refit", folder) if refit else None
    return splits["train"], splits["train"].joined(splits["val"], splits["test"]) if refit else None


def streamed_sets(folder: str | Path, *, refit: bool) -> dict[str, Any]:
    from tasks.engine.streaming import datasets  # it imports Ray, for which `ray_cluster` has to make ready first

    return datasets(folder, refit=refit)


def load_transform(params: TrainParams, folder: str | Path, num_classes: int) -> Transform:
    dataset = read_dataset(folder)
    principal = None
    if params.augmentation["kind"] == "photo":
        originals = load_arrays(folder, "train").images[: dataset["originals"]]
        some = originals[:: math.ceil(len(originals) / COLOUR_IMAGES)]
        principal = principal_colours(torch.from_numpy(np.array(some)))
    return transform(
        params.augmentation,
        size=network_size(params, dataset),
        start_size=params.start_size,
        num_classes=num_classes,
        principal=principal,
    )


def build(params: TrainParams, dataset: Mapping[str, Any], num_classes: int) -> nn.Module:
    """A new network for the set, with random weights."""
    size = network_size(params, dataset)
    return registry.build(params.model, num_classes, (dataset["shape"][0], size, size))


def network_size(params: TrainParams, dataset: Mapping[str, Any]) -> int:
    return params.image_size or dataset["shape"][-1]


def start_from(path: str, classes: Sequence[str]) -> Callable[[nn.Module], Any]:
    return lambda network: load_initial(network, path, classes=classes)


def class_weights(labels: np.ndarray, num_classes: int, how: str) -> Tensor | None:
    """``balanced``: each class's weight is inverse to its images' number; an image's mean weight is 1."""
    if how == "none":
        return None
    counts = np.bincount(labels, minlength=num_classes).clip(1)
    return torch.tensor(len(labels) / (num_classes * counts), dtype=torch.float32)


def say_start(params: TrainParams, dataset: Mapping[str, Any], start: str, classes: Sequence[str]) -> None:
    """Tell what the network begins with, before Ray starts: so that weights that do not fit are told at once."""
    loaded = load_initial(build(params, dataset, len(classes)), start, classes=classes)
    if loaded.copied:
        fresh = f"; new: {', '.join(loaded.fresh)}" if loaded.fresh else ""
        events.log(f"starting from {loaded.source}: {loaded.copied} tensors taken over{fresh}")


def save_trained(folder: str | Path, params: TrainParams, trained: Trained, *, classes: Sequence[str]) -> None:
    """The model folder."""
    values, dataset, done = dataclasses.asdict(params), trained.dataset, trained.outcome
    side = dataset["shape"][-1]
    preprocessing = {
        "shape": [dataset["shape"][0], trained.size, trained.size],
        "mean": dataset["mean"],
        "std": dataset["std"],
        "views": "photo" if params.augmentation["kind"] == "photo" else "glyph",
        "side": side,  # of the square that a file is made into
    }
    card = ModelCard(
        model=values["model"],
        classes=list(classes),
        preprocessing=preprocessing,
        metrics=done.best,
        params=values,
        data_sha256=dataset["content_sha256"],
        git_commit=git_commit(),
        refit=params.refit,
        epochs=len(selected(done)),
    )
    readme = partial(classifier_card, dataset=dataset, name=Path(folder).name)
    save_model(folder, card, shipped=done.shipped, evaluated=done.evaluated, readme=readme)


def selected(done: TrainingResult) -> list[dict[str, Any]]:
    """The epochs of the first fit, whose best is kept."""
    return [record for record in done.history if record["phase"] == "select"]


def write_curve(path: str | Path, done: TrainingResult) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, CURVE, extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        rounded = [{k: round(v, 6) if isinstance(v, float) else v for k, v in r.items()} for r in selected(done)]
        writer.writerows(rounded)


def training_metrics(trained: Trained, network: nn.Module) -> dict[str, Any]:
    done = trained.outcome
    records = selected(done)
    seconds = sum(record["seconds"] for record in done.history)
    best = {f"best_{key}" if key == "epoch" else key: value for key, value in done.best.items()}
    return {
        **best,
        "epochs": len(records),
        "refit_epochs": len(done.history) - len(records),
        "train_loss": records[-1]["train_loss"],
        "parameters": parameter_count(network),
        "images_per_s": round(sum(r["images_per_s"] * r["seconds"] for r in done.history) / seconds, 1),
        "training_seconds": round(seconds, 1),
        "resumed_at": trained.resumed_at,
    }


def show_seen(path: str, name: str, params: TrainParams) -> None:
    """A picture of what the network is shown: an image of each class as it is stored, and as training draws it."""
    folder = f"data/augmented/{name}"
    dataset, train = read_dataset(folder), load_arrays(folder, "train")
    ours = load_transform(params, folder, len(dataset["classes"]))
    labels = train.labels[: dataset["originals"]]
    present = [number for number in range(len(dataset["classes"])) if (labels == number).any()]
    chosen = [int(np.flatnonzero(labels == number)[0]) for number in present]
    images = torch.from_numpy(np.array(train.images[chosen]))
    rows = [images.numpy()]
    for draw in range(SEEN):
        draws = generator(torch.device("cpu"), params.seed, "seen", draw)
        pixels, _ = ours.training(images, torch.tensor(present), progress=1.0, generator=draws)
        rows.append((pixels * 255).round().byte().numpy())
    captions = [[word] * len(present) for word in ("stored", *["drawn"] * SEEN)]
    title = f"{name}: images as they are stored, and as training draws them anew each time"
    contact_sheet(path, rows, title=title, captions=captions, headings=[dataset["classes"][n] for n in present])
