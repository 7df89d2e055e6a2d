"""What a step of data-parallel training costs on this machine's CPUs.

    python -m bench.data_parallel [--builder alexnet] [--size 128] [--batch 128] [--rounds 5]

Two ranks of one thread each, joined by gloo, step on images that are already in memory. Two learners take turns within
the same processes:

    parallel    the gradients are averaged by DistributedDataParallel
    alone       each rank keeps its own gradients: what no exchange can beat
    threads     before them, one process whose two threads step on the whole batch

The table gives the medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from bench.train_throughput import new_learner, recipe
from cnn_core.classification.training.learner import ClassifierLearner
from tasks.engine.environment import keep_memory

RANKS = 2
STEPS = 2  # of each learner in a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--builder", default="alexnet")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (arguments, f"file://{folder}/threads"), nprocs=1)
        mp.spawn(work, (arguments, f"file://{folder}/ranks"), nprocs=RANKS)


def work(rank: int, arguments: argparse.Namespace, meet: str) -> None:
    keep_memory()
    if meet.endswith("threads"):
        return with_threads(arguments, meet)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=RANKS)
    params, device = recipe(arguments), torch.device("cpu")
    learners = {name: new_learner(params, device, 6) for name in ("parallel", "alone")}
    learners["alone"].replica = learners["alone"].network
    share = arguments.batch // RANKS
    pixels, targets = torch.rand(share, 3, arguments.size, arguments.size), torch.arange(share) % 6
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for number in range(arguments.rounds + 1):
        for name, learner in learners.items():
            duration = seconds_a_step(learner, pixels, targets, global_batch_size=arguments.batch)
            if number:  # the first round warms up
                seconds[name].append(duration)
    if rank == 0:
        report(arguments, {name: statistics.median(durations) for name, durations in seconds.items()})
    dist.destroy_process_group()


def with_threads(arguments: argparse.Namespace, meet: str) -> None:
    torch.set_num_threads(RANKS)
    dist.init_process_group("gloo", init_method=meet, rank=0, world_size=1)
    learner = new_learner(recipe(arguments), torch.device("cpu"), 6)
    pixels, targets = torch.rand(arguments.batch, 3, arguments.size, arguments.size), torch.arange(arguments.batch) % 6
    rounds = [
        seconds_a_step(learner, pixels, targets, global_batch_size=arguments.batch) for _ in range(arguments.rounds + 1)
    ]
    duration = statistics.median(rounds[1:])
    print(f"threads   {duration:7.3f} s a step  {arguments.batch / duration:6.0f} images/s")
    dist.destroy_process_group()


def seconds_a_step(learner: ClassifierLearner, pixels: Tensor, targets: Tensor, *, global_batch_size: int) -> float:
    dist.barrier()
    began = time.perf_counter()
    for _ in range(STEPS):
        learner.step(pixels, targets, global_batch_size=global_batch_size)
    return (time.perf_counter() - began) / STEPS


def report(arguments: argparse.Namespace, seconds: dict[str, float]) -> None:
    sizes = f"{arguments.size} pixels, global batch {arguments.batch}"
    print(f"{arguments.builder} at {sizes}, {RANKS} ranks of one thread each")
    for name, duration in seconds.items():
        excess, speed = duration / seconds["alone"] - 1, arguments.batch / duration
        print(f"{name:9} {duration:7.3f} s a step  {speed:6.0f} images/s  {excess:+5.0%} against alone")


if __name__ == "__main__":
    main()
