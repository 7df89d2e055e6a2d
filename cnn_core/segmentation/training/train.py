"""Training of a promptable segmenter: a small SAM from scratch, all of given weights, or a SAM's mask decoder alone.

The decoder of SAM, MobileSAM or SAM 2 learns on embeddings that are computed once. A training runs alone on one device,
or as every rank of a process group that somebody else has set up; ranks that see one folder share the work of the
embeddings.

Kirillov et al., "Segment Anything" (ICCV 2023), section 3 and appendix A: prompts drawn from the masks, moved boxes and
points inside. The losses stand in losses.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_core.devices import autocast_dtype
from cnn_core.distributed import rank_and_world, share, sum_over_ranks
from cnn_core.files import is_none
from cnn_core.optimization import diverged
from cnn_core.seeds import generator, mixed_seed
from cnn_core.segmentation.sam.network import LoadedSam, load_sam
from cnn_core.segmentation.sam.small import build_small_sam
from cnn_core.segmentation.sam.weights import SMALL
from cnn_core.segmentation.training.data import load_masks
from cnn_core.segmentation.training.embeddings import Embeddings
from cnn_core.segmentation.training.learner import AUGMENTATION_DRAWS, SamLearner
from cnn_core.segmentation.training.losses import iou
from cnn_core.segmentation.training.params import TrainSegmenterParams
from cnn_core.segmentation.training.prompts import draw_prompts

STEP_EVERY_S = 0.5  # how often `on_step` is called
NOTE_EVERY_S = 10  # how often the embeddings' progress is told
CPU = torch.device("cpu")
OnStep = Callable[[dict[str, Any]], None]
OnEpoch = Callable[[dict[str, Any], Callable[[], dict[str, Any]]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterJob:
    """All that a segmenter's training needs of whoever starts it; paths are absolute."""

    params: TrainSegmenterParams
    source: str  # see `read_masks`
    start: str  # the weights to begin with, or none


def start_network(params: TrainSegmenterParams, start: str) -> LoadedSam:
    """Return the network that training begins with, in float32; call ``cnn_core.detection.yolo.quiet`` before."""
    if not is_none(start):
        loaded = load_sam(start)
        return dataclasses.replace(loaded, imgsz=params.imgsz or loaded.imgsz)
    torch.manual_seed(mixed_seed(params.seed, "weights"))
    network = build_small_sam(params.model, params.imgsz)
    model = dataclasses.asdict(params.model)
    return LoadedSam(network=network, name=SMALL, family="sam", sha256="", imgsz=params.imgsz, model=model)


