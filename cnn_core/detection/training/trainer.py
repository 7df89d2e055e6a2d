"""Ultralytics' trainers with other ways, which yolo_training.py describes. Imports Ultralytics: only after `quiet`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils.torch_utils import unwrap_model

from cnn_core.detection.training.dataset import EpochOrder, MemoryDataset, seed_all
from cnn_core.detection.training.job import MEASURED, STEP_EVERY_S, Job, OnEpoch, OnStep, arguments
from cnn_core.detection.training.params import TrainDetectorParams
from cnn_core.devices import autocast_dtype
from cnn_core.seeds import mixed_seed

WIDEST_STRIDE = 32  # Ultralytics pads validation images to multiples of at least this


class _Learning:
    """What both trainers do otherwise. Its name holds no "Trainer", by which Ultralytics knows whom to give trackers.

    ``history`` holds a record an epoch; ``best`` the record of the epoch whose weights are kept.
    """

    def __init__(
        self,
        params: TrainDetectorParams,
        job: Job,
        *,
        resume: Mapping[str, Any] | None,
        on_step: OnStep,
        on_epoch: OnEpoch,
    ) -> None:
        self.own, self.job, self.restored = params, job, resume
        self.on_step, self.on_epoch = on_step, on_epoch
        self.history: list[dict[str, Any]] = list(resume["history"]) if resume else []
        self.kept: dict[str, Any] = dict(resume["best"]) if resume else {}
        self.kept_weights: dict[str, Tensor] = resume["best_weights"] if resume else {}
        threads = torch.get_num_threads()
        super().__init__(overrides=arguments(params, job))
        torch.set_num_threads(threads)  # for a CPU it has taken one less than there are cores

    def get_dataset(self) -> dict[str, Any]:
        """Not Ultralytics' reading, which downloads what is missing and executes what a data.yaml says."""
        data = self.job.data
        files = data.train[: max(1, round(self.own.fraction * len(data.train)))]
        names = dict(enumerate(data.names))
        return {"train": files, "val": data.val, "names": names, "nc": len(names), "channels": 3}

    def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> MemoryDataset:
        return MemoryDataset(
            img_path=img_path,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=mode == "train",
            hyp=self.args,
            rect=mode == "val",
            cache="ram",
            stride=max(int(unwrap_model(self.model).stride.max()), WIDEST_STRIDE),
            pad=0.0 if mode == "train" else 0.5,
            task=self.args.task,
            data=self.data,
        )

    def get_dataloader(
        self,
        dataset_path: Any,
        batch_size: int = 16,
        rank: int = 0,  # noqa: ARG002
        mode: str = "train",
    ) -> InfiniteDataLoader:
        dataset = self.build_dataset(dataset_path, mode, batch_size)
        epoch = self.restored["epoch"] if self.restored else 0
        return InfiniteDataLoader(
            dataset=dataset,
            batch_size=min(batch_size, len(dataset)),
            sampler=EpochOrder(len(dataset), self.own.seed, epoch) if mode == "train" else None,
            num_workers=self.job.workers,
            collate_fn=dataset.collate_fn,
            pin_memory=self.device.type == "cuda",
        )

    def setup_model(self) -> None:
        self.model = self.get_model(cfg=self.job.architecture, weights=self.job.start_network(), verbose=False)
        if self.device.type == "cpu":  # Ultralytics does so on GPUs only; with bfloat16 it pays here too
            self.model = self.model.to(memory_format=torch.channels_last)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = super().preprocess_batch(batch)
        if self.device.type == "cpu":
            batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def _setup_train(self) -> None:
        super()._setup_train()
        decay, tau = self.own.ema_decay, self.own.ema_tau
        self.ema.decay = lambda updates: decay * (1 - float(np.exp(-updates / tau)))
        # Only now: the average has been copied, and is validated in float32 as whoever uses the weights will.
        compute_in(unwrap_model(self.model), autocast_dtype(self.own.precision, self.device), self.device)

    def resume_training(self, _: Any) -> None:
        found = self.restored
        if not found:
            return
        model = unwrap_model(self.model)
        model.load_state_dict(found["model"])
        self.ema.ema.load_state_dict(found["ema"])
        self.ema.updates = found["updates"]
        self.optimizer.load_state_dict(found["optimizer"])
        self.best_fitness = found["best_fitness"]
        self.stopper.best_fitness, self.stopper.best_epoch = found["stopper"]
        self.start_epoch = found["epoch"]
        if hasattr(model.model[-1], "one2one_cv2"):  # its two losses are weighed by the epoch
            model.criterion = model.init_criterion()
            model.criterion.updates = found["epoch"] - 1
            model.criterion.update()

    def run_callbacks(self, event: str) -> None:
        if own := getattr(self, f"_{event}", None):
            own()
        super().run_callbacks(event)

    def _on_train_epoch_start(self) -> None:
        self._batch, self._validated = 0, False
        self._began = self._shown = time.perf_counter()
        seed_all(mixed_seed(self.own.seed, "epoch", self.epoch))

    def _on_train_batch_start(self) -> None:
        """The schedule at every step, not at every epoch: a training of few epochs would go down in large steps."""
        rate = self.lf(self.epoch + self._batch / len(self.train_loader))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate  # in the warm-up it is set again after this

    def _on_train_batch_end(self) -> None:
        self._batch += 1
        now, last = time.perf_counter(), self._batch == len(self.train_loader)
        if now - self._shown < STEP_EVERY_S and not last:
            return
        self._shown = now
        self._check()
        images = len(self.train_loader.dataset)
        done = images if last else self._batch * self.train_loader.batch_size
        speed = done / (now - self._began)
        loss = float(sum(float(value) for value in self.tloss.values()))
        self.on_step({"epoch": self.epoch + 1, "done": done, "total": images, "loss": loss, "images_per_s": speed})

    def _on_train_epoch_end(self) -> None:
        self._trained_s = time.perf_counter() - self._began
        self.args.val = (self.epoch + 1) % self.own.val_every == 0

    def _check(self) -> None:
        if not torch.isfinite(self.loss):
            where = f"step {self._batch} of epoch {self.epoch + 1}"
            raise ValueError(
                f"the loss is {self.loss.item()} at {where}: training has diverged; lower lr0 (now {self.own.lr0:g})"
            )

    def _handle_nan_recovery(self, _: int) -> bool:
        return False  # `_check` has ended it

    def validate(self) -> tuple[Any, Any]:
        self._validated = True
        return super().validate()

    def save_model(self) -> bool:
        """After every epoch: its record, and the offer of a checkpoint."""
        record = self._record()
        self.history.append(record)
        if self._validated and (self.own.select == "last" or self.fitness == self.best_fitness):
            self.kept = record
            if self.own.select == "best":
                self.kept_weights = {name: tensor.clone() for name, tensor in self.ema.ema.state_dict().items()}
        self.on_epoch(record, self._checkpoint)
        return True

    def _record(self) -> dict[str, Any]:
        record = {"epoch": self.epoch + 1}
        record |= {f"train_{name}": float(value) for name, value in self.tloss.items()}
        if self._validated:
            record |= {f"val_{name}": float(self.metrics[f"val/{name}"]) for name in self.loss_names}
            record |= {name: float(self.metrics[key]) for key, name in MEASURED.items() if key in self.metrics}
        images = len(self.train_loader.dataset)
        return record | {
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "images_per_s": images / self._trained_s,
            "seconds": time.perf_counter() - self._began,
        }

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch + 1,
            "finished": bool(self.stop),
            "model": unwrap_model(self.model).state_dict(),
            "ema": self.ema.ema.state_dict(),
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "best_fitness": None if self.best_fitness is None else float(self.best_fitness),
            "stopper": [float(self.stopper.best_fitness), int(self.stopper.best_epoch)],
            "history": self.history,
            "best": self.kept,
            "best_weights": self.kept_weights,
            "imgsz": int(self.args.imgsz),
            "left_out": self.train_loader.dataset.left_out | self.test_loader.dataset.left_out,
        }

    def final_eval(self) -> None:
        """Nothing: the epoch that is kept has been measured."""


class Detection(_Learning, DetectionTrainer):
    pass


class Segmentation(_Learning, SegmentationTrainer):
    pass


def compute_in(network: nn.Module, dtype: torch.dtype | None, device: torch.device) -> None:
    """Let ``network(batch)`` predict in ``dtype`` and weigh the predictions, the losses, in float32.

    Eight bits of precision are enough for features, but not for the corner of a box: 1/256 of 160 pixels.
    """
    if dtype is None:
        return
    plain = network.forward

    def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, dict):
            return plain(x, *args, **kwargs)
        with torch.autocast(device.type, dtype):
            predictions = network.predict(x["img"])
        return network.loss(x, _float32(predictions))

    network.forward = forward


def _float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, Mapping):
        return {key: _float32(inner) for key, inner in value.items()}
    return type(value)(map(_float32, value)) if isinstance(value, list | tuple) else value
