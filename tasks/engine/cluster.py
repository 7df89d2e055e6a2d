"""A Ray for the stage: one of its own, ended with it, or a running cluster.

Quiet, without telemetry, bounded, and with workers that run this tree's code. Of a running cluster it is checked that
its nodes see the folders that they have to share.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.engine.environment import ALLOCATOR, THREADS
from tasks.engine.events import ROOT, StageError, log
from tasks.engine.runtime import Runtime, available_cores

OBJECT_STORE_BYTES = 100 * 2**20  # the data go by files, so there is next to nothing in it ...
STREAMING_STORE_BYTES = 500 * 2**20  # ... unless they are streamed
WAIT_FOR_NODES_S = 600  # for a cluster to have room (again) for the fewest workers
ANSWER_S = 60  # a node that does not answer for so long is not there

# No telemetry, no chatter, no watcher of what cannot happen here. Read by Ray when it is imported or started.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # its default makes every fit 3 s longer
    # For a worker that is there and does not answer (default: 10 minutes); a dead one Ray notices by itself.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Its workers are niced by 15 by default, so whatever else is awake goes before the training.
    "RAY_worker_niceness": "0",
    **THREADS,
    **ALLOCATOR,
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
                f"no Ray cluster answers at {runtime.ray_address}: {first_line(error)}. One that asks for a token (as "
                "`ray start` makes it) needs RAY_AUTH_MODE=token and the token on this side too",
                "transient",
            ) from None
    else:
        # A folder of its own: stages start their Rays side by side. Short, for the sockets in it have 107 characters.
        usual = tempfile.gettempdir()
        folder = tempfile.mkdtemp(prefix="gridflow-", dir=usual if len(usual) < 40 else "/tmp")
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with _environment(PYTHONPATH=path):
            ray.init(
                address="local",
                # One more than the workers take; not where they would grow into it.
                num_cpus=max(available_cores(), runtime.num_workers[0] * runtime.cpus()) + (not runtime.elastic),
                include_dashboard=False,
                object_store_memory=STREAMING_STORE_BYTES if runtime.feed == "streamed" else OBJECT_STORE_BYTES,
                _temp_dir=folder,
                **quiet,
            )
    try:
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def node_cores() -> list[int]:
    """The CPUs of each living node that has any."""
    import ray

    return [int(n["Resources"]["CPU"]) for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]


def wait_for_room(runtime: Runtime, cpus: int) -> None:
    """Wait until the nodes of a running cluster have, all in all, the cores for the fewest workers.

    Raises:
        StageError: they have not, after ten minutes (transient).
    """
    least, began, told = runtime.num_workers[0], time.monotonic(), False
    while (room := sum(cores // cpus for cores in node_cores())) < least:
        if time.monotonic() - began > WAIT_FOR_NODES_S:
            raise StageError(
                f"the cluster at {runtime.ray_address} has room for {room} of the {least} workers of {cpus} cores; "
                "add nodes, or lower num_workers or cpus_per_worker in runtime.yaml",
                "transient",
            )
        if not told:
            log(f"waiting for nodes: there is room for {room} of {least} workers of {cpus} cores")
            told = True
        time.sleep(1)


def check_shared(state: str, data: str | Path) -> None:
    """See that every node of a running cluster sees the state folder (or URI) and the data folder.

    The driver writes a token into the state folder and each node reads it: one of its own at the same path is none.

    Raises:
        StageError: one of them does not (user); or a node does not answer (transient).
    """
    import ray
    from fsspec.core import url_to_fs
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    files, path = url_to_fs(state)
    files.makedirs(path, exist_ok=True)
    token = f"token-{secrets.token_hex(8)}"
    with files.open(f"{path}/{token}", "w") as file:
        file.write(token)
    try:
        asked = {
            node["NodeManagerAddress"] + f" ({node['NodeID'][:8]})": ray.remote(num_cpus=0)(_seen)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(state, token, str(data))
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1  # others take no workers
        }
        answers = {name: ray.get(answer, timeout=ANSWER_S) for name, answer in asked.items()}
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise StageError(f"a node of the Ray cluster does not answer: {first_line(error)}", "transient") from None
    finally:
        files.rm_file(f"{path}/{token}")
    judge_shared(answers, state, data)


def judge_shared(answers: Mapping[str, tuple[bool, bool]], state: str, data: str | Path) -> None:
    """``answers``: of each node, whether it sees the state and the data."""
    for node, (state_seen, data_seen) in answers.items():
        if not state_seen:
            raise StageError(
                f"node {node} of the Ray cluster does not see the state folder {state}; set `state` in runtime.yaml to "
                "a folder that all nodes share, or to a URI"
            )
        if not data_seen:
            raise StageError(
                f"node {node} of the Ray cluster does not see the data folder {data}; run from a checkout on a path "
                "that all nodes share"
            )


def _seen(state: str, token: str, data: str) -> tuple[bool, bool]:
    """Runs on a node."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(state)
    try:
        with files.open(f"{path}/{token}") as file:
            seen = file.read().decode() == token
    except OSError:
        seen = False
    return seen, (Path(data) / "dataset.json").is_file()


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)
