"""Tells what training workers say: a bar a fit, a line an epoch, and where an interrupted run goes on."""

from __future__ import annotations

from typing import Any

from cnn_core.training import TrainParams
from tasks import events


class Story:
    """Tells the workers' messages: a bar a fit, a line an epoch, and where an interrupted run goes on."""

    def __init__(self, label: str, dataset: dict[str, Any], params: TrainParams) -> None:
        self.label, self.params, self.resumed_at = label, params, 0
        counts = dataset["counts"]
        drawn = {"select": counts["train"], "refit": sum(counts.values())}
        self._draws = {phase: params.epoch_images or images for phase, images in drawn.items()}
        self._epochs = params.epochs  # of the phase under way
        self._bar: events.Progress | None = None
        self._phase = ""
        self._skip = 0

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
        done, epochs, phase = message["resumed"], message["epochs"], message["phase"]
        self.resumed_at, self._skip = done, done * self._draws[phase]
        what = {"select": "", "refit": " of the refit"}[phase]
        said = "nothing is left to train" if done >= epochs else f"resuming at epoch {done + 1} of {epochs}{what}"
        events.log(f"{said}: found the finished epochs of an interrupted run in {message['folder']}")
        self._epochs = epochs

    def _step(self, numbers: dict[str, Any]) -> None:
        phase, draws = numbers["phase"], self._draws[numbers["phase"]]
        self._epochs = numbers["epochs"]
        if phase != self._phase:
            self._open(phase)
        assert self._bar is not None
        done = (numbers["epoch"] - 1) * draws + numbers["done"]
        shown = {key: numbers[key] for key in ("loss", "accuracy", "images_per_s")}
        self._bar.update(max(0, done - self._bar.done), epoch=numbers["epoch"], **shown)

    def _open(self, phase: str) -> None:
        self.__exit__()
        self._phase = phase
        label = self.label if phase == "select" else f"{self.label} (refit)"
        self._bar = events.Progress(label, self._epochs * self._draws[phase], "images")
        if self._skip:
            self._bar.skip(self._skip)
            self._skip = 0

    def _epoch(self, record: dict[str, Any]) -> None:
        keys = ("train_loss", "val_loss", "val_accuracy", "images_per_s")
        numbers = {key: record[key] for key in keys if key in record}
        label = {"select": "epoch", "refit": "refit epoch"}[record["phase"]]
        events.log(events.progress_line(label, record["epoch"], self._epochs, "", None, numbers))
