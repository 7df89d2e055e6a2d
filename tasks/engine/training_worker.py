"""A training worker's side of Ray: what it is told, where it stands, and how it reports to the driver.

Torch and Ray are imported where they are needed: every process that Ray starts loads this module.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cnn_core.locks import temporary_folder
from tasks.engine.events import StageError, classify

if TYPE_CHECKING:
    from ray.train import Checkpoint

Message = dict[str, Any]
Job = TypeVar("Job")


class MessageQueue:
    """Messages from the workers to the driver, also across nodes. Ray runs it as an actor."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    def put(self, message: Message) -> None:
        self._messages.append(message)

    def drain(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages


class WorkerContext:
    """A training worker's place among the others, and its way to the driver.

    Attributes:
        rank, world_size: of all workers.
        node_rank: the number of this worker's machine.
        local_rank, local_world_size: among the workers on this machine.
        device: the worker's GPU, or the CPU.
        run_folder: the folder of the run's checkpoints, a path or an fsspec URI.
    """

    def __init__(self, queue: Any, run_folder: str) -> None:
        from ray import train
        from ray.train.torch import get_device

        context = train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.node_rank = context.get_node_rank()
        self.local_rank, self.local_world_size = context.get_local_rank(), context.get_local_world_size()
        self.device = get_device()
        self.run_folder = run_folder
        self._queue = queue

    @property
    def remote_state(self) -> bool:
        """Whether the run's folder is a URI, so that no file can be written beside its checkpoints."""
        return "://" in self.run_folder

    def send(self, **message: Any) -> None:
        """Send a message to the driver without waiting. Only rank 0 is heard; see `TrainingProgress.handle`."""
        if self.rank == 0:
            self._queue.put.remote(message)

    def report_resumed(self, epoch: int, **details: Any) -> None:
        self.send(resumed=epoch, folder=self.run_folder, **details)

    def report_step(self, numbers: Message) -> None:
        self.send(step=numbers)

    def restored(self) -> dict[str, Any] | None:
        """The checkpoint to continue from: the one that Ray names, or the newest that a killed run has left."""
        from ray import train

        from tasks.engine.checkpoints import load_checkpoint

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            left = [] if self.remote_state else sorted(Path(self.run_folder).glob("checkpoint_*"))  # dates
            return load_checkpoint(left[-1]) if left else None
        with checkpoint.as_directory() as folder:
            return load_checkpoint(folder)

    def report_epoch(self, record: dict[str, Any], make_checkpoint: Callable[[], dict[str, Any]]) -> None:
        """Keep a checkpoint after an epoch and send the epoch's record to the driver.

        Every rank calls it, as Ray demands; rank 0 writes. A local checkpoint is written beside the others and renamed
        into place, because AlexNet's has 0.9 GB, which should be written once only.
        """
        from ray import train

        from tasks.engine.checkpoints import save_checkpoint

        metrics = {"epoch": record["epoch"]}
        if self.rank != 0:
            train.report(metrics)
            return
        beside = None if self.remote_state else Path(self.run_folder)
        with temporary_folder(beside, ".partial-") as parent:
            folder = parent / "checkpoint"
            folder.mkdir()
            save_checkpoint(folder, make_checkpoint())
            checkpoint = train.Checkpoint.from_directory(folder)
            upload = None if self.remote_state else self._rename_into_place
            train.report(metrics, checkpoint=checkpoint, checkpoint_upload_fn=upload)
        self.send(record=record)

    def _rename_into_place(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        from ray import train

        target = Path(self.run_folder, name)
        Path(checkpoint.path).rename(target)
        return train.Checkpoint.from_directory(target)


def run_worker(
    work: Callable[[Job, WorkerContext], None],
    job: Job,
    *,
    queue: Any,
    run_folder: str,
    threads: int,
    announce: bool,
) -> None:
    """Run ``work(job, context)`` in a training worker; with ``announce`` rank 0 tells how many workers there are.

    A failure becomes a StageError here, where its traceback still is.
    """
    import torch

    torch.set_num_threads(threads)
    context = WorkerContext(queue, run_folder)
    if announce:
        context.send(note=f"training on {context.world_size} worker{'s' * (context.world_size > 1)}")
    try:
        work(job, context)
    except Exception as error:
        kind, message = classify(error)
        if kind == "bug":
            context.send(traceback=traceback.format_exc())
        raise StageError(message, kind) from None