def train(
    job: SegmenterJob,
    *,
    folder: Path,
    device: torch.device,
    local_rank: tuple[int, int] = (0, 1),
    resume: Mapping[str, Any] | None = None,
    on_step: OnStep = lambda _: None,
    on_epoch: OnEpoch = lambda _record, _checkpoint: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> None:
    """Train to the end, from the checkpoint ``resume`` on where there is one.

    Args:
        folder: for the embeddings, and ``local_rank``: as `Embeddings` takes them.
        on_step: called now and then with epoch, done, total (images of the epoch), loss, iou, images_per_s.
        on_epoch: called after each epoch with its record and a function that makes the checkpoint, which must be stored
            before this returns.

    Raises:
        ValueError: as `start_network` and `load_masks`; the loss has become infinite or not a number; or there are
            too few images for the ranks.
    """
    if resume and resume["finished"]:
        return
    training = _Training(job, device, on_step, on_note)
    if job.params.frozen:
        training.embed(folder / "embeddings", local_rank)
    training.fit(resume, on_epoch)


class _Training:
    """The state of one training: what a checkpoint holds, and the data."""

    def __init__(
        self, job: SegmenterJob, device: torch.device, on_step: OnStep, on_note: Callable[[str], None]
    ) -> None:
        params = job.params
        self.params, self.device, self.on_step, self.on_note = params, device, on_step, on_note
        loaded = start_network(params, job.start)
        self.data = {split: load_masks(job.source, split, imgsz=loaded.imgsz) for split in ("train", "val")}
        if left_out := sum(part.left_out for part in self.data.values()):
            on_note(f"{left_out:,} objects without a mask are left out")
        self.rank, self.world_size = rank_and_world()
        self.steps = -(-len(self.data["train"]) // params.batch)
        if (fewest := len(self.data["train"]) // self.steps) < self.world_size:
            raise ValueError(
                f"batches of {fewest} images cannot be shared by {self.world_size} workers; lower num_workers in "
                "runtime.yaml, or set a larger batch"
            )
        self.learner = SamLearner(
            loaded.network,
            loaded.family,
            params,
            imgsz=loaded.imgsz,
            frozen=params.frozen,
            steps=params.epochs * self.steps,
            device=device,
            dtype=autocast_dtype(params.precision, device),
        )
        self.history: list[dict[str, Any]] = []
        self.embeddings: dict[str, Embeddings] = {}

    def embed(self, folder: Path, local_rank: tuple[int, int]) -> None:
        for split, data in self.data.items():
            report = self._embedding_notes(split, len(data))
            self.embeddings[split] = Embeddings(
                folder, split, self.learner, data, local_rank=local_rank, on_image=report
            )

    def _embedding_notes(self, split: str, images: int) -> Callable[[int, int], None]:
        noted = time.perf_counter()

        def report(done: int, part: int) -> None:
            nonlocal noted
            if time.perf_counter() - noted > NOTE_EVERY_S or done == part:
                noted = time.perf_counter()
                share_of = " of a worker's share" if part < images else ""
                self.on_note(f"embeddings of {split}: {done:,} of {part:,} images{share_of}")

        return report

    def fit(self, resume: Mapping[str, Any] | None, on_epoch: OnEpoch) -> None:
        if resume:
            self.learner.load_state_dict(resume["learner"])
            self.history = list(resume["history"])
        for epoch in range(len(self.history), self.params.epochs):
            started = time.perf_counter()
            record = self._epoch(epoch)
            self.learner.gather_statistics()
            if (epoch + 1) % self.params.val_every == 0 or epoch + 1 == self.params.epochs:
                record |= self.measure()
            record["seconds"] = time.perf_counter() - started
            self.history.append(record)
            on_epoch(record, self.checkpoint)

    def checkpoint(self) -> dict[str, Any]:
        finished = len(self.history) == self.params.epochs
        return {
            "epoch": len(self.history),
            "finished": finished,
            "history": self.history,
            "left_out": {file: why for part in self.data.values() for file, why in part.faults.items()},
            "learner": self.learner.state_dict(optimizer=not finished),
        }

    def _epoch(self, epoch: int) -> dict[str, Any]:
        params, data = self.params, self.data["train"]
        draws = np.random.default_rng(mixed_seed(params.seed, "prompts", epoch))
        order = draws.permutation(len(data))
        rate = float(self.learner.optimizer.param_groups[0]["lr"])
        sums, started = torch.zeros(2, device=self.device), time.perf_counter()
        reported, done, local_images = started, 0, 0
        # The batches differ by one image at most: none is a remainder too small to be shared.
        for step, rows in enumerate(map(np.sort, np.array_split(order, self.steps))):
            part = rank_slice(len(rows), self.rank, self.world_size)
            batch = draw_prompts(params, data, rows, draws, part=part)
            maps = self.embeddings["train"][batch.rows] if self.embeddings else None
            augmentation = generator(CPU, params.seed, "augment", epoch, step)
            uniform = torch.rand(len(rows), AUGMENTATION_DRAWS, generator=augmentation)
            loss, overlap = self.learner.step(batch, maps, uniform[part], global_batch_size=len(rows))
            done += len(rows)
            local_images += len(batch.rows)
            sums += torch.stack([loss, overlap]) * len(batch.rows)
            now = time.perf_counter()
            if now - reported >= STEP_EVERY_S or step == self.steps - 1:
                reported = now
                self._check_loss(sums[0], epoch)
                mean_loss, mean_iou = (sums / local_images).tolist()
                numbers = {"epoch": epoch + 1, "done": done, "total": len(data), "loss": mean_loss, "iou": mean_iou}
                self.on_step({**numbers, "images_per_s": done / (now - started)})
        loss, overlap = (sum_over_ranks(sums) / done).tolist()
        speed = done / (time.perf_counter() - started)
        return {"epoch": epoch + 1, "lr": rate, "train_loss": loss, "train_iou": overlap, "images_per_s": speed}

    def _check_loss(self, loss: Tensor, epoch: int) -> None:
        if not torch.isfinite(loss):
            params = self.params
            where = f"in epoch {epoch + 1}"
            raise diverged(loss.item(), where, learning_rate=params.learning_rate, grad_clip=params.grad_clip)

    def measure(self) -> dict[str, float]:
        """Measure the averaged network on the validation part, prompted by the true boxes; each rank has some images.

        Returns:
            Means over the objects: of the IoU, and of how far the predicted IoU is from it.
        """
        data, sums = self.data["val"], torch.zeros(3, dtype=torch.float64, device=self.device)
        images = np.arange(len(data))[rank_slice(len(data), self.rank, self.world_size)]
        embeddings = self.embeddings.get("val")
        with self.learner.averaged():
            for start in range(0, len(images), self.params.batch):
                rows = images[start : start + self.params.batch]
                maps = embeddings[rows] if embeddings else self.learner.maps(torch.from_numpy(data.images[rows]))
                for index, row in enumerate(rows):
                    objects = range(data.first[row], data.first[row + 1])
                    of_image = [part[index : index + 1] for part in maps]
                    logits, scores = self.learner.masks(of_image, torch.from_numpy(data.boxes[objects]), data.side)
                    truth = torch.from_numpy(data.masks(objects)).to(logits.device) > 0
                    overlaps = iou(logits > 0, truth)
                    errors = (scores - overlaps).abs()
                    sums += torch.stack([overlaps.sum(), errors.sum(), torch.ones_like(overlaps).sum()])
        overlap, error, count = sum_over_ranks(sums).tolist()
        return {"val_iou": overlap / count, "val_iou_error": error / count}


def rank_slice(count: int, rank: int, world_size: int) -> slice:
    """Return which of ``count`` rows a rank takes."""
    rows = share(torch.arange(count), rank, world_size)
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)


def final_state(job: SegmenterJob, checkpoint: Mapping[str, Any]) -> tuple[LoadedSam, dict[str, Any]]:
    """Return the trained network, and its tensors as a checkpoint of its kind holds them."""
    loaded = start_network(job.params, job.start)
    loaded.network.load_state_dict(checkpoint["learner"]["average"], strict=False)
    state = {name: value.clone().contiguous() for name, value in loaded.network.state_dict().items()}
    return loaded, {"model": state} if loaded.family == "sam2" else state
