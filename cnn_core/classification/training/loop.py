"""The training loop: epochs, selection of the best on the validation part, early stop, refit on everything.

It is plain torch, and runs alone on one device or as every rank of a process group that somebody else has set up. It
reads and writes no files: the caller gets a checkpoint after each epoch and may hand the last one in again to go on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnn_core.classification.training.batches import Feed, Split, steps_per_epoch
from cnn_core.classification.training.learner import ClassifierLearner, LearnerSetup, weights_of
from cnn_core.classification.training.params import TrainParams
from cnn_core.distributed import rank_and_world, sum_over_ranks
from cnn_core.optimization import diverged
from cnn_core.seeds import generator, mixed_seed

REPORT_EVERY_S = 0.5  # progress within an epoch is reported, and the losses are checked, at most this often

Checkpoint = dict[str, Any]  # what torch.load(weights_only=True) takes: tensors, numbers, texts, lists, dicts
OnStep = Callable[[dict[str, Any]], None]
OnEpoch = Callable[[dict[str, Any], Callable[[], Checkpoint]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSetup(LearnerSetup):
    """What is learned and how the images reach the network."""

    train: Feed
    val: Split  # may be empty; the last epoch is taken then
    refit: Feed | None  # every labelled image, when `params.refit` is `all`
    build: Callable[[], nn.Module]  # a new network
    start: Callable[[nn.Module], Any] = lambda _: None  # loads into a new network what it begins with


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished training leaves."""

    shipped: dict[str, Tensor]  # the weights selected on val, or those of the second fit on every labelled image
    evaluated: dict[str, Tensor]  # the weights selected on val
    best: dict[str, float]  # the selected epoch, with its figures on val
    history: list[dict[str, Any]]  # a record an epoch
    # Of the classes, chosen on val; empty where an image has one label, or without a val part.
    thresholds: list[float] = dataclasses.field(default_factory=list)


def train(
    params: TrainParams,
    setup: TrainingSetup,
    *,
    resume: Checkpoint | None = None,
    on_step: OnStep = lambda _: None,
    on_epoch: OnEpoch = lambda _record, _checkpoint: None,
) -> TrainingResult:
    """Train from the start, or from the checkpoint of an epoch on; every rank calls it with the same arguments.

    Args:
        on_step: called now and then within an epoch, and at its end, with ``phase, epoch, epochs`` (of this phase),
            ``done, total`` (images of this epoch), and ``loss, accuracy, images_per_s`` of this rank so far.
        on_epoch: called on every rank after each epoch with its record and a function that makes the checkpoint.

    Raises:
        ValueError: a loss is not finite (the message names epoch, step and what to lower), or there are too few images
            for the ranks.
    """
    training = _Training(params, setup, resume, on_step, on_epoch)
    training.fit("select", setup.train, params.epochs)
    if params.refit == "all":
        assert setup.refit is not None, "refit needs every labelled image"
        training.fit("refit", setup.refit, training.best["epoch"])
    return result_of(training.checkpoint())


def result_of(checkpoint: Checkpoint) -> TrainingResult:
    latest = weights_of(checkpoint["learner"])
    evaluated = checkpoint["best_weights"] or latest
    refitted = checkpoint["phase"] == "refit"
    return TrainingResult(
        shipped=latest if refitted else evaluated,
        evaluated=evaluated,
        best=checkpoint["best"],
        thresholds=checkpoint["thresholds"],
        history=checkpoint["history"],
    )


