"""The training loop: epochs, selection of the best on the validation part, early stop, refit on everything.

Plain torch: it runs alone on one device, or as every rank of a process group that somebody else has set up. It reads
and writes no files: the caller gets a checkpoint after each epoch and may hand the last one in again to go on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnn_core.classification.augmentation.transforms import Transform
from cnn_core.classification.training.batches import Feed, Split, steps_per_epoch
from cnn_core.classification.training.learner import ClassifierLearner, non_finite, total_steps, weights_of
from cnn_core.classification.training.params import TrainParams
from cnn_core.devices import autocast_dtype
from cnn_core.distributed import rank_and_world, sum_over_ranks
from cnn_core.seeds import generator, mixed_seed

STEP_EVERY_S = 0.5  # progress within an epoch, and the look at the losses, at most this often

Checkpoint = dict[str, Any]  # what torch.load(weights_only=True) takes: tensors, numbers, texts, lists, dicts


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What is learned: images, how they are distorted and normalised, by which network, from where.

    ``refit`` is every labelled image (needed when ``params.refit`` is ``all``); ``val`` may be empty, then the last
    epoch is taken. ``start`` loads what the new network begins with. ``class_weights`` is (K,) or None.
    """

    train: Feed
    val: Split
    refit: Feed | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    build: Callable[[], nn.Module]
    transform: Transform
    device: torch.device
    start: Callable[[nn.Module], Any] = lambda _: None
    class_weights: Tensor | None = None
    micro_batch: int = 0
    compiled: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a finished training leaves. ``evaluated`` are the weights selected on val; ``shipped`` the same, or those
    of the second fit on every labelled image. ``history`` has one record an epoch."""

    shipped: dict[str, Tensor]
    evaluated: dict[str, Tensor]
    best: dict[str, float]
    history: list[dict[str, Any]]


def train(
    params: TrainParams,
    task: TrainingSetup,
    *,
    resume: Checkpoint | None = None,
    on_step: Callable[[dict[str, Any]], None] = lambda _: None,
    on_epoch: Callable[[dict[str, Any], Callable[[], Checkpoint]], None] = lambda _record, _checkpoint: None,
) -> TrainingResult:
    """Train from the start, or from the checkpoint of an epoch on; every rank calls it with the same arguments.

    Args:
        on_step: called now and then within an epoch, and at its end, with ``phase, epoch, epochs`` (of this phase),
            ``done, total`` (images of this epoch), and ``loss, accuracy, images_per_s`` of this rank so far.
        on_epoch: called on every rank after each epoch with its record and a function that makes the checkpoint.

    Raises:
        ValueError: a loss that is not finite (epoch, step and what to lower), or too few images for the ranks.
    """
    run = _Run(params, task, resume, on_step, on_epoch)
    run.fit("select", task.train, params.epochs)
    if params.refit == "all":
        assert task.refit is not None, "refit needs every labelled image"
        run.fit("refit", task.refit, run.best["epoch"])
    return outcome(run.checkpoint())


def outcome(checkpoint: Checkpoint) -> TrainingResult:
    """What the checkpoint of a finished training holds."""
    present = weights_of(checkpoint["learner"])
    evaluated = checkpoint["best_weights"] or present
    refitted = checkpoint["phase"] == "refit"
    return TrainingResult(
        shipped=present if refitted else evaluated,
        evaluated=evaluated,
        best=checkpoint["best"],
        history=checkpoint["history"],
    )


class _Run:
    """The state of one training: what a checkpoint holds."""

    def __init__(
        self, params: TrainParams, task: TrainingSetup, resume: Checkpoint | None, on_step: Callable, on_epoch: Callable
    ) -> None:
        self.params, self.task, self.on_step, self.on_epoch = params, task, on_step, on_epoch
        self._resume = resume
        self.history: list[dict[str, Any]] = resume["history"] if resume else []
        self.best: dict[str, Any] = resume["best"] if resume else {}
        self.best_weights: dict[str, Tensor] = (resume["best_weights"] or {}) if resume else {}
        self.phase, self.epoch, self.epochs = "select", 0, params.epochs
        self.learner: ClassifierLearner
        self.rank, self.world = rank_and_world()

    def checkpoint(self) -> Checkpoint:
        """All that is needed to go on, or to take the outcome from; nothing twice, as AlexNet's weights are 228 MB."""
        held = {"phase": self.phase, "epoch": self.epoch, "history": self.history, "best": self.best}
        best_now = self.phase == "select" and self.best["epoch"] == self.epoch
        held["best_weights"] = None if best_now else self.best_weights
        return {**held, "learner": self.learner.state_dict(optimizer=self.epoch < self.epochs)}

    def fit(self, phase: str, feed: Feed, epochs: int) -> None:
        """Train one network for ``epochs`` (or until patience ends), unless the checkpoint says that it is done."""
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
        params, task = self.params, self.task
        torch.manual_seed(mixed_seed(params.seed, "weights"))  # the same weights on every rank and in both fits
        network = task.build()
        task.start(network)
        return ClassifierLearner(
            network,
            params,
            steps=total_steps(epochs, params.epoch_images or images, params.batch_size),
            mean=task.mean,
            std=task.std,
            view=task.transform.view,
            class_weights=task.class_weights,
            device=task.device,
            dtype=autocast_dtype(params.precision, task.device),
            micro_batch=task.micro_batch,
            compiled=task.compiled,
        )

    def _epoch(self, feed: Feed) -> dict[str, float]:
        """One pass; the record's training part, over all ranks."""
        params, task, number = self.params, self.task, self.epoch + 1
        torch.manual_seed(mixed_seed(params.seed, "dropout", self.phase, self.epoch, self.rank))
        frozen = params.frozen_groups(self.epoch, self.learner.groups)
        if frozen != self.learner.frozen:
            self.learner.freeze(frozen)
        total = params.epoch_images or len(feed)
        steps = steps_per_epoch(total, params.batch_size)
        losses = torch.zeros(steps, device=task.device)  # mean of each step, of this rank
        sums = torch.zeros(2, dtype=torch.float64, device=task.device)
        rate = float(self.learner.optimizer.param_groups[-1]["lr"])
        started = shown = time.perf_counter()
        done = seen = 0
        batches = feed.epoch(
            draws=params.epoch_images,
            batch_size=params.batch_size,
            seed=mixed_seed(params.seed, self.phase),
            epoch=self.epoch,
            rank=self.rank,
            world=self.world,
            device=task.device,
        )
        for step, (images, labels, global_batch_size) in enumerate(batches):
            draws = generator(task.device, params.seed, "augment", self.phase, self.epoch, step, self.rank)
            progress = (self.epoch + step / steps) / self.epochs
            pixels, targets = task.transform.training(images, labels, progress=progress, generator=draws)
            loss, right = self.learner.step(pixels, targets, global_batch_size=global_batch_size)
            losses[step] = loss / len(images)
            sums += torch.stack([loss, right])
            done, seen = done + global_batch_size, seen + len(images)
            now = time.perf_counter()
            if now - shown >= STEP_EVERY_S or step == steps - 1:
                shown = now
                self._check(losses[: step + 1], number)
                mean_loss, accuracy = (sums / seen).tolist()
                numbers = {"loss": mean_loss, "accuracy": accuracy, "images_per_s": done / (now - started)}
                position = {"phase": self.phase, "epoch": number, "epochs": self.epochs, "done": done, "total": total}
                self.on_step(position | numbers)
        speed = total / (time.perf_counter() - started)
        loss, accuracy = (sum_over_ranks(sums) / total).tolist()
        return {"train_loss": loss, "train_accuracy": accuracy, "learning_rate": rate, "images_per_s": speed}

    def _check(self, losses: Tensor, epoch: int) -> None:
        step = non_finite(losses)
        if step is not None:
            raise ValueError(
                f"the loss is {losses[step].item()} at step {step + 1} of epoch {epoch}: training has diverged; "
                f"lower learning_rate (now {self.params.learning_rate:g}) or set a smaller grad_clip "
                f"(now {self.params.grad_clip:g})"
            )

    def _select(self) -> dict[str, float]:
        """Measure on val; keep the weights when they are the best so far (without a validation part: the last)."""
        measured = {}
        if len(self.task.val):
            loss, accuracy = self.learner.measure(self.task.val)
            measured = {"val_loss": loss, "val_accuracy": accuracy}
        # Ties go to the later epoch, not to the lower loss: label smoothing makes that rise while errors still fall.
        by_val = self.params.select == "accuracy" and self.best and measured
        if not by_val or measured["val_accuracy"] >= self.best["val_accuracy"]:
            self.best = {"epoch": self.epoch, **measured}
            self.best_weights = self.learner.weights()
        return measured

    def _out_of_patience(self) -> bool:
        patience = self.params.patience if self.phase == "select" and len(self.task.val) else 0
        return bool(patience and self.best and self.epoch - self._last_improved() >= patience)

    def _last_improved(self) -> int:
        """The first epoch that reached the best accuracy: a tie with a lower loss is no progress to wait for."""
        selected = [record for record in self.history if record["phase"] == "select"]
        best = max(r["val_accuracy"] for r in selected)
        return next(r["epoch"] for r in selected if r["val_accuracy"] == best)


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
