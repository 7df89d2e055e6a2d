"""The driver's side of training on Ray: `TorchTrainer` around a stage's work, and its failures in one sentence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.engine.cluster import first_line, node_cores, wait_for_room
from tasks.engine.events import StageError, log
from tasks.engine.runtime import Runtime
from tasks.engine.state import UnfinishedRun
from tasks.engine.training_worker import Message, MessageQueue, WorkerContext, run_worker

if TYPE_CHECKING:
    from ray.data import Dataset

WORKER_DEATHS = 2  # a training survives this many
COLLECTIVE_S = 300  # the slowest worker may be so far behind; a dead one is noticed by its closed connection, or by Ray
RESERVED_FOR_READING = 0.2  # of each worker's cores, where images are streamed: its readers need some, however few
POLL_S = 0.3
# Ray's elastic scaling counts the nodes every 20 s. Before that a node just lost still counts, and Ray would wait a
# minute for workers on it.
NODE_COUNT_S = 22
Job = TypeVar("Job")


def fit(
    work: Callable[[Job, WorkerContext], None],
    job: Job,
    runtime: Runtime,
    run: UnfinishedRun,
    *,
    on_message: Callable[[Message], None],
    datasets: Mapping[str, Dataset] | None = None,
) -> dict[str, Any]:
    """Run ``work(job, context)`` on every worker by `TorchTrainer`, from the last checkpoint in ``run`` on.

    A worker that dies (killed, node lost) is replaced and continues from the last checkpoint, twice. A worker that
    raises is not replaced: the same would happen again. An elastic number of workers is, at each start, as many as
    there is room for, and Ray looks every minute whether there is room for more.

    Args:
        work: on each rank torch.distributed is set up, with as many threads as the rank has cores.
        job: a frozen dataclass that Ray pickles; its paths are absolute.
        on_message: called in this thread with every ``context.send``.
        datasets: what `ray.train.get_dataset_shard` gives, all of it on every rank.

    Returns:
        The last checkpoint.

    Raises:
        StageError: what a worker raised, with its message and kind; or that it died (transient) or ran out of memory.
    """
    for deaths_left in reversed(range(WORKER_DEATHS + 1)):
        try:
            return _fit_once(work, job, runtime, run, on_message, datasets or {})
        except StageError as error:
            if error.kind != "transient" or not deaths_left:
                raise
            log(f"{error.message}; starting again from the last finished epoch")
            if runtime.elastic and runtime.ray_address:
                time.sleep(NODE_COUNT_S)
    raise AssertionError


def _fit_once(
    work: Callable[[Job, WorkerContext], None],
    job: Job,
    runtime: Runtime,
    run: UnfinishedRun,
    on_message: Callable[[Message], None],
    datasets: Mapping[str, Dataset],
) -> dict[str, Any]:
    import ray
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from tasks.engine.checkpoints import load_checkpoint

    remove_cut_off_records(run)
    cpus = runtime.cpus(node_cores() if runtime.ray_address else ())
    if runtime.ray_address:
        wait_for_room(runtime, cpus)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(MessageQueue)
    queue = actor.options(scheduling_strategy=here).remote()  # not on a node that may be lost
    least, most = runtime.num_workers

    def train_loop() -> None:
        run_worker(work, job, queue=queue, run_folder=run.folder, threads=cpus, announce=most > 1)

    trainer = TorchTrainer(
        train_loop,
        scaling_config=ScalingConfig(
            num_workers=(least, most) if runtime.elastic else least,  # type: ignore[arg-type]  # typed as Ray Train V1
            use_gpu=_use_gpu(runtime),
            resources_per_worker={"CPU": cpus - RESERVED_FOR_READING if datasets else cpus},
            placement_strategy="SPREAD",  # over the nodes, where there are several
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_S),
        datasets=dict(datasets),
        # A rank reads its own rows of the data set (streaming.py): Ray's split drops some, and ranks wait for it.
        dataset_config=DataConfig(datasets_to_split=[]),
        run_config=RunConfig(
            name=run.name,
            storage_path=run.storage,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            # Ray would start again after any exception, a diverged loss too: `fit` decides instead.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),  # type: ignore[call-arg]  # as above
        ),
    )

    def deliver() -> None:
        for message in ray.get(queue.drain.remote()):
            on_message(message)

    result = _run_in_thread(trainer.fit, deliver)
    assert result.checkpoint is not None, "every epoch reports a checkpoint"
    with result.checkpoint.as_directory() as folder:
        return load_checkpoint(folder)


def remove_cut_off_records(run: UnfinishedRun) -> None:
    """Remove Ray's record of a run's checkpoints where a kill has cut it off.

    Ray writes it in place and cannot start from half of it, ever again. The checkpoints themselves are whole: workers
    whom Ray gives none take the newest (`WorkerContext.restored`). An object store (a URI) keeps whole files only.
    """
    for record in () if "://" in run.folder else Path(run.folder).glob("*.json"):
        try:
            json.loads(record.read_bytes())
        except ValueError:
            record.unlink()
            log(f"{record} was cut off by a kill; the newest checkpoint beside it counts")


def _run_in_thread(call: Callable[[], Any], poll: Callable[[], None]) -> Any:
    """Run ``call()`` in a thread and ``poll()`` now and then in this one, which Ctrl-C interrupts."""
    result: dict[str, Any] = {}

    def run() -> None:
        try:
            result["value"] = call()
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=run, daemon=True, name="fit")
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        poll()
    if "error" in result:
        raise _failure(result["error"]) from None
    return result["value"]


def _failure(error: BaseException) -> BaseException:
    """The StageError for what `TorchTrainer.fit` raised.

    When one rank fails the others often lose it and fail too. So a message for the user goes first, then a death.
    """
    from ray.exceptions import OutOfMemoryError
    from ray.train import ControllerError, WorkerGroupError

    if isinstance(error, WorkerGroupError):
        failures = list(error.worker_failures.values())
        raised = [failure for failure in failures if isinstance(failure, StageError)]
        for kind in ("user", "oom"):
            if of_kind := [failure for failure in raised if failure.kind == kind]:
                return of_kind[0]
        died = [failure for failure in failures if not isinstance(failure, StageError)]
        if any(isinstance(f, OutOfMemoryError) or "running low on memory" in str(f) for f in died):  # Ray's monitor
            return StageError("a training worker ran out of memory. Lower micro_batch in runtime.yaml", "oom")
        if died or any("onnection" in f.message or "imed out" in f.message for f in raised):
            return StageError("a training worker died (killed, or its machine was lost)", "transient")
        return raised[0]
    if isinstance(error, ControllerError):
        return StageError(f"Ray could not start the training: {first_line(error.controller_failure)}", "transient")
    return error


def _use_gpu(runtime: Runtime) -> bool:
    import ray

    gpus, least = int(ray.cluster_resources().get("GPU", 0)), runtime.num_workers[0]
    if runtime.use_gpu is True and gpus < least:
        raise ValueError(
            f"use_gpu is true for {least} workers but Ray has {gpus} GPUs; set use_gpu to auto or false, "
            "or lower num_workers, in runtime.yaml"
        )
    return runtime.use_gpu is not False and gpus >= least
