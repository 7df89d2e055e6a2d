"""Training on Ray: the wiring of `TorchTrainer`.

Plain torch stands in cnn_core. What is added here: progress back to the driver, a checkpoint an epoch in the state
folder, and failures with the sentence and the kind that the code gave them. Torch and Ray are imported where they are
needed: every process that Ray starts loads this file.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.engine.cluster import first_line, node_cores, wait_for_room
from tasks.engine.events import StageError, classify, log
from tasks.engine.runtime import Runtime
from tasks.engine.state import UnfinishedRun

if TYPE_CHECKING:
    from ray.data import Dataset

WORKER_DEATHS = 2  # a training survives this many
COLLECTIVE_S = 300  # the slowest worker may be so far behind; a dead one is noticed by its closed connection, or by Ray
RESERVED_FOR_READING = 0.2  # of each worker's cores, where images are streamed: its readers need some, however few
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

    def __init__(self, board: Any, folder: str) -> None:
        from ray import train
        from ray.train.torch import get_device

        context = train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.machine = context.get_node_rank()  # which of the machines
        self.on_machine = context.get_local_rank(), context.get_local_world_size()
        self.device = get_device()
        self._board = board
        self._folder = folder  # of the run

    def send(self, **message: Any) -> None:
        """Tell the driver; it does not wait. Only rank 0 is heard."""
        if self.rank == 0:
            self._board.put.remote(message)

    def restored(self) -> dict[str, Any] | None:
        """The last checkpoint of an earlier, interrupted run, or None."""
        from ray import train

        from tasks.engine.checkpoints import load_checkpoint

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return load_checkpoint(folder)

    def report(self, metrics: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        """Keep the checkpoint that ``make`` gives; every rank calls it, rank 0 writes."""
        from ray import train

        from tasks.engine.checkpoints import save_checkpoint

        if self.rank != 0:
            train.report(metrics)
            return
        local = "://" not in self._folder
        # Where the run's folder is, a checkpoint is moved into it: AlexNet's has 0.9 GB, to be written once.
        place = {"dir": self._folder, "prefix": ".partial-", "ignore_cleanup_errors": True} if local else {}
        with tempfile.TemporaryDirectory(**place) as folder:
            save_checkpoint(folder, make())
            checkpoint = train.Checkpoint.from_directory(folder)
            train.report(metrics, checkpoint=checkpoint, checkpoint_upload_fn=self._move if local else None)

    def _move(self, checkpoint: Any, name: str) -> Any:
        from ray import train

        target = Path(self._folder, name)
        Path(checkpoint.path).rename(target)
        return train.Checkpoint.from_directory(target)


def fit(
    work: Callable[[dict[str, Any], Rank], None],
    config: dict[str, Any],
    runtime: Runtime,
    run: UnfinishedRun,
    *,
    on_message: Callable[[dict[str, Any]], None],
    datasets: Mapping[str, Dataset] | None = None,
) -> dict[str, Any]:
    """UnfinishedRun ``work(config, rank)`` on every worker by `TorchTrainer`; it goes on from what ``run`` holds.

    A worker that dies (killed, node lost) is replaced and goes on from the last checkpoint, twice; one that raises is
    not: the same would happen again. An elastic number of workers is, at each start, as many as there is room for, and
    Ray looks every minute whether there is room for more.

    Args:
        work: on each rank torch.distributed is set up, and as many threads as the rank has cores.
        config: plain values; paths absolute.
        on_message: called in this thread with every ``rank.send``.
        datasets: what `ray.train.get_dataset_shard` gives, the whole on every rank.

    Returns:
        The last checkpoint.

    Raises:
        StageError: what a worker raised, with its sentence and kind; or that it died (transient) or ran out of memory.
    """
    for deaths_left in reversed(range(WORKER_DEATHS + 1)):
        try:
            return _fit_once(work, config, runtime, run, on_message, datasets or {})
        except StageError as error:
            if error.kind != "transient" or not deaths_left:
                raise
            log(f"{error.message}; starting again from the last finished epoch")
    raise AssertionError


def _fit_once(
    work: Callable[..., None],
    config: dict[str, Any],
    runtime: Runtime,
    run: UnfinishedRun,
    on_message: Callable[[dict[str, Any]], None],
    datasets: Mapping[str, Dataset],
) -> dict[str, Any]:
    import ray
    from ray.data import ExecutionOptions
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from tasks.engine.checkpoints import load_checkpoint

    cpus = runtime.cpus(node_cores() if runtime.ray_address else ())
    if runtime.ray_address:
        wait_for_room(runtime, cpus)
    _look_at_the_nodes_again()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()  # not on a node that may be lost
    least, most = runtime.num_workers
    trainer = TorchTrainer(
        _on_rank,
        train_loop_config={"work": work, "config": config, "board": board, "threads": cpus, "tell": most > 1},
        scaling_config=ScalingConfig(
            num_workers=(least, most) if runtime.elastic else least,
            use_gpu=_use_gpu(runtime),
            resources_per_worker={"CPU": cpus - RESERVED_FOR_READING if datasets else cpus},
            placement_strategy="SPREAD",  # over the nodes, where there are several
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_S),
        datasets=dict(datasets),
        # A rank reads its own rows of the data set (streaming.py): Ray's split drops some, and ranks wait for it.
        dataset_config=DataConfig(datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)),
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


def _look_at_the_nodes_again() -> None:
    """Ray's list of the nodes, which an elastic training goes by, is up to 20 s old: one just lost is still in it."""
    import ray

    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # none counts yet
        counter = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
        ray.get(counter.get_reserved_resources.remote("", recompute=True), timeout=10)


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

    torch.set_num_threads(given["threads"])
    rank = Rank(given["board"], given["config"]["folder"])
    if given["tell"]:
        rank.send(said=f"training on {rank.world} worker{'s' * (rank.world > 1)}")
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
        if died or any("onnection" in f.message or "imed out" in f.message for f in told):
            return StageError("a training worker died (killed, or its machine was lost)", "transient")
        return told[0]
    if isinstance(error, ControllerError):
        return StageError(f"Ray could not start the training: {first_line(error.controller_failure)}", "transient")
    return error


def _use_gpu(runtime: Runtime) -> bool:
    import ray

    have, least = int(ray.cluster_resources().get("GPU", 0)), runtime.num_workers[0]
    if runtime.use_gpu is True and have < least:
        raise ValueError(
            f"use_gpu is true for {least} workers but Ray has {have} GPUs; set use_gpu to auto or false, "
            "or lower num_workers, in runtime.yaml"
        )
    return runtime.use_gpu is not False and have >= least