class _Training:
    def __init__(
        self, params: TrainParams, setup: TrainingSetup, resume: Checkpoint | None, on_step: OnStep, on_epoch: OnEpoch
    ) -> None:
        self.params, self.setup, self.on_step, self.on_epoch = params, setup, on_step, on_epoch
        self._resume = resume
        self.history: list[dict[str, Any]] = resume["history"] if resume else []
        self.best: dict[str, Any] = resume["best"] if resume else {}
        self.thresholds: list[float] = resume["thresholds"] if resume else []
        self.best_weights: dict[str, Tensor] = (resume["best_weights"] or {}) if resume else {}
        self.phase, self.epoch, self.epochs = "select", 0, params.epochs
        self.learner: ClassifierLearner
        self.rank, self.world = rank_and_world()

    def checkpoint(self) -> Checkpoint:
        """What a training goes on from, and what its result is taken from. AlexNet's 228 MB are in it once only."""
        best_is_latest = self.phase == "select" and self.best["epoch"] == self.epoch
        return {
            "phase": self.phase,
            "epoch": self.epoch,
            "history": self.history,
            "best": self.best,
            "thresholds": self.thresholds,
            "best_weights": None if best_is_latest else self.best_weights,
            "learner": self.learner.state_dict(optimizer=self.epoch < self.epochs),
        }

    def fit(self, phase: str, feed: Feed, epochs: int) -> None:
        """Train one network for ``epochs`` epochs or until patience ends, unless the checkpoint has done so."""
        resume = self._resume if self._resume and self._resume["phase"] == phase else None
        if self._resume and self._resume["phase"] == "refit" and phase == "select":
            return
        self.phase, self.epoch, self.epochs = phase, 0, epochs
        self.learner = self._learner(len(feed), epochs)
        if resume:
            self.learner.load_state_dict(resume["learner"])
            self.epoch = resume["epoch"]
            self.best_weights = self.best_weights or self.learner.weights()
        while self.epoch < epochs and not self._out_of_patience():
            started = time.perf_counter()
            record = {"phase": phase, "epoch": self.epoch + 1, **self._epoch(feed)}
            self.epoch += 1
            self.learner.gather_statistics()
            if phase == "select":
                record |= self._select()
            record["seconds"] = time.perf_counter() - started
            self.history.append(record)
            self.on_epoch(record, self.checkpoint)

    def _learner(self, images: int, epochs: int) -> ClassifierLearner:
        params, setup = self.params, self.setup
        torch.manual_seed(mixed_seed(params.seed, "weights"))  # the same weights on every rank and in both fits
        network = setup.build()
        setup.start(network)
        steps = epochs * steps_per_epoch(params.epoch_images or images, params.batch_size)
        return ClassifierLearner(network, params, setup, steps=steps)

    def _epoch(self, feed: Feed) -> dict[str, float]:
        """Train for one epoch and return the training part of its record, over all ranks."""
        params, setup = self.params, self.setup
        torch.manual_seed(mixed_seed(params.seed, "dropout", self.phase, self.epoch, self.rank))
        frozen = params.frozen_groups(self.epoch, self.learner.groups)
        if frozen != self.learner.frozen:
            self.learner.freeze(frozen)
        total = params.epoch_images or len(feed)
        steps = steps_per_epoch(total, params.batch_size)
        self.learner.most_together = 0
        losses = torch.zeros(steps, device=setup.device)  # the mean loss of each step, of this rank
        sums = torch.zeros(2, dtype=torch.float64, device=setup.device)  # loss and right answers
        rate = float(self.learner.optimizer.param_groups[-1]["lr"])
        started = reported = time.perf_counter()
        done = rank_done = 0
        batches = feed.epoch(
            draws=params.epoch_images,
            batch_size=params.batch_size,
            seed=mixed_seed(params.seed, self.phase),
            epoch=self.epoch,
            rank=self.rank,
            world=self.world,
            device=setup.device,
        )
        for step, (images, labels, global_batch_size) in enumerate(batches):
            draws = generator(setup.device, params.seed, "augment", self.phase, self.epoch, step, self.rank)
            progress = (self.epoch + step / steps) / self.epochs
            pixels, targets = setup.transform.training(images, labels, progress=progress, generator=draws)
            loss, right = self.learner.step(pixels, targets, global_batch_size=global_batch_size)
            losses[step] = loss / len(images)
            sums += torch.stack([loss, right])
            done, rank_done = done + global_batch_size, rank_done + len(images)
            now = time.perf_counter()
            if now - reported >= REPORT_EVERY_S or step == steps - 1:
                reported = now
                self._check(losses[: step + 1])
                means = dict(zip(("loss", "accuracy"), (sums / rank_done).tolist(), strict=True))
                position = {"phase": self.phase, "epoch": self.epoch + 1, "epochs": self.epochs}
                self.on_step(position | means | {"done": done, "total": total, "images_per_s": done / (now - started)})
        speed = total / (time.perf_counter() - started)
        loss, accuracy = (sum_over_ranks(sums) / total).tolist()
        record = {"train_loss": loss, "train_accuracy": accuracy, "learning_rate": rate, "images_per_s": speed}
        return record | ({"micro_batch": self.learner.most_together} if self.learner.most_together else {})

    def _check(self, losses: Tensor) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step, params = int(bad[0]), self.params
            where = f"at step {step + 1} of epoch {self.epoch + 1}"
            raise diverged(losses[step].item(), where, learning_rate=params.learning_rate, grad_clip=params.grad_clip)

    def _select(self) -> dict[str, float]:
        """Measure on val, and keep the weights when they are the best so far; without a validation part, always."""
        measured = self.learner.measure(self.setup.val) if len(self.setup.val) else None
        figures = measured.figures if measured else {}
        # Ties go to the later epoch, not to the lower loss: label smoothing makes that rise while errors still fall.
        by_val = self.params.select == "accuracy" and self.best and measured
        if not by_val or figures[self._score] >= self.best[self._score]:
            self.best = {"epoch": self.epoch, **figures}
            self.thresholds = measured.thresholds if measured else []
            self.best_weights = self.learner.weights()
        return figures

    @property
    def _score(self) -> str:
        """The figure by which epochs are compared."""
        return "val_map" if self.setup.multilabel else "val_accuracy"

    def _out_of_patience(self) -> bool:
        patience = self.params.patience if self.phase == "select" and len(self.setup.val) else 0
        return bool(patience and self.best and self.epoch - self._last_improved() >= patience)

    def _last_improved(self) -> int:
        """The first epoch with the best score: a later tie with a lower loss is no progress to wait for."""
        selected = [record for record in self.history if record["phase"] == "select"]
        best = max(r[self._score] for r in selected)
        return next(int(r["epoch"]) for r in selected if r[self._score] == best)
