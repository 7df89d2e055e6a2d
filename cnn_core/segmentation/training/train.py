"""Training of a promptable segmenter: the mask decoder of SAM, MobileSAM or SAM 2 on embeddings computed once, all of
it, or a small SAM from scratch. It runs alone on one device, or as every rank of a process group that somebody else
has set up; ranks that see one folder share the work of the embeddings.

Kirillov et al., "Segment Anything" (ICCV 2023), section 3 and appendix A: prompts drawn from the masks, moved boxes and
points inside; the losses stand in sam_losses.py.
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
from cnn_core.segmentation.training.data import MaskSet, Prompted, draw_prompts, load_masks
from cnn_core.segmentation.training.embeddings import Embeddings
from cnn_core.segmentation.training.learner import AUGMENTATION_DRAWS, SamLearner
from cnn_core.segmentation.training.losses import iou
from cnn_core.segmentation.training.params import TrainSegmenterParams

STEP_EVERY_S = 0.5  # how often `on_step` is called
CPU = torch.device("cpu")
OnStep = Callable[[dict[str, Any]], None]
OnEpoch = Callable[[dict[str, Any], Callable[[], dict[str, Any]]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a training is given beside its parameters; paths are absolute."""

    source: str
    start: str
    folder: Path  # of the run: for the embeddings
    device: torch.device
    together: tuple[int, int] = (0, 1)  # which this rank is, of how many that have the same folder


def start_network(params: TrainSegmenterParams, start: str) -> LoadedSam:
    """The network that training begins with, in float32; ``cnn_core.detection.yolo.quiet`` goes before.

    Raises:
        ValueError: as `load_sam`.
    """
    if not is_none(start):
        loaded = load_sam(start)
        return dataclasses.replace(loaded, imgsz=params.imgsz or loaded.imgsz)
    torch.manual_seed(mixed_seed(params.seed, "weights"))
    network = build_small_sam(params.model, params.imgsz)
    model = dataclasses.asdict(params.model)
    return LoadedSam(network=network, name=SMALL, family="sam", sha256="", imgsz=params.imgsz, model=model)


