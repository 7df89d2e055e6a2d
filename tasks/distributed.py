"""Training on Ray: the wiring of `TorchTrainer`.

Plain torch stands in cnn_core. What is added here: progress back to the driver, a checkpoint an epoch in the state
folder, and failures with the sentence and the kind that the code gave them. Torch and Ray are imported where they are
needed: every process that Ray starts loads this file.
"""

from __future__ import annotations

import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import Any

from tasks.cluster import first_line
from tasks.events import StageError, classify, log
from tasks.runtime import Runtime
from tasks.state import Run

WORKER_DEATHS = 2  # a training survives this many
POLL_S = 0.3


class Board:
    """Messages from the workers to the driver, across nodes too; Ray runs it as an actor."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []

    def put(self, message: dict[str, Any]) -> None:
        self._messages.append(message)

    def drain(self) -> list[dict[str, Any]]:
        messages, self._messages = self._messages, []
        return messages


class Rank:
    """What a worker is given: where it stands, what to go on from, and whom to tell."""

    def __init__(self, board: Any) -> None:
        from ray import train
        from ray.train.torch import get_device

        context = train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = get_device()
        self._board = board

    def send(self, **message: Any) -> None:
        """Tell the driver; it does not wait. Only rank 0 is heard."""
        if self.rank == 0:
            self._board.put.remote(message)

    def restored(self) -> dict[str, Any] | None:
        """The last checkpoint of an earlier, interrupted run, or None."""
        from ray import train

        from cnn_core.checkpoints import load_checkpoint

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return load_checkpoint(folder)

    def report(self, metrics: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        """Keep the checkpoint that ``make`` gives; every rank calls it, rank 0 writes."""
        from ray import train

        from cnn_core.checkpoints import save_checkpoint

        if self.rank != 0:
            train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(folder, make())
            train.report(metrics, checkpoint=train.Checkpoint.from_directory(folder))


def fit(
    work: Callable[[dict[str, Any], Rank], None],
    config: dict[str, Any],
    runtime: Runtime,
    run: Run,
    *,
    on_message: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run ``work(config, rank)`` on every worker by `TorchTrainer`; it goes on from what ``run`` holds.

    A worker that dies (killed, node lost) is replaced and goes on from the last checkpoint, twice; one that raises is
    not: the same would happen again.

    Args:
        work: on each rank torch.distributed is set up, and as many threads as the rank has cores.
        config: plain values; paths absolute.
        on_message: called in this thread with every ``rank.send``.

    Returns:
        The last checkpoint.

    Raises:
        StageError: what a worker raised, with its sentence and kind; or that it died (transient) or ran out of memory.
    """
    for deaths_left in reversed(range(WORKER_DEATHS + 1)):
        try:
            return _fit_once(work, config, runtime, run, on_message)
        except StageError as error:
            if error.kind != "transient" or not deaths_left:
                raise
            log(f"{error.message}; starting again from the last finished epoch")
    raise AssertionError


def _fit_once(
    work: Callable[..., None],
    config: dict[str, Any],
    runtime: Runtime,
    run: Run,
    on_message: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from cnn_core.checkpoints import load_checkpoint

    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        _on_rank,
        train_loop_config={"work": work, "config": config, "board": board, "threads": runtime.cpus},
        scaling_config=ScalingConfig(
            num_workers=runtime.num_workers,
            use_gpu=_use_gpu(runtime),
            resources_per_worker={"CPU": runtime.cpus},
        ),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.storage,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            # Ray would start again after any exception, a diverged loss too: `fit` decides instead.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    )
    result = _followed(trainer.fit, lambda: [on_message(m) for m in ray.get(board.drain.remote())])
    assert result.checkpoint is not None, "every epoch reports a checkpoint"
    with result.checkpoint.as_directory() as folder:
        return load_checkpoint(folder)


def _followed(call: Callable[[], Any], look: Callable[[], Any]) -> Any:
    """``call()`` in a thread of its own, with ``look()`` now and then in this one, which Ctrl-C interrupts."""
    answer: dict[str, Any] = {}

    def run() -> None:
        try:
            answer["value"] = call()
        except BaseException as error:
            answer["error"] = error

    thread = threading.Thread(target=run, daemon=True, name="fit")
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        look()
    if "error" in answer:
        raise _failure(answer["error"]) from None
    return answer["value"]


def _on_rank(given: dict[str, Any]) -> None:
    """Runs in the worker: its failure becomes a StageError there, where its traceback still is."""
    import torch

    from cnn_core.devices import keep_memory

    torch.set_num_threads(given["threads"])
    keep_memory()
    rank = Rank(given["board"])
    try:
        given["work"](given["config"], rank)
    except Exception as error:
        kind, message = classify(error)
        if kind == "bug":
            rank.send(traceback=traceback.format_exc())
        raise StageError(message, kind) from None


def _failure(error: BaseException) -> BaseException:
    """The StageError for what `TorchTrainer.fit` raised.

    When one rank fails the others often fail too, having lost it: so a sentence for the user goes first, then a death.
    """
    from ray.exceptions import OutOfMemoryError
    from ray.train import ControllerError, WorkerGroupError

    if isinstance(error, WorkerGroupError):
        failures = list(error.worker_failures.values())
        told = [failure for failure in failures if isinstance(failure, StageError)]
        for kind in ("user", "oom"):
            if found := [failure for failure in told if failure.kind == kind]:
                return found[0]
        died = [failure for failure in failures if not isinstance(failure, StageError)]
        if any(isinstance(f, OutOfMemoryError) or "running low on memory" in str(f) for f in died):  # Ray's monitor
            return StageError("a training worker ran out of memory. Lower micro_batch in runtime.yaml", "oom")
        if died or any("onnection" in failure.message for failure in told):
            return StageError("a training worker died (killed, or its machine was lost)", "transient")
        return told[0]
    if isinstance(error, ControllerError):
        return StageError(f"Ray could not start the training: {first_line(error.controller_failure)}", "transient")
    return error


def _use_gpu(runtime: Runtime) -> bool:
    import ray

    have = int(ray.cluster_resources().get("GPU", 0))
    if runtime.use_gpu is True and have < runtime.num_workers:
        raise ValueError(
            f"use_gpu is true for {runtime.num_workers} workers but Ray has {have} GPUs; set use_gpu to auto or false, "
            "or lower num_workers, in runtime.yaml"
        )
    return runtime.use_gpu is not False and have >= runtime.num_workers
