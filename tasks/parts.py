"""Long inference in parts on Ray Data: actors that load once, parts that are whole or absent, runs that can be resumed.

    folder/part-00000/…    what the worker wrote for the first part; there only when the part is finished
    folder/part-00000.begun   a byte for each time that it was begun in this run, until it is finished

A part that is there is not done again, so a killed run goes on with what is missing, and nothing is done twice. Only
descriptions of parts (names, numbers) go through the driver; pixels are read, and results written, by the actors.
Ray makes an actor that died anew and gives it the same part again, without end: a part at which one actor after the
other dies is noticed by its bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from cnn_core.files import whole_folder
from tasks import events
from tasks.cluster import first_line
from tasks.runtime import Runtime, available_cores

BEGINNINGS = 3  # of a part: an actor may die of what is not its fault, but not so often at the same images
SPARE_CPUS = 0.5  # of an actor's cores that Ray does not count: it needs some to start the next task


class Worker(Protocol):
    """Loads when it is made, and then works on one part after the other."""

    def __call__(self, part: Any, folder: Path) -> dict[str, int]:
        """Write what comes of ``part`` into the empty ``folder``, and count: ``images`` at least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """How many actors there are, and what each of them has."""

    actors: int
    cpus: int
    gpus: int


def room(runtime: Runtime) -> Room:
    """One actor for each GPU; without one, as many as ``num_workers`` says. Called while a Ray is there."""
    import ray

    gpus = 0 if runtime.use_gpu is False else int(ray.cluster_resources().get("GPU", 0))
    if runtime.use_gpu is True and not gpus:
        raise ValueError("use_gpu is true but Ray finds no GPU; set it to auto or false in runtime.yaml")
    actors = gpus or runtime.num_workers[1]
    cpus = runtime.cpus_per_worker or max(1, available_cores() // (1 if runtime.ray_address else actors))
    return Room(actors=actors, cpus=cpus, gpus=1 if gpus else 0)


def finished(folder: Path, number: int) -> bool:
    return part_folder(folder, number).is_dir()


def part_folder(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}"


def run_parts(
    parts: Sequence[Any],
    make: Callable[[], Worker],
    folder: str | Path,
    where: Room,
    *,
    label: str,
    unit: str = "images",
) -> None:
    """Work on every part that is not finished, with its results at ``part_folder(folder, its number)``.

    Args:
        parts: each with a length (in units) and a text that says which they are, small enough to be sent around.
        make: makes the worker, in its actor.

    Raises:
        StageError: as the worker failed; actors died of a part (user); or an actor was lost otherwise (transient).
    """
    import ray

    folder = folder.absolute()
    for counted in folder.glob("part-*.begun"):  # by a run that was interrupted
        counted.unlink()
    missing = [number for number in range(len(parts)) if not finished(folder, number)]
    total = sum(map(len, parts))
    with events.progress(label, total, unit) as bar:
        if done := total - sum(len(parts[number]) for number in missing):
            bar.skip(done)
            events.log(f"{label}: {done:,} of {total:,} {unit} were done before the interruption")
        if not missing:
            return
        began, count = time.monotonic(), 0
        try:
            for row in _results([(number, parts[number]) for number in missing], make, folder, where):
                if "failure" in row:
                    raise events.StageError(row["failure"], row["kind"])
                count += row["size"]
                bar.update(row["size"], **{f"{unit}_per_s": count / (time.monotonic() - began)})
        except ray.exceptions.RayError as error:
            raise events.StageError(f"{label}: a worker of Ray was lost: {first_line(error)}", "transient") from None


def _results(
    todo: Sequence[tuple[int, Any]], make: Callable[[], Worker], folder: Path, where: Room
) -> Iterator[dict[str, Any]]:
    import ray.data
    from ray import cloudpickle

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # As bytes: Ray Data would try to make columns of them, and warn of an actor with arguments of its own.
    rows = [{"number": number, "work": cloudpickle.dumps((make, str(folder), part))} for number, part in todo]
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
    """Ray Data's shape: made once an actor, called with a part; loads when it gets its first.

    Failures come back as rows, with their kind: an exception would come back as a text.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        answers = [self._one(int(number), work) for number, work in zip(batch["number"], batch["work"], strict=True)]
        return {key: [answer[key] for answer in answers] for key in answers[0]}

    def _one(self, number: int, work: bytes) -> dict[str, Any]:
        make, folder, part = pickle.loads(work)
        target = part_folder(Path(folder), number)
        try:
            with _counted(target, part):
                self.worker = self.worker or make()
                with whole_folder(target) as partial:
                    self.worker(part, partial)
        except Exception as error:
            return self._told(error)
        return {"number": number, "size": len(part)}

    @staticmethod
    def _told(error: Exception) -> dict[str, Any]:
        kind, message = events.classify(error)
        if kind == "bug":
            import traceback

            message += f"\n{traceback.format_exc()}"
        return {"failure": message, "kind": kind}


@contextlib.contextmanager
def _counted(target: Path, part: Any) -> Iterator[None]:
    """Notes that a part is begun, for whoever is given it when this process dies of it.

    Raises:
        StageError: it has been begun too often.
    """
    begun = target.with_name(f"{target.name}.begun")
    begun.parent.mkdir(parents=True, exist_ok=True)
    times = begun.stat().st_size if begun.exists() else 0
    if times >= BEGINNINGS:
        raise events.StageError(
            f"the process that works on {part} died {times} times: memory ran out, or one of these files crashes what "
            "reads it. Take them out of the source, or halve them to find the one",
            "user",
        )
    with begun.open("ab") as file:
        file.write(b".")
    yield
    begun.unlink()