def train(
    params: TrainSegmenterParams,
    job: Job,
    *,
    resume: Mapping[str, Any] | None = None,
    on_step: OnStep = lambda _: None,
    on_epoch: OnEpoch = lambda _record, _checkpoint: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> None:
    """Train to the end, from the checkpoint ``resume`` on where there is one.

    Args:
        on_step: now and then, with epoch, done, total (images of the epoch), loss, iou, images_per_s.
        on_epoch: after each, with its record and a function that makes the checkpoint, to be stored before it returns.
        on_note: sentences for a person.

    Raises:
        ValueError: as `start_network` and `load_masks`; the loss has become infinite or not a number; or there are
            too few images for the ranks.
    """
    if resume and resume["finished"]:
        return
    _Run(params, job, on_step, on_note).fit(resume, on_epoch)


class _Run:
    def __init__(self, params: TrainSegmenterParams, job: Job, on_step: OnStep, on_note: Callable[[str], None]) -> None:
        self.params, self.job, self.on_step = params, job, on_step
        loaded = start_network(params, job.start)
        self.data = {split: load_masks(job.source, split, imgsz=loaded.imgsz) for split in ("train", "val")}
        if left := sum(part.left_out for part in self.data.values()):
            on_note(f"{left:,} objects without a mask are left out")
        self.rank, self.world = rank_and_world()
        self.steps = -(-len(self.data["train"]) // params.batch)
        if (fewest := len(self.data["train"]) // self.steps) < self.world:
            raise ValueError(
                f"batches of {fewest} images cannot be shared by {self.world} workers; lower num_workers in "
                "runtime.yaml, or set a larger batch"
            )
        self.learner = SamLearner(
            loaded.network,
            loaded.family,
            params,
            imgsz=loaded.imgsz,
            frozen=params.frozen,
            steps=params.epochs * self.steps,
            device=job.device,
            dtype=autocast_dtype(params.precision, job.device),
        )
        self.history: list[dict[str, Any]] = []
        self.kept: dict[str, Embeddings] = {}
        if params.frozen:
            for split, part in self.data.items():
                self.kept[split] = self._embedded(split, part, on_note)

    def _embedded(self, split: str, part: MaskSet, on_note: Callable[[str], None]) -> Embeddings:
        told = time.perf_counter()

        def tell(done: int, of: int) -> None:
            nonlocal told
            if time.perf_counter() - told > 10 or done == of:
                told = time.perf_counter()
                on_note(f"embeddings of {split}: {done:,} of {of:,} images" + " of a worker's share" * (of < len(part)))

        folder = self.job.folder / "embeddings"
        return Embeddings(folder, split, self.learner, part, together=self.job.together, on_image=tell)

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
            "learner": self.learner.state_dict(optimizer=not finished),
        }

    def _epoch(self, epoch: int) -> dict[str, Any]:
        params, data = self.params, self.data["train"]
        draws = np.random.default_rng(mixed_seed(params.seed, "prompts", epoch))
        order = draws.permutation(len(data))
        rate = float(self.learner.optimizer.param_groups[0]["lr"])
        sums, started = torch.zeros(2, device=self.job.device), time.perf_counter()
        shown, done, mine = started, 0, 0
        # The batches differ by one image at most: none is a remainder too small to be shared.
        for step, rows in enumerate(map(np.sort, np.array_split(order, self.steps))):
            own = _share(len(rows), self.rank, self.world)
            batch = drawn(params, data, rows, draws, part=own)
            maps = self.kept["train"][batch.rows] if self.kept else None
            augmentation = generator(CPU, params.seed, "augment", epoch, step)
            uniform = torch.rand(len(rows), AUGMENTATION_DRAWS, generator=augmentation)
            loss, found = self.learner.step(batch, maps, uniform[own], global_batch_size=len(rows))
            done += len(rows)
            mine += len(batch.rows)
            sums += torch.stack([loss, found]) * len(batch.rows)
            now = time.perf_counter()
            if now - shown >= STEP_EVERY_S or step == self.steps - 1:
                shown = now
                self._check(sums[0], epoch)
                mean_loss, mean_iou = (sums / mine).tolist()
                told = {"epoch": epoch + 1, "done": done, "total": len(data), "loss": mean_loss, "iou": mean_iou}
                self.on_step({**told, "images_per_s": done / (now - started)})
        loss, found = (sum_over_ranks(sums) / done).tolist()
        speed = done / (time.perf_counter() - started)
        return {"epoch": epoch + 1, "lr": rate, "train_loss": loss, "train_iou": found, "images_per_s": speed}

    def _check(self, loss: Tensor, epoch: int) -> None:
        if not torch.isfinite(loss):
            params = self.params
            where = f"in epoch {epoch + 1}"
            raise diverged(loss.item(), where, learning_rate=params.learning_rate, grad_clip=params.grad_clip)

    def measure(self) -> dict[str, float]:
        """The averaged network on the validation part, prompted by the true boxes: the mean over objects of the IoU,
        and of how far the predicted IoU is from it. Each rank takes some of the images."""
        data, sums = self.data["val"], torch.zeros(3, dtype=torch.float64, device=self.job.device)
        images = np.arange(len(data))[_share(len(data), self.rank, self.world)]
        with self.learner.averaged():
            for start in range(0, len(images), self.params.batch):
                rows = images[start : start + self.params.batch]
                kept = self.kept.get("val")
                maps = kept[rows] if kept else self.learner.maps(torch.from_numpy(data.images[rows]))
                for place, row in enumerate(rows):
                    objects = range(data.first[row], data.first[row + 1])
                    own = [part[place : place + 1] for part in maps]
                    logits, scores = self.learner.masks(own, torch.from_numpy(data.boxes[objects]), data.side)
                    truth = torch.from_numpy(data.masks(objects)).to(logits.device) > 0
                    real = iou(logits > 0, truth)
                    wrong = (scores - real).abs()
                    sums += torch.stack([real.sum(), wrong.sum(), torch.ones_like(real).sum()])
        found, wrong, count = sum_over_ranks(sums).tolist()
        return {"val_iou": found / count, "val_iou_error": wrong / count}


def _share(count: int, rank: int, world: int) -> slice:
    """Which of ``count`` a rank takes."""
    mine = share(torch.arange(count), rank, world)
    return slice(int(mine[0]), int(mine[-1]) + 1) if len(mine) else slice(0, 0)


def drawn(
    params: TrainSegmenterParams,
    data: MaskSet,
    rows: np.ndarray,
    draws: np.random.Generator,
    *,
    points: float | None = None,
    part: slice = slice(None),
) -> Prompted:
    """A batch as training draws it, or a part of it, before it is mirrored and its colours change."""
    return draw_prompts(
        data,
        rows,
        prompts=params.prompts,
        points=params.points if points is None else points,
        box_jitter=params.box_jitter,
        draws=draws,
        part=part,
    )


def final_state(params: TrainSegmenterParams, start: str, checkpoint: Mapping[str, Any]) -> tuple[LoadedSam, dict]:
    """The trained network, and its tensors as a checkpoint of its kind has them."""
    loaded = start_network(params, start)
    loaded.network.load_state_dict(checkpoint["learner"]["average"], strict=False)
    state = {name: value.clone().contiguous() for name, value in loaded.network.state_dict().items()}
    return loaded, {"model": state} if loaded.family == "sam2" else state
