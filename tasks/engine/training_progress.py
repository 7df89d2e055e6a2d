"""A training's progress on the driver: a bar a fit, a line an epoch, and where an interrupted run continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.engine import events

_PHASES = {"select": "", "refit": " of the refit"}  # a training of one phase names none
_POSITION = ("phase", "epoch", "epochs", "done", "total")


class TrainingProgress:
    """Shows what the training workers send.

    Args:
        label: the bar's label.
        epochs: of the training, unless a message says otherwise for its phase.
        columns: the numbers of an epoch's record that its line shows.
        measured: the columns that the bar keeps showing until they are measured again.
    """

    def __init__(self, label: str, epochs: int, *, columns: Sequence[str], measured: Sequence[str] = ()) -> None:
        self.label, self.columns, self.resumed_at = label, columns, 0
        self._measured: dict[str, float | None] = dict.fromkeys(measured)
        self._epochs = epochs  # of the present phase
        self._bar: events.Progress | None = None
        self._phase: str | None = None
        self._skip = 0  # epochs

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def handle(self, message: dict[str, Any]) -> None:
        """Show one message: a ``traceback``, a ``note`` (a sentence), a ``step``, an epoch's ``record``, or at which
        epoch an interrupted run is ``resumed``."""
        if "traceback" in message:
            events.log(message["traceback"])
        elif "note" in message:
            events.log(message["note"])
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
        resuming = f"resuming at epoch {done + 1} of {self._epochs}{_PHASES[phase]}"
        state = "nothing is left to train" if finished else resuming
        events.log(f"{state}: found the finished epochs of an interrupted run in {message['folder']}")

    def _step(self, numbers: dict[str, Any]) -> None:
        self._epochs = numbers.get("epochs", self._epochs)
        if self._bar is None or numbers.get("phase", "select") != self._phase:
            self._bar = self._open(numbers.get("phase", "select"), numbers["total"])
        done = (numbers["epoch"] - 1) * numbers["total"] + numbers["done"]
        measured = {name: value for name, value in self._measured.items() if value is not None}
        losses = {name: value for name, value in numbers.items() if name not in _POSITION}
        speed = {"images_per_s": losses.pop("images_per_s")}  # comes last
        self._bar.update(max(0, done - self._bar.done), epoch=numbers["epoch"], **losses, **measured, **speed)

    def _open(self, phase: str, total: int) -> events.Progress:
        self.__exit__()
        self._phase = phase
        label = f"{self.label} (refit)" if phase == "refit" else self.label
        bar = events.Progress(label, self._epochs * total, "images")
        if self._skip:
            bar.skip(self._skip * total)
            self._skip = 0
        return bar

    def _epoch(self, record: dict[str, Any]) -> None:
        numbers = {name: record[name] for name in self.columns if name in record}
        self._measured |= {name: record[name] for name in self._measured if name in record}
        label = "refit epoch" if record.get("phase") == "refit" else "epoch"
        events.log(events.progress_line(label, record["epoch"], self._epochs, "", None, numbers))
