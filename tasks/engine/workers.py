"""A worker of long inference: loads once, and leaves parts that are whole or absent.

folder/part-00000/…    what the worker wrote for the first part; there only when the part is finished
folder/part-00000.begun   a byte for each time that it was begun in this run, until it is finished
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from cnn_core.files import whole_folder
from tasks.engine import events

BEGINNINGS = 3  # of a part: a worker may die of what is not its fault, but not so often at the same images


class Worker(Protocol):
    """Loads when it is made, and then works on one part after the other."""

    def __call__(self, part: Any, folder: Path) -> dict[str, int]:
        """Write what comes of ``part`` into the empty ``folder``, and count: ``images`` at least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """How many workers there are, and what each of them has."""

    actors: int
    cpus: int
    gpus: int


Make = Callable[[Room], Worker]


def finished(folder: Path, number: int) -> bool:
    return part_folder(folder, number).is_dir()


def part_folder(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}"


def done(number: int, part: Any) -> dict[str, Any]:
    """What is told of a part that is finished."""
    return {"number": number, "size": len(part)}


class LazyWorker:
    """Makes its worker when it gets the first part. Failures come back as rows, with their kind: an exception would
    come back as a text."""

    def __init__(self, make: Make, where: Room) -> None:
        self.make, self.where = make, where
        self.worker: Worker | None = None

    def one(self, number: int, part: Any, folder: Path) -> dict[str, Any]:
        target = part_folder(folder, number)
        try:
            with _counted(target, part):
                self.worker = self.worker or self.make(self.where)
                with whole_folder(target) as partial:
                    self.worker(part, partial)
        except Exception as error:
            return self._told(error)
        return done(number, part)

    @staticmethod
    def _told(error: Exception) -> dict[str, Any]:
        kind, message = events.classify(error)
        if kind == "bug":
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
