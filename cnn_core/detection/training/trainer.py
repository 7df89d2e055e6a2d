"""Ultralytics' trainers with the changes that train.py lists. Imports Ultralytics: only after `quiet`.

The only module that overrides methods of Ultralytics' trainers; it needs none of their private ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils.torch_utils import unwrap_model

from cnn_core.detection.training.dataset import EpochOrder, MemoryDataset, seed_all
from cnn_core.detection.training.job import DetectorJob, OnEpoch, OnStep, arguments, max_stride
from cnn_core.devices import autocast_dtype
from cnn_core.seeds import mixed_seed

if TYPE_CHECKING:

    class _Base(DetectionTrainer):
        """What is None in Ultralytics' constructor and set later."""

        model: Any
        ema: Any
        optimizer: Any
        lf: Any
        loss: Any
        tloss: Any
        metrics: Any
        loss_names: Any
else:
    _Base = object  # `_Learning` is a mixin before either trainer

STEP_EVERY_S = 0.5  # how often `on_step` is called
WIDEST_STRIDE = 32  # Ultralytics pads validation images to multiples of at least this
MEASURED = {
    "metrics/precision(B)": "precision",
    "metrics/recall(B)": "recall",
    "metrics/mAP50(B)": "mAP50",
    "metrics/mAP50-95(B)": "mAP50-95",
    "metrics/mAP50(M)": "mask_mAP50",
    "metrics/mAP50-95(M)": "mask_mAP50-95",
}


