"""The stages that train a classifier: the job on an AUGMENTED set, what its workers load, the model folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.photo import principal_colours
from cnn_core.classification.augmentation.transforms import Transform, transform
from cnn_core.classification.inference.looks import Look, measure_look
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.classification.inference.multilabel import DEFAULT_THRESHOLD
from cnn_core.classification.training.batches import Feed, Split
from cnn_core.classification.training.initial_weights import load_initial
from cnn_core.classification.training.loop import TrainingResult, TrainingSetup, result_of, train
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import load_arrays, read_dataset, rows_of_class
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.files import are_generated
from cnn_core.model_card.card import classifier_card
from cnn_core.seeds import generator
from tasks.common.training import account, train_on_ray, training_key, write_curve
from tasks.engine import events
from tasks.engine.runtime import git_commit, load_runtime
from tasks.engine.training_progress import TrainingProgress
from tasks.engine.training_worker import WorkerContext

if TYPE_CHECKING:
    from ray.data import Dataset

CURVE = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate", "images_per_s")
CURVE_OF_SEVERAL = (*CURVE[:5], "val_map", *CURVE[5:])
COLUMNS = ("train_loss", "val_loss", "val_accuracy", "images_per_s")  # of an epoch's line
COLUMNS_OF_SEVERAL = ("train_loss", "val_loss", "val_map", "images_per_s")
SAMPLE_CLASSES = 40  # in the picture of what training sees, at most
SAMPLE_DRAWS = 3  # of an image in the picture of what training sees
COLOUR_IMAGES = 500  # that the principal colours of a set are taken from


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierJob:
    """All that a training worker needs of the stage."""

    params: TrainParams
    data: Path  # the folder of the AUGMENTED set, absolute
    start: Path  # the weights to begin with, absolute, or a path that is none
    micro_batch: int = 0  # as in runtime.yaml
    compiled: bool = False  # as in runtime.yaml
    streamed: bool = False  # whether Ray Data reads the training images, or they are mapped into memory


LoadSetup = Callable[[ClassifierJob, torch.device], TrainingSetup]


def train_set(
    stage: str,
    name: str,
    params: TrainParams,
    load_setup: LoadSetup,
    *,
    folder: str,
    classes: Sequence[str] = (),
    samples: str | None = None,
    most_validated: int | None = None,
) -> None:
    """Train on an AUGMENTED set by Ray and write the outputs of the stage for the model ``name``.

    Args:
        load_setup: runs in every training worker.
        folder: of the model.
        classes: what the network tells apart, where that is not the set's own classes.
        samples: where a picture of what training sees is drawn.
        most_validated: how many images of the validation part are used; None = all.
    """
    runtime = load_runtime()
    data = Path("data/augmented", params.data)
    dataset = read_dataset(data)
    classes = classes or dataset["classes"]
    streamed = runtime.streams(dataset["counts"]["train"] * math.prod(dataset["shape"]))
    runtime = dataclasses.replace(runtime, feed="streamed" if streamed else "mapped")
    job = ClassifierJob(
        params=params,
        data=data.absolute(),
        start=Path(params.weights).absolute(),
        micro_batch=runtime.micro_batch,
        compiled=runtime.compile,
        streamed=streamed,
    )
    tell_start(job, dataset, classes)
    columns = COLUMNS_OF_SEVERAL if _is_multilabel(dataset, classes) else COLUMNS
    key = training_key(stage, params, data=dataset["content_sha256"], start=job.start)
    with train_on_ray(
        partial(work, load_setup),
        job,
        runtime,
        run_name=f"{stage}-{name}-{key}",
        progress=TrainingProgress(f"{stage} {name}", params.epochs, columns=columns),
        shared=job.data,
        datasets=partial(streamed_sets, job),
    ) as (checkpoint, resumed_at):
        done = result_of(checkpoint)
        generated = are_generated(load_arrays(job.data, "train").ids)
        network = build(params, dataset, len(classes))
        warn_of_batch_norm(done, network, params.batch_size)
        save_trained(
            folder, params, dataset, done, classes=classes, generated=generated, look=look_of(params, job.data)
        )
        if done.thresholds:
            warn_of_thresholds(load_arrays(job.data, "val").labels, classes)
        curve = CURVE_OF_SEVERAL if done.thresholds else CURVE
        write_curve(f"data/plots/{stage}-{name}.csv", selection_epochs(done), curve)
        if samples:
            draw_samples(samples, name, params)
        counted = account_for(dataset["counts"], refit=params.refit == "all", most_validated=most_validated)
        figures = training_metrics(done, network, resumed_at) | counted
        events.write_metrics(f"data/metrics/{stage}-{name}.json", figures)


def account_for(counts: Mapping[str, int], *, refit: bool, most_validated: int | None) -> dict[str, int]:
    """Count the images of an AUGMENTED set, copies included; a refit learns from all of them in the end."""
    if refit:
        return account(sum(counts.values()) - counts["val"], counts["val"], left_out=0, unused={})
    validated = counts["val"] if most_validated is None else min(most_validated, counts["val"])
    unused = {"held out for the test": counts["test"], "not needed to validate": counts["val"] - validated}
    return account(counts["train"], validated, left_out=0, unused=unused)


def work(load_setup: LoadSetup, job: ClassifierJob, context: WorkerContext) -> None:
    """Train in a worker of Ray, from the last checkpoint on where there is one."""
    resume = context.restored()
    if resume:
        epochs = job.params.epochs if resume["phase"] == "select" else int(resume["best"]["epoch"])
        context.report_resumed(resume["epoch"], phase=resume["phase"], epochs=epochs)
    setup = load_setup(job, context.device)
    train(job.params, setup, resume=resume, on_step=context.report_step, on_epoch=context.report_epoch)


def load_splits(job: ClassifierJob, device: torch.device) -> dict[str, Split]:
    arrays = {split: load_arrays(job.data, split) for split in ("train", "val", "test")}
    devices = {"train": torch.device("cpu") if job.streamed else device}
    return {split: Split.from_arrays(a.images, a.labels, devices.get(split, device)) for split, a in arrays.items()}


def load_feeds(job: ClassifierJob, splits: Mapping[str, Split]) -> tuple[Feed, Feed | None]:
    """Return the images of the training and of the refit, if any: the splits, or streams of their rows."""
    refit = job.params.refit == "all"
    if job.streamed:
        from tasks.engine.streaming import Stream

        return Stream.of("train", job.data), Stream.of("refit", job.data) if refit else None
    return splits["train"], splits["train"].joined(splits["val"], splits["test"]) if refit else None


def streamed_sets(job: ClassifierJob) -> dict[str, Dataset]:
    if not job.streamed:
        return {}
    from tasks.engine.streaming import datasets  # it imports Ray, for which `ray_cluster` has to make ready first

    return datasets(job.data, refit=job.params.refit == "all")


def load_transform(params: TrainParams, folder: str | Path, num_classes: int) -> Transform:
    dataset = read_dataset(folder)
    principal = None
    if params.augmentation["kind"] == "photo":
        originals = load_arrays(folder, "train").images[: dataset["originals"]]
        sample = originals[:: math.ceil(len(originals) / COLOUR_IMAGES)]
        principal = principal_colours(torch.from_numpy(np.array(sample)))
    return transform(
        params.augmentation,
        size=network_size(params, dataset),
        start_size=params.start_size,
        num_classes=num_classes,
        principal=principal,
    )


def build(params: TrainParams, dataset: Mapping[str, Any], num_classes: int) -> nn.Module:
    """Return a new network for the set, with random weights."""
    size = network_size(params, dataset)
    return registry.build(params.model, num_classes, (dataset["shape"][0], size, size))


def network_size(params: TrainParams, dataset: Mapping[str, Any]) -> int:
    return params.image_size or dataset["shape"][-1]


def training_setup(
    job: ClassifierJob,
    device: torch.device,
    *,
    splits: Mapping[str, Split],
    val: Split,
    transform: Transform,
    classes: Sequence[str],
    class_weights: Tensor | None = None,
    multilabel: bool = False,
) -> TrainingSetup:
    """Put together what a worker trains with; ``classes`` are what the network tells apart."""
    dataset = read_dataset(job.data)
    train, refit = load_feeds(job, splits)
    return TrainingSetup(
        train=train,
        val=val,
        refit=refit,
        mean=tuple(dataset["mean"]),
        std=tuple(dataset["std"]),
        build=lambda: build(job.params, dataset, len(classes)),
        start=lambda network: load_initial(network, job.start, classes=classes),
        transform=transform,
        class_weights=class_weights,
        multilabel=multilabel,
        device=device,
        micro_batch=job.micro_batch,
        compiled=job.compiled,
    )


def class_weights(labels: np.ndarray, num_classes: int, how: str) -> Tensor | None:
    """Return the weight of each class, or None where they are equal.

    With ``balanced`` a class's weight is inverse to the number of its images; an image's mean weight is 1. Of several
    labels an image (N, K) it is that of the images with the class, against 1 of those without: their ratio.
    """
    if how == "none":
        return None
    if labels.ndim == 2:
        images = labels.sum(0).clip(1)
        return torch.tensor((len(labels) - images).clip(1) / images, dtype=torch.float32)
    counts = np.bincount(labels, minlength=num_classes).clip(1)
    return torch.tensor(len(labels) / (num_classes * counts), dtype=torch.float32)


def warn_of_thresholds(labels: np.ndarray, classes: Sequence[str]) -> None:
    """Name the classes whose threshold could not be chosen by the labels (N, K) of the validation part."""
    if missing := [name for name, images in zip(classes, labels.sum(0), strict=True) if not images]:
        listed = ", ".join(missing[:10]) + (f" and {len(missing) - 10:,} others" if len(missing) > 10 else "")
        events.log(
            f"warning: no validation image has the label {listed}: the threshold there is {DEFAULT_THRESHOLD}, and "
            "mAP on the validation part is the mean over the other classes"
        )


def tell_start(job: ClassifierJob, dataset: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Tell what the network begins with, before Ray starts, so that weights that do not fit fail at once."""
    loaded = load_initial(build(job.params, dataset, len(classes)), job.start, classes=classes)
    if loaded.copied:
        fresh = f"; new: {', '.join(loaded.fresh)}" if loaded.fresh else ""
        unused = f"; not used of the file: {', '.join(loaded.left_over)}" if loaded.left_over else ""
        events.log(f"starting from {loaded.source}: {loaded.copied} tensors taken over{fresh}{unused}")


