"""Images per second of training in three ways side by side, and the gain from a second Ray worker.

    python -m bench.train_throughput [--source FOLDER] [--builder alexnet] [--size 128] [--batch 128] [--workers also]

    ceiling   the network's steps on one batch that is already in memory: no data, no augmentation
    gridflow  this project's training loop: stored arrays, augmentation of whole batches on the device
    usual     ImageFolder, DataLoader workers, torchvision v2 transforms image by image, a plain loop
    usual+    the same with the settings of the memory allocator and of the threads that every stage has
              (`keep_memory` and `THREADS` in tasks/engine/environment.py)

All ways have the same network, batch, precision, optimizer and strengths of augmentation. Each measurement is a process
of its own. The ways alternate, and the table gives medians over the rounds. ``gridflow`` keeps an average of the
weights, ``usual`` does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from cnn_core.classification.architectures import registry
from cnn_core.classification.augmentation.transforms import transform
from cnn_core.classification.training.batches import Split
from cnn_core.classification.training.learner import ClassifierLearner, LearnerSetup
from cnn_core.classification.training.params import TrainParams
from cnn_core.data.augmented import arrays_writer
from cnn_core.data.raw import decode_images
from cnn_core.devices import autocast_dtype
from cnn_core.params import from_mapping
from cnn_core.seeds import generator
from tasks.engine.environment import THREADS, keep_memory

WAYS = ("ceiling", "gridflow", "usual", "usual+")
WARM_STEPS = 4  # before the clock starts; the usual way also uses up the batches that its workers have ready
EPOCHS = 4  # of the stage; its memory grows in the first
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="a folder with a folder of images for each class (default: generated scenes)")
    parser.add_argument("--builder", default="alexnet")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", choices=("also", "only"), help="1 against 2 Ray workers of one thread each")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.source = arguments.source or generated(Path(folder))
        if arguments.workers != "only":
            compare(arguments)
        if arguments.workers:
            workers(arguments, Path(folder))


def compare(arguments: argparse.Namespace) -> None:
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in WAYS:
            options = ["--only", way, "--source", arguments.source, "--builder", arguments.builder]
            numbers = [f"--{key}={getattr(arguments, key)}" for key in ("size", "batch", "steps")]
            command = [sys.executable, "-m", "bench.train_throughput", *options, *numbers]
            process = subprocess.run(
                command, cwd=ROOT, env=environment(way), capture_output=True, text=True, check=False
            )
            if process.returncode:
                raise SystemExit(f"{way} failed:\n{process.stderr}")
            result = json.loads(process.stdout.splitlines()[-1])
            speeds[way].append(result["images_per_s"])
            print(f"round {number + 1}: {way:9} {result['images_per_s']:8.0f} images/s", flush=True)
    medians = {way: statistics.median(values) for way, values in speeds.items()}
    print(f"\n{arguments.builder} at {arguments.size} pixels, batch {arguments.batch}, {result['device']}")
    print(f"{'way':9} {'images/s':>9}  {'of the ceiling':>14}  {'gridflow is':>12}")
    for way, speed in medians.items():
        print(f"{way:9} {speed:9.0f}  {speed / medians['ceiling']:13.0%}   {medians['gridflow'] / speed:10.2f} x")


def environment(way: str) -> dict[str, str]:
    """The environment of a stage; for the usual way, the environment of a shell without this project's settings."""
    plain = {key: value for key, value in os.environ.items() if key not in THREADS}
    return plain if way == "usual" else plain | THREADS


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.only != "usual":
        keep_memory()
    params = recipe(arguments)
    steps = {"ceiling": ceiling, "gridflow": gridflow, "usual": usual, "usual+": usual}[arguments.only]
    step_sizes = steps(arguments, params, device)
    for _ in range(WARM_STEPS):
        next(step_sizes)
    _wait(device)
    started = time.perf_counter()
    count = sum(next(step_sizes) for _ in range(arguments.steps))
    _wait(device)
    seconds = time.perf_counter() - started
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    precision = autocast_dtype(params.precision, device) or torch.float32
    return {"images_per_s": count / seconds, "device": f"{name}, {precision}, torch {torch.__version__}"}


