"""Tells what training workers say: a bar a fit, a line an epoch, and where an interrupted run goes on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.engine import events

_PHASES = {"select": "", "refit": " of the refit"}  # a training of one phase names none
_POSITION = ("phase", "epoch", "epochs", "done", "total")


class Story:
    """Tells the workers' messages.

    Args:
        epochs: of the training, unless a message says otherwise for its phase.
        told: which numbers of an epoch's record its line has.
        measured: which of those the bar goes on showing until they are measured again.
    """

    def __init__(self, label: str, epochs: int, *, told: Sequence[str], measured: Sequence[str] = ()) -> None:
        self.label, self.told, self.resumed_at = label, told, 0
        self._measured: dict[str, float | None] = dict.fromkeys(measured)
        self._epochs = epochs  # of the phase under way
        self._bar: events.Progress | None = None
        self._phase: str | None = None
        self._skip = 0  # epochs

    def __enter__(self) -> Story:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, message: dict[str, Any]) -> None:
        if "traceback" in message:
            events.log(message["traceback"])
        elif "said" in message:
            events.log(message["said"])
        elif "resumed" in message:
            self._resume(message)
        elif "step" in message:
            self._step(message["step"])
        elif "record" in message:
            self._epoch(message["record"])

    def _resume(self, message: dict[str, Any]) -> None:
        done, phase = message["resumed"], message.get("phase", "select")
        self._epochs = message.get("epochs", self._epochs)
        self.resumed_at = self._skip = done
        finished = message.get("finished", done >= self._epochs)
        what = f"resuming at epoch {done + 1} of {self._epochs}{_PHASES[phase]}"
        said = "nothing is left to train" if finished else what
        events.log(f"{said}: found the finished epochs of an interrupted run in {message['folder']}")

    def _step(self, numbers: dict[str, Any]) -> None:
        self._epochs = numbers.get("epochs", self._epochs)
        if self._bar is None or numbers.get("phase", "select") != self._phase:
            self._open(numbers.get("phase", "select"), numbers["total"])
        assert self._bar is not None
        done = (numbers["epoch"] - 1) * numbers["total"] + numbers["done"]
        measured = {name: value for name, value in self._measured.items() if value is not None}
        shown = {name: value for name, value in numbers.items() if name not in _POSITION}
        speed = {"images_per_s": shown.pop("images_per_s")}  # comes last
        self._bar.update(max(0, done - self._bar.done), epoch=numbers["epoch"], **shown, **measured, **speed)

    def _open(self, phase: str, total: int) -> None:
        self.__exit__()
        self._phase = phase
        label = f"{self.label} (refit)" if phase == "refit" else self.label
        self._bar = events.Progress(label, self._epochs * total, "images")
        if self._skip:
            self._bar.skip(self._skip * total)
            self._skip = 0

    def _epoch(self, record: dict[str, Any]) -> None:
        numbers = {name: record[name] for name in self.told if name in record}
        self._measured |= {name: record[name] for name in self._measured if name in record}
        label = "refit epoch" if record.get("phase") == "refit" else "epoch"
        events.log(events.progress_line(label, record["epoch"], self._epochs, "", None, numbers))


def write_curve(path: str | Path, history: Sequence[dict[str, Any]]) -> None:
    """One row an epoch; what was not measured after it is left empty."""
    columns = list(dict.fromkeys(name for record in history for name in record))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        rounded = [{k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()} for record in history]
        writer.writerows(rounded)