def save_trained(
    folder: str | Path,
    params: TrainParams,
    dataset: Mapping[str, Any],
    done: TrainingResult,
    *,
    classes: Sequence[str],
    generated: bool = False,
    look: Look | None = None,
) -> None:
    """Write the model folder; ``dataset`` is dataset.json of the AUGMENTED set, whose images may be ``generated``."""
    values, size = dataclasses.asdict(params), network_size(params, dataset)
    multilabel = _is_multilabel(dataset, classes)
    preprocessing = {
        "shape": [dataset["shape"][0], size, size],
        "mean": dataset["mean"],
        "std": dataset["std"],
        "views": "photo" if params.augmentation["kind"] == "photo" else "glyph",
        "side": dataset["shape"][-1],  # of the square that a file is made into
        "look": look and dataclasses.asdict(look),
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
        epochs=len(selection_epochs(done)),
        thresholds=(done.thresholds or [DEFAULT_THRESHOLD] * len(classes)) if multilabel else None,
        micro_batch=micro_batch_of(done),
    )
    readme = partial(
        classifier_card, dataset=dataset, name=Path(folder).name, generated=generated, look=str(look or "")
    )
    save_model(folder, card, shipped=done.shipped, evaluated=done.evaluated, readme=readme)


def _is_multilabel(dataset: Mapping[str, Any], classes: Sequence[str]) -> bool:
    """Whether a network that tells ``classes`` apart learns several labels an image: rotations are of one."""
    return bool(dataset.get("multilabel")) and list(classes) == list(dataset["classes"])