def recipe(arguments: argparse.Namespace) -> TrainParams:
    """The default recipe of the scenes, with the network and the sizes of the command line."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["scenes"]
    model = {"architecture": "torchvision_model", "builder": arguments.builder, "dropout": 0.0}
    if arguments.builder == "alexnet":
        model["dropout"] = 0.5
    sizes = {"image_size": arguments.size, "start_size": 0, "batch_size": arguments.batch, "weights": "none"}
    return from_mapping(TrainParams, values | sizes | {"model": model}, "train.scenes")


def ceiling(arguments: argparse.Namespace, params: TrainParams, device: torch.device) -> Iterator[int]:
    learner = new_learner(params, device, 6)
    pixels = torch.rand(arguments.batch, 3, arguments.size, arguments.size, device=device)
    targets = torch.arange(arguments.batch, device=device) % 6
    while True:
        learner.step(pixels, targets, global_batch_size=len(pixels))
        yield len(pixels)


def gridflow(arguments: argparse.Namespace, params: TrainParams, device: torch.device) -> Iterator[int]:
    images, labels, classes = stored(arguments.source, arguments.size)
    split = Split.from_arrays(images, labels, device)
    learner = new_learner(params, device, len(classes))
    augmentation = transform(params.augmentation, size=arguments.size, start_size=0, num_classes=len(classes))
    epoch = 0
    while True:
        batches = split.epoch(draws=0, batch_size=arguments.batch, seed=0, epoch=epoch, rank=0, world=1, device=device)
        for step, (part, targets, global_batch_size) in enumerate(batches):
            draws = generator(device, "bench", epoch, step)
            pixels, soft = augmentation.training(part, targets, progress=1.0, generator=draws)
            learner.step(pixels, soft, global_batch_size=global_batch_size)
            yield global_batch_size
        epoch += 1


def usual(arguments: argparse.Namespace, params: TrainParams, device: torch.device) -> Iterator[int]:
    """As torchvision's reference training does it."""
    from torch import nn
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    chosen = params.augmentation
    steps = [
        v2.RandomResizedCrop(arguments.size, scale=(chosen["crop_scale"], 1.0), antialias=True),
        v2.RandomHorizontalFlip(chosen["flip"]),
        v2.ColorJitter(chosen["brightness"], chosen["contrast"], chosen["saturation"], chosen["hue"]),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * 3, [0.25] * 3),
    ]
    dataset = ImageFolder(arguments.source, transform=v2.Compose(steps))
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=arguments.batch,
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)),
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    network = registry.build(params.model, len(dataset.classes), (3, arguments.size, arguments.size)).to(device)
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=params.learning_rate, fused=True)
    loss_of = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing)
    dtype = autocast_dtype(params.precision, device)
    while True:
        for images, labels in loader:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                loss = loss_of(network(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield len(images)


def new_learner(params: TrainParams, device: torch.device, num_classes: int) -> ClassifierLearner:
    size = params.image_size
    torch.manual_seed(0)
    network = registry.build(params.model, num_classes, (3, size, size))
    plain = transform(params.augmentation, size=size, start_size=0, num_classes=num_classes)
    setup = LearnerSetup(mean=(0.5,) * 3, std=(0.25,) * 3, transform=plain, device=device)
    return ClassifierLearner(network, params, setup, steps=10_000)


def stored(source: str, side: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The images as the stage augment stores them: squares, uint8 (N, 3, side, side), their labels and the classes."""
    folders = sorted(path for path in Path(source).iterdir() if path.is_dir())
    files = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    images = decode_images([path.read_bytes() for path, _ in files], "RGB", size=side)
    return images, np.array([label for _, label in files]), [folder.name for folder in folders]


def generated(folder: Path) -> str:
    from tasks.sample import SceneSampleParams, write_scenes

    print("drawing 900 generated scenes (--source names a folder of your own) ...", flush=True)
    params = SceneSampleParams(
        content="generated_scenes", train_per_class=150, test_per_class=0, unlabelled=0, side=100, seed=0
    )
    write_scenes(params, folder / "scenes")
    return str(folder / "scenes/seg_train/seg_train")


def workers(arguments: argparse.Namespace, folder: Path) -> None:
    """The stage ``train`` itself with 1 and 2 Ray workers of one thread each, alternating."""
    workplace = folder / "stage"
    images, labels, classes = stored(arguments.source, arguments.size)
    writer_of = arrays_writer(
        workplace / "data/augmented/scenes", name="scenes", classes=classes, shape=images.shape[1:], copies=0
    )
    with writer_of as writer:
        for split, count in {"train": len(images), "val": 32, "test": 32}.items():
            writer.add(split, [str(number) for number in range(count)], labels[:count])[:] = images[:count]
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    params = recipe(arguments)
    section = values["train"]["scenes"]
    section |= {"model": params.model, "weights": "none", "image_size": arguments.size, "batch_size": arguments.batch}
    epoch_images = max(len(images), arguments.batch * arguments.steps)  # each image at least once
    section |= {"epochs": EPOCHS, "epoch_images": epoch_images}
    (workplace / "params.yaml").write_text(yaml.safe_dump(values))
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(arguments.rounds):
        for count, rounds in speeds.items():
            rounds.append(stage_speed(workplace, count))
            print(f"round {number + 1}: {count} Ray workers of one thread {rounds[-1]:8.0f} images/s", flush=True)
    one, two = (statistics.median(rounds) for rounds in speeds.values())
    print(f"\n2 workers of one thread each against 1: {two:.0f} / {one:.0f} images/s = {two / one:.2f} x")


def stage_speed(folder: Path, count: int) -> float:
    """Images per second of an epoch, the median without the first epoch."""
    runtime = {
        "GRIDFLOW_NUM_WORKERS": str(count),
        "GRIDFLOW_CPUS_PER_WORKER": "1",
        "GRIDFLOW_STATE": str(folder / "state"),
    }
    command = [sys.executable, "-m", "tasks.train", "scenes"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | runtime
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"the stage train failed:\n{process.stdout}{process.stderr}")
    return statistics.median(pd.read_csv(folder / "data/plots/train-scenes.csv")["images_per_s"][1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
