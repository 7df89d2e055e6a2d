"""A worker of long inference: it loads once, and leaves parts that are complete or absent.

folder/part-00000/…       what the worker wrote for the first part; there only when the part is finished
folder/part-00000.begun   one byte for each time that the part was begun in this run, until it is finished
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

MAX_ATTEMPTS = 3  # at a part: a worker may die of something else, but not so often at the same images


class Worker(Protocol):
    """Loads when it is built, then does one part after the other."""

    def __call__(self, part: Any, folder: Path, /) -> dict[str, int]:
        """Write the results of ``part`` into the empty ``folder``; count its ``images``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    actors: int
    cpus: int
    gpus: int


MakeWorker = Callable[[Resources], Worker]


def finished(folder: Path, number: int) -> bool:
    return part_folder(folder, number).is_dir()


def part_folder(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}"


def done(number: int, part: Any) -> dict[str, Any]:
    return {"number": number, "size": len(part)}


class LazyWorker:
    """Builds its worker at the first part. Failures are rows: an exception would reach the driver as a text."""

    def __init__(self, make: MakeWorker, resources: Resources) -> None:
        self.make, self.resources = make, resources
        self.worker: Worker | None = None

    def run(self, number: int, part: Any, folder: Path) -> dict[str, Any]:
        """Do one part; return the row of `done`, or one with ``failure`` and ``kind``."""
        target = part_folder(folder, number)
        try:
            with _attempt(target, part):
                self.worker = self.worker or self.make(self.resources)
                with whole_folder(target) as partial:
                    self.worker(part, partial)
        except Exception as error:
            return self._failure(error)
        return done(number, part)

    @staticmethod
    def _failure(error: Exception) -> dict[str, Any]:
        kind, message = events.classify(error)
        if kind == "bug":
            message += f"\n{traceback.format_exc()}"
        return {"failure": message, "kind": kind}


@contextlib.contextmanager
def _attempt(target: Path, part: Any) -> Iterator[None]:
    """Record that a part is begun, for the next worker that gets it should this process die of it.

    Raises:
        StageError: it has been begun too often.
    """
    begun = target.with_name(f"{target.name}.begun")
    begun.parent.mkdir(parents=True, exist_ok=True)
    attempts = begun.stat().st_size if begun.exists() else 0
    if attempts >= MAX_ATTEMPTS:
        raise events.StageError(
            f"the process that works on {part} died {attempts} times: memory ran out, or one of these files crashes "
            "what reads it. Take them out of the source, or halve them to find the one",
            "user",
        )
    with begun.open("ab") as file:
        file.write(b".")
    yield
    begun.unlink()