def micro_batch_of(done: TrainingResult) -> int | None:
    """The fewest images of a forward pass, over the epochs whose steps had several; None where none had."""
    return min((record["micro_batch"] for record in done.history if "micro_batch" in record), default=None)


def warn_of_batch_norm(done: TrainingResult, network: nn.Module, batch_size: int) -> None:
    """Say that batch norm saw fewer images than the batch has, as on a machine whose memory is too small for it."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if (count := micro_batch_of(done)) and any(isinstance(module, norms) for module in network.modules()):
        events.log(
            f"warning: the network took {count} images at a time, not batch_size {batch_size}: batch normalisation saw "
            "fewer, so a machine with more memory may give other weights; model.json says so (micro_batch)"
        )


def look_of(params: TrainParams, folder: Path) -> Look | None:
    """Measure how the set's images of one sign look; None of photographs."""
    originals, (channels, *_) = read_dataset(folder)["originals"], read_dataset(folder)["shape"]
    if params.augmentation["kind"] == "photo" or channels != 1:
        return None
    return measure_look(load_arrays(folder, "train").images[:originals])


def selection_epochs(done: TrainingResult) -> list[dict[str, Any]]:
    """Return the epochs of the first fit, whose best is kept."""
    return [record for record in done.history if record["phase"] == "select"]