class _Learning(_Base):
    """What both trainers do differently. Its name must not hold "Trainer": Ultralytics would give it trackers."""

    def __init__(
        self,
        job: DetectorJob,
        *,
        folder: Path,
        device: torch.device,
        resume: Mapping[str, Any] | None,
        on_step: OnStep,
        on_epoch: OnEpoch,
    ) -> None:
        self.job, self.params, self.checkpoint = job, job.params, resume
        self.on_step, self.on_epoch = on_step, on_epoch
        self.history: list[dict[str, Any]] = list(resume["history"]) if resume else []
        self.best_record: dict[str, Any] = dict(resume["best"]) if resume else {}
        self.best_weights: dict[str, Tensor] = resume["best_weights"] if resume else {}
        self.loaders = 0 if device.type == "cpu" else job.loaders
        threads = torch.get_num_threads()
        own = {"save_dir": str(folder), "device": device, "workers": self.loaders}
        super().__init__(overrides={**arguments(job), **own})
        torch.set_num_threads(threads)  # on a CPU Ultralytics has set one less than there are cores
        for event, react in {
            "on_train_epoch_start": self._start_epoch,
            "on_train_batch_start": self._set_learning_rate,
            "on_train_batch_end": self._end_batch,
            "on_train_epoch_end": self._end_epoch,
        }.items():
            self.add_callback(event, lambda _, react=react: react())

    def get_dataset(self) -> dict[str, Any]:
        """Return the job's files, instead of Ultralytics' reading, which downloads what is missing and executes what a
        data.yaml says."""
        data = self.job.data
        names = dict(enumerate(data.names))
        return {"train": self.job.learned_files, "val": data.val, "names": names, "nc": len(names), "channels": 3}

    def build_dataset(self, img_path: Any, mode: str = "train", batch: int | None = None) -> MemoryDataset:
        return MemoryDataset(
            img_path=img_path,
            texts=self.job.data.labels,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=mode == "train",
            hyp=self.args,
            rect=mode == "val",
            cache="ram",
            stride=max(max_stride(unwrap_model(self.model)), WIDEST_STRIDE),
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
        epoch = self.checkpoint["epoch"] if self.checkpoint else 0
        return InfiniteDataLoader(
            dataset=dataset,
            batch_size=min(batch_size, len(dataset)),
            sampler=EpochOrder(len(dataset), self.params.seed, epoch) if mode == "train" else None,
            num_workers=self.loaders,
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

    def resume_training(self, ckpt: Any) -> None:  # noqa: ARG002
        """Fill what Ultralytics has just made from the checkpoint, if any; it calls this in any case."""
        decay, tau = self.params.ema_decay, self.params.ema_tau
        self.ema.decay = lambda updates: decay * (1 - float(np.exp(-updates / tau)))
        # Only now: the average has been copied, and is validated in float32 as whoever uses the weights will.
        compute_in(unwrap_model(self.model), autocast_dtype(self.params.precision, self.device), self.device)
        if self.checkpoint:
            self._restore(self.checkpoint)

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        model: Any = unwrap_model(self.model)
        model.load_state_dict(checkpoint["model"])
        self.ema.ema.load_state_dict(checkpoint["ema"])
        self.ema.updates = checkpoint["updates"]
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.best_fitness = checkpoint["best_fitness"]
        self.stopper.best_fitness, self.stopper.best_epoch = checkpoint["stopper"]
        self.start_epoch = checkpoint["epoch"]
        if hasattr(model.model[-1], "one2one_cv2"):  # its two losses are weighed by the epoch
            model.criterion = model.init_criterion()
            model.criterion.updates = checkpoint["epoch"] - 1
            model.criterion.update()

    def _start_epoch(self) -> None:
        self._batch, self._validated = 0, False
        self._began = self._reported = time.perf_counter()
        seed_all(mixed_seed(self.params.seed, "epoch", self.epoch))

    def _set_learning_rate(self) -> None:
        """Follow the schedule at every step: by epochs a short training would go down in large steps."""
        rate = self.lf(self.epoch + self._batch / len(self.train_loader))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate  # in the warm-up it is set again after this

    def _end_batch(self) -> None:
        self._batch += 1
        now, last = time.perf_counter(), self._batch == len(self.train_loader)
        if now - self._reported < STEP_EVERY_S and not last:
            return
        self._reported = now
        self._check_loss()
        images = len(self.train_loader.dataset)
        done = images if last else self._batch * self.train_loader.batch_size
        speed = done / (now - self._began)
        loss = sum(map(float, self.tloss.values()))
        self.on_step({"epoch": self.epoch + 1, "done": done, "total": images, "loss": loss, "images_per_s": speed})

    def _end_epoch(self) -> None:
        self._trained_s = time.perf_counter() - self._began
        self.args.val = (self.epoch + 1) % self.params.val_every == 0

    def _check_loss(self) -> None:
        if not torch.isfinite(self.loss):
            step = f"step {self._batch} of epoch {self.epoch + 1}"
            raise ValueError(
                f"the loss is {self.loss.item()} at {step}: training has diverged; lower lr0 (now {self.params.lr0:g})"
            )

    def validate(self) -> tuple[Any, Any]:
        self._validated = True
        return super().validate()

    def save_model(self) -> bool:
        """Record the epoch and offer its checkpoint. Ultralytics calls it after every epoch."""
        record = self._record()
        self.history.append(record)
        if self._validated and (self.params.select == "last" or self.fitness == self.best_fitness):
            self.best_record = record
            if self.params.select == "best":
                self.best_weights = {name: tensor.clone() for name, tensor in self.ema.ema.state_dict().items()}
        self.on_epoch(record, self._checkpoint)
        return True

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"epoch": self.epoch + 1}
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
            "best": self.best_record,
            "best_weights": self.best_weights,
            "imgsz": int(self.args.imgsz),
            "batch": int(self.batch_size),  # Ultralytics halves it in the first epoch when a GPU's memory is too small
            "left_out": self.train_loader.dataset.left_out | self.test_loader.dataset.left_out,
        }

    def final_eval(self) -> None:
        """Do nothing: the epoch that is kept has been measured."""


class Detection(_Learning, DetectionTrainer):
    pass


class Segmentation(_Learning, SegmentationTrainer):
    pass


def compute_in(network: Any, dtype: torch.dtype | None, device: torch.device) -> None:
    """Let ``network(batch)`` predict in ``dtype`` and weigh the predictions, the losses, in float32.

    Eight bits of precision are enough for features, but not for the corner of a box: 1/256 of 160 pixels.
    """
    if dtype is None:
        return
    predict = network.forward

    def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, dict):
            return predict(x, *args, **kwargs)
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
