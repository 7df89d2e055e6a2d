"""What a step of data-parallel training costs: all gradients summed, or the inputs of large linear layers gathered.

    python -m bench.data_parallel [--builder alexnet] [--size 128] [--batch 128] [--rounds 5]

Two ranks of one thread each on this machine, joined by gloo, on images that are there already; four learners take
turns within the same processes:

    summed      all gradients are summed by DistributedDataParallel
    gathered    of layers with many weights the inputs are exchanged (cnn_core/gathered.py): what `Learner` does where
                the ranks are on several machines
    together    what it does on one machine: each rank steps a part of these weights (cnn_core/sharded_step.py)
    alone       nothing is exchanged: what the sums of a rank's own images cost, which no exchange can beat

Medians of the rounds, seconds a step of two.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from bench.train_throughput import our_learner, recipe
from cnn_core.classification.training.learner import Learner
from cnn_core.devices import keep_memory

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
        mp.spawn(work, (arguments, f"file://{folder}/meet"), nprocs=RANKS)


def work(rank: int, arguments: argparse.Namespace, meet: str) -> None:
    torch.set_num_threads(1)
    keep_memory()
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=RANKS)
    params, device = recipe(arguments), torch.device("cpu")
    learners = {
        "summed": our_learner(params, device, 6),
        "gathered": our_learner(params, device, 6, batch_size=arguments.batch),
        "together": our_learner(params, device, 6, batch_size=arguments.batch),
        "alone": our_learner(params, device, 6),
    }
    learners["gathered"].ranks.whole_gradient = True
    learners["alone"].ranks.connected = True
    share = arguments.batch // RANKS
    pixels, targets = torch.rand(share, 3, arguments.size, arguments.size), torch.arange(share) % 6
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for number in range(arguments.rounds + 1):
        for name, learner in learners.items():
            taken = timed(learner, pixels, targets, whole=arguments.batch)
            if number:  # the first is for warming up
                seconds[name].append(taken)
    if rank == 0:
        tell(arguments, {name: statistics.median(taken) for name, taken in seconds.items()})
    dist.destroy_process_group()


def timed(learner: Learner, pixels: torch.Tensor, targets: torch.Tensor, *, whole: int) -> float:
    dist.barrier()
    began = time.perf_counter()
    for _ in range(STEPS):
        learner.step(pixels, targets, whole=whole)
    return (time.perf_counter() - began) / STEPS


def tell(arguments: argparse.Namespace, seconds: dict[str, float]) -> None:
    sizes = f"{arguments.size} pixels, global batch {arguments.batch}"
    print(f"{arguments.builder} at {sizes}, {RANKS} ranks of one thread each")
    for name, taken in seconds.items():
        more = taken / seconds["alone"] - 1
        print(f"{name:9} {taken:7.3f} s a step  {arguments.batch / taken:6.0f} images/s  {more:+5.0%} against alone")


if __name__ == "__main__":
    main()