def training_metrics(done: TrainingResult, network: nn.Module, resumed_at: int) -> dict[str, Any]:
    records = selection_epochs(done)
    seconds = sum(record["seconds"] for record in done.history)
    best = {f"best_{key}" if key == "epoch" else key: value for key, value in done.best.items()}
    return {
        **best,
        "epochs": len(records),
        "refit_epochs": len(done.history) - len(records),
        "train_loss": records[-1]["train_loss"],
        **({"micro_batch": count} if (count := micro_batch_of(done)) else {}),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "images_per_s": round(sum(r["images_per_s"] * r["seconds"] for r in done.history) / seconds, 1),
        "training_seconds": round(seconds, 1),
        "resumed_at": resumed_at,
    }


def draw_samples(path: str, name: str, params: TrainParams) -> None:
    folder = f"data/augmented/{params.data}"
    dataset, train = read_dataset(folder), load_arrays(folder, "train")
    augmentation = load_transform(params, folder, len(dataset["classes"]))
    labels = train.labels[: dataset["originals"]]
    rows_of = {number: np.flatnonzero(rows_of_class(labels, number)) for number in range(len(dataset["classes"]))}
    present = [number for number, rows in rows_of.items() if len(rows)][:SAMPLE_CLASSES]
    chosen = [rows_of[number][0] for number in present]
    images = torch.from_numpy(np.array(train.images[chosen]))
    rows = [images.numpy()]
    for draw in range(SAMPLE_DRAWS):
        draws = generator(torch.device("cpu"), params.seed, "seen", draw)
        shown = torch.from_numpy(np.array(labels[chosen]))
        pixels, _ = augmentation.training(images, shown, progress=1.0, generator=draws)
        rows.append((pixels * 255).round().byte().numpy())
    captions = [[word] * len(present) for word in ("stored", *["drawn"] * SAMPLE_DRAWS)]
    title = f"{name}: images as they are stored, and as training draws them anew each time"
    contact_sheet(path, rows, title=title, captions=captions, headings=[dataset["classes"][n] for n in present])
