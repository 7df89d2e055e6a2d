"""Long inference in parts: workers that load once, parts that are whole or absent, runs that can be resumed.

A part that is there is not done again, so a killed run goes on with what is missing, and nothing is done twice. Only
descriptions of parts (names, numbers) go through the driver; pixels are read, and results written, by the workers.

Workers are Ray Data's actors. A few images one process beside this one does sooner than Ray has started; should it die,
Ray goes on. Ray makes an actor that died anew and gives it the same part again, without end: a part at which one worker
after the other dies is noticed by its bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tasks.engine import events
from tasks.engine.cluster import ENVIRONMENT, first_line, ray_cluster
from tasks.engine.resources import gpu_count
from tasks.engine.runtime import Runtime, available_cores
from tasks.engine.workers import LazyWorker, Make, Room, done, finished

_PR_SET_PDEATHSIG = 1  # of Linux' prctl
SPARE_CPUS = 0.5  # of an actor's cores that Ray does not count: it needs some to start the next task


def run_parts(
    parts: Sequence[Any], make: Make, folder: Path, runtime: Runtime, *, label: str, unit: str = "images"
) -> None:
    """Work on every part that is not finished, with its results at ``part_folder(folder, its number)``.

    Args:
        parts: each with a length (in units) and a text that says which they are, small enough to be sent around.
        make: makes the worker, in its process.

    Raises:
        StageError: as the worker failed; workers died of a part (user); or one was lost otherwise (transient).
    """
    folder = folder.absolute()
    for counted in folder.glob("part-*.begun"):  # by a run that was interrupted
        counted.unlink()
    missing = [(number, part) for number, part in enumerate(parts) if not finished(folder, number)]
    total, left = sum(map(len, parts)), sum(len(part) for _, part in missing)
    with events.progress(label, total, unit) as bar:
        if left < total:
            bar.skip(total - left)
            events.log(f"{label}: {total - left:,} of {total:,} {unit} were done before the interruption")
        if not missing:
            return
        began, count = time.monotonic(), 0
        with contextlib.closing(_results(missing, make, folder, runtime, label)) as rows:  # ends processes at once
            for row in rows:
                if "failure" in row:
                    raise events.StageError(row["failure"], row["kind"])
                count += row["size"]
                bar.update(row["size"], **{f"{unit}_per_s": count / (time.monotonic() - began)})


def _results(
    todo: Sequence[tuple[int, Any]], make: Make, folder: Path, runtime: Runtime, label: str
) -> Generator[dict[str, Any]]:
    if one_process_will_do(runtime, sum(len(part) for _, part in todo)):
        yield from _beside(todo, make, folder, runtime)
        todo = [(number, part) for number, part in todo if not finished(folder, number)]
        if not todo:
            return
        events.log(f"warning: the process of {label} died; Ray goes on, with processes that are replaced")
    with ray_cluster(runtime):
        import ray

        try:
            yield from _on_ray(todo, make, folder, _room(runtime))
        except ray.exceptions.RayError as error:
            raise events.StageError(f"{label}: a worker of Ray was lost: {first_line(error)}", "transient") from None


def one_process_will_do(runtime: Runtime, units: int) -> bool:
    """Whether Ray, with a start of seconds, has nothing to give: few images, one worker, no GPU and no cluster."""
    few = units <= runtime.local_images and runtime.num_workers[1] == 1 and not runtime.ray_address
    return few and (runtime.use_gpu is False or (runtime.use_gpu == "auto" and not gpu_count()))


def _beside(todo: Sequence[tuple[int, Any]], make: Make, folder: Path, runtime: Runtime) -> Iterator[dict[str, Any]]:
    """By one process beside this one, which must not die of an image. When that one dies, what it has not done is not
    done."""
    where = Room(actors=1, cpus=runtime.cpus_per_worker or available_cores(), gpus=0)
    # What is loaded here need not be loaded again; but torch's threads do not live through a fork.
    forks = sys.platform == "linux" and "torch" not in sys.modules
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, todo, make, where, folder))  # it may have children
    os.environ.setdefault("GOMP_SPINCOUNT", ENVIRONMENT["GOMP_SPINCOUNT"])  # as Ray's workers
    told = 0
    try:
        process.start()
        theirs.close()
        while told < len(todo):
            while not ours.poll(1):
                if not process.is_alive() and not ours.poll():  # and a child of its own holds the pipe open
                    raise EOFError
            yield ours.recv()
            told += 1
    except (EOFError, OSError):  # at the end of a word, or in the middle of one
        if finished(folder, todo[told][0]):
            yield done(*todo[told])
    finally:
        if process.pid:
            process.kill()  # it has nothing left to do, and its libraries would take their time to end
            process.join()


def _work(to: Connection, todo: Sequence[tuple[int, Any]], make: Make, where: Room, folder: Path) -> None:
    """The process beside. As of Ray's processes, nothing that a library prints is shown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage ends it
    if sys.platform == "linux":  # at once, or it would hold the run's lock, which it has by the fork
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    worker = LazyWorker(make, where)
    for number, part in todo:
        to.send(row := worker.one(number, part, folder))
        if "failure" in row:
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _room(runtime: Runtime) -> Room:
    """One actor for each GPU; without one, as many as ``num_workers`` says. Called while a Ray is there."""
    import ray

    found = 0 if runtime.use_gpu is False else int(ray.cluster_resources().get("GPU", 0))
    if runtime.use_gpu is True and not found:
        raise ValueError("use_gpu is true but Ray finds no GPU; set it to auto or false in runtime.yaml")
    actors = found or runtime.num_workers[1]
    cpus = runtime.cpus_per_worker or max(1, available_cores() // (1 if runtime.ray_address else actors))
    return Room(actors=actors, cpus=cpus, gpus=1 if found else 0)


def _on_ray(todo: Sequence[tuple[int, Any]], make: Make, folder: Path, where: Room) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray import cloudpickle

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # As bytes: Ray Data would try to make columns of them, and warn of an actor with arguments of its own.
    rows = [{"number": number, "work": cloudpickle.dumps((make, where, folder, part))} for number, part in todo]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        batch_size=None,  # a block is a part
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(where.actors, len(rows)), max_tasks_in_flight_per_actor=2),
        num_cpus=max(SPARE_CPUS, where.cpus - SPARE_CPUS),
        num_gpus=where.gpus or None,
    )
    yield from done.iter_rows()


class _Actor:
    """Ray Data's shape: made once an actor, called with a part."""

    def __init__(self) -> None:
        self.worker: LazyWorker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        answers = [self._one(int(number), work) for number, work in zip(batch["number"], batch["work"], strict=True)]
        return {key: [answer[key] for answer in answers] for key in answers[0]}

    def _one(self, number: int, work: bytes) -> dict[str, Any]:
        make, where, folder, part = pickle.loads(work)
        self.worker = self.worker or LazyWorker(make, where)
        return self.worker.one(number, part, folder)
