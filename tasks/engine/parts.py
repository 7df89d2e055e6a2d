"""Long inference in parts, which are complete or absent, so that a killed run goes on with what is missing.

One child process does a few images before Ray would have started; if it dies, actors of Ray Data do the rest. Ray
replaces an actor that died and gives it the same part again, without end: `LazyWorker` counts how often a part was
begun. Only descriptions of parts pass through the driver; the workers read the pixels and write the results.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tasks.engine import events
from tasks.engine.cluster import first_line, ray_cluster
from tasks.engine.environment import THREADS
from tasks.engine.resources import gpu_count
from tasks.engine.runtime import Runtime, available_cores
from tasks.engine.workers import LazyWorker, MakeWorker, Resources, done, finished

NumberedParts = Sequence[tuple[int, Any]]

SPARE_CPUS = 0.5  # of an actor's cores that Ray does not count: it needs some to start the next task


def run_parts(
    parts: Sequence[Any], make: MakeWorker, folder: Path, runtime: Runtime, *, label: str, unit: str = "images"
) -> None:
    """Do every part that is not finished, with its results at ``part_folder(folder, its number)``.

    Args:
        parts: small; each has a length (in units) and a text that names it.
        make: builds the worker, in the worker's process.

    Raises:
        StageError: a worker failed (its own kind), several died of one part (user), or Ray lost one (transient).
    """
    folder = folder.absolute()
    for begun in folder.glob("part-*.begun"):  # by a run that was interrupted
        begun.unlink()
    missing = [(number, part) for number, part in enumerate(parts) if not finished(folder, number)]
    total, left = sum(map(len, parts)), sum(len(part) for _, part in missing)
    with events.progress(label, total, unit) as bar:
        if left < total:
            bar.skip(total - left)
            events.log(f"{label}: {total - left:,} of {total:,} {unit} were done before the interruption")
        if not missing:
            return
        start, count = time.monotonic(), 0
        with contextlib.closing(_results(missing, make, folder, runtime, label)) as rows:  # ends processes at once
            for row in rows:
                if "failure" in row:
                    raise events.StageError(row["failure"], row["kind"])
                count += row["size"]
                bar.update(row["size"], **{f"{unit}_per_s": count / (time.monotonic() - start)})


def _results(
    todo: NumberedParts, make: MakeWorker, folder: Path, runtime: Runtime, label: str
) -> Generator[dict[str, Any]]:
    if one_process_will_do(runtime, sum(len(part) for _, part in todo)):
        yield from _in_child_process(todo, make, folder, runtime)
        todo = [(number, part) for number, part in todo if not finished(folder, number)]
        if not todo:
            return
        events.log(f"warning: the process of {label} died; Ray goes on, with processes that are replaced")
    with ray_cluster(runtime):
        import ray

        try:
            yield from _on_ray(todo, make, folder, _ray_resources(runtime))
        except ray.exceptions.RayError as error:
            raise events.StageError(f"{label}: a worker of Ray was lost: {first_line(error)}", "transient") from None


def one_process_will_do(runtime: Runtime, units: int) -> bool:
    """Whether Ray's start would not pay: few images, one worker, no GPU and no cluster."""
    few = units <= runtime.local_images and runtime.num_workers[1] == 1 and not runtime.ray_address
    return few and (runtime.use_gpu is False or (runtime.use_gpu == "auto" and not gpu_count()))


def _in_child_process(
    todo: NumberedParts, make: MakeWorker, folder: Path, runtime: Runtime
) -> Iterator[dict[str, Any]]:
    """Do the parts in one child process; after a crash, the rest is missing."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    resources = Resources(actors=1, cpus=runtime.threads(), gpus=0)
    child = spawn.Process(target=_child, args=(sender, todo, make, resources, folder))  # it may have children itself
    os.environ.update(THREADS | os.environ)
    try:
        child.start()
        sender.close()
        for number, part in todo:
            if (row := _next_row(receiver, child)) is not None:
                yield row
            elif finished(folder, number):
                yield done(number, part)
            else:
                return
    finally:
        if child.pid:
            child.kill()  # it has nothing left to do, and its libraries would take their time to end
            child.join()


def _next_row(receiver: Connection, child: BaseProcess) -> dict[str, Any] | None:
    """The child's answer for its next part, or None when the child has died."""
    try:
        while not receiver.poll(1):
            if not child.is_alive() and not receiver.poll():  # the pipe may be open still: a child of the child has it
                return None
        return receiver.recv()
    except (EOFError, OSError):  # it died before a message, or in the middle of one
        return None


def _child(sender: Connection, todo: NumberedParts, make: MakeWorker, resources: Resources, folder: Path) -> None:
    """Run in the child process. As with Ray's workers, nothing that a library prints is shown."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    silent = os.open(os.devnull, os.O_WRONLY)
    for standard_stream in (1, 2):
        os.dup2(silent, standard_stream)
    worker = LazyWorker(make, resources)
    for number, part in todo:
        sender.send(row := worker.run(number, part, folder))
        if "failure" in row:
            return


def _end_with_parent() -> None:
    """End this process when the stage is gone: killed, it could not do so itself."""
    stage = multiprocessing.parent_process()
    assert stage is not None
    stage.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _ray_resources(runtime: Runtime) -> Resources:
    """One actor for each GPU; without one, as many as ``num_workers`` says. Call it while Ray runs."""
    import ray

    gpus = 0 if runtime.use_gpu is False else int(ray.cluster_resources().get("GPU", 0))
    if runtime.use_gpu is True and not gpus:
        raise ValueError("use_gpu is true but Ray finds no GPU; set it to auto or false in runtime.yaml")
    actors = gpus or runtime.num_workers[1]
    cpus = runtime.cpus_per_worker or max(1, available_cores() // (1 if runtime.ray_address else actors))
    return Resources(actors=actors, cpus=cpus, gpus=1 if gpus else 0)


def _on_ray(todo: NumberedParts, make: MakeWorker, folder: Path, resources: Resources) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray import cloudpickle

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # As bytes: Ray Data would try to make columns of them, and warn of an actor with arguments.
    items = [{"number": number, "work": cloudpickle.dumps((make, resources, folder, part))} for number, part in todo]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        batch_size=None,  # a block is a part
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(resources.actors, len(items)), max_tasks_in_flight_per_actor=2),
        num_cpus=max(SPARE_CPUS, resources.cpus - SPARE_CPUS),
        num_gpus=resources.gpus or None,
    )
    yield from rows.iter_rows()


class _Actor:
    """The shape that Ray Data wants: built once an actor, called with one part."""

    def __init__(self) -> None:
        self.worker: LazyWorker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        rows = [self._run(int(number), work) for number, work in zip(batch["number"], batch["work"], strict=True)]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _run(self, number: int, work: bytes) -> dict[str, Any]:
        make, resources, folder, part = pickle.loads(work)
        self.worker = self.worker or LazyWorker(make, resources)
        return self.worker.run(number, part, folder)
