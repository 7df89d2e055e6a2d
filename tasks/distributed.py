"""Ray: a cluster of its own for the stage (or a running one), and the wiring of `TorchTrainer`.

Plain torch stands in cnn_core. What is added here: workers that run this tree's code, progress back to the driver, a
checkpoint an epoch in the state folder, and failures with the sentence and the kind that the code gave them. Torch and
Ray are imported where they are needed: every process that Ray starts loads this file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from tasks.events import ROOT, StageError, classify, log
from tasks.runtime import Runtime, available_cores
from tasks.state import Run

WORKER_DEATHS = 2  # a training survives this many
POLL_S = 0.3
OBJECT_STORE_BYTES = 100 * 2**20  # the data go by files, so there is next to nothing in it

# No telemetry, no chatter, no watcher of what cannot happen here. Read by Ray when it is imported or started.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # its default makes every fit 3 s longer
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Two threads that wait for each other by spinning are twenty times as slow once other work shares the cores.
    "OMP_WAIT_POLICY": "PASSIVE",
}


@contextlib.contextmanager
def ray_cluster(runtime: Runtime) -> Iterator[None]:
    """A Ray to work with, ended afterwards; ``runtime.ray_address`` names a running one to connect to instead.

    Raises:
        StageError: no Ray answers at the address (transient).
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray

    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if runtime.ray_address:
        folder = None
        code = {"working_dir": str(ROOT), "excludes": ["/data/", "/.venv/", "/.git/", "/.dvc/", "/.gridflow/"]}
        try:
            ray.init(address=runtime.ray_address, runtime_env=code, **quiet)
        except ConnectionError as error:
            raise StageError(
                f"no Ray cluster answers at {runtime.ray_address}: {_first_line(error)}. One that asks for a token (as "
                "`ray start` makes it) needs RAY_AUTH_MODE=token and the token on this side too",
                "transient",
            ) from None
    else:
        # A folder of its own: stages start their Rays side by side. Short, for the sockets in it have 107 characters.
        usual = tempfile.gettempdir()
        folder = tempfile.mkdtemp(prefix="gridflow-", dir=usual if len(usual) < 40 else "/tmp")
        with _environment(PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))):
            ray.init(
                address="local",
                num_cpus=max(available_cores(), runtime.num_workers * runtime.cpus) + 1,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=folder,
                **quiet,
            )
    try:
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


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

    torch.set_num_threads(given["threads"])
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
        return StageError(f"Ray could not start the training: {_first_line(error.controller_failure)}", "transient")
    return error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _use_gpu(runtime: Runtime) -> bool:
    import ray

    have = int(ray.cluster_resources().get("GPU", 0))
    if runtime.use_gpu is True and have < runtime.num_workers:
        raise ValueError(
            f"use_gpu is true for {runtime.num_workers} workers but Ray has {have} GPUs; set use_gpu to auto or false, "
            "or lower num_workers, in runtime.yaml"
        )
    return runtime.use_gpu is not False and have >= runtime.num_workers


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
