"""Ray for a stage: one that the stage starts and ends, or a running cluster, whose nodes share folders."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cnn_core.locks import HOLD, TEMPORARY, temporary_folder
from tasks.engine.environment import ALLOCATOR, THREADS
from tasks.engine.events import ROOT, StageError, emit, log
from tasks.engine.runtime import Runtime, available_cores

OBJECT_STORE_BYTES = 100 * 2**20  # the data go by files, so the store is nearly empty ...
STREAMING_STORE_BYTES = 500 * 2**20  # ... unless they are streamed
WAIT_FOR_NODES_S = 600  # until a cluster has the cores for the fewest workers (again)
ANSWER_S = 60  # a node that does not answer for this long is lost
LONGEST_FOLDER = 43  # characters of Ray's folder: its sockets add 64, and the system allows a socket's path 107
CONNECT_S = 10  # until a cluster's address must have answered
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, section 3.4
QUIET: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
CODE = {"working_dir": str(ROOT), "excludes": ["/data/", "/.venv/", "/.git/", "/.dvc/", "/.gridflow/"]}

# Ray reads these when it is imported or started.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # its default makes every fit 3 s longer
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # of one that lives but does not answer (default: 10 minutes)
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_worker_niceness": "0",  # its default is 15: any other process would go first
    **THREADS,
    **ALLOCATOR,
}


@contextlib.contextmanager
def ray_cluster(runtime: Runtime) -> Iterator[None]:
    """Start a Ray and end it after the block, or connect to the one at ``runtime.ray_address``.

    Raises:
        StageError: no Ray answers at the address (transient).
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray

    with contextlib.ExitStack() as ended:
        # Without its own processes Ray may end this one, at the start and at the shutdown too.
        emit("ray", running=True)
        ended.callback(emit, "ray", running=False)
        if runtime.ray_address:
            ended.callback(ray.shutdown)
            _connect(runtime)
        else:
            folder = _folder(ended)
            ended.callback(ray.shutdown)
            _start(runtime, folder)
        yield


def _start(runtime: Runtime, folder: Path) -> None:
    """Start a Ray of this stage's own, whose workers import the code of this checkout."""
    import ray

    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        with _environment(PYTHONPATH=path):
            ray.init(
                address="local",
                # One more than the workers take, unless an elastic training would take it too.
                num_cpus=max(available_cores(), runtime.num_workers[0] * runtime.cpus()) + (not runtime.elastic),
                include_dashboard=False,
                object_store_memory=STREAMING_STORE_BYTES if runtime.feed == "streamed" else OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                **QUIET,
            )
    except Exception as error:  # Ray names no kind: a timeout on a busy machine, a process that was killed
        raise StageError(f"Ray did not start on this machine: {first_line(error)}", "transient") from error


def _folder(ended: contextlib.ExitStack) -> Path:
    """A folder for Ray's session that no other process has, as stages run side by side: the stage's, or a new one."""
    folder = Path(tempfile.gettempdir())
    if (folder / HOLD).exists() and len(str(folder)) <= LONGEST_FOLDER:
        return folder
    name = len(f"/{TEMPORARY}12345678")
    return ended.enter_context(temporary_folder(folder if len(str(folder)) + name <= LONGEST_FOLDER else Path("/tmp")))


def _connect(runtime: Runtime) -> None:
    """Connect to a running cluster, whose workers get a copy of this checkout's code."""
    import ray

    address = runtime.ray_address
    try:
        if (host_and_port := urlsplit(address if "://" in address else f"//{address}")).port:
            # Whatever speaks HTTP/2, as gRPC does, answers its preface. Ray itself would try for eight minutes.
            with socket.create_connection((host_and_port.hostname, host_and_port.port), timeout=CONNECT_S) as probe:
                probe.sendall(HTTP2_PREFACE)
                probe.recv(1)
        ray.init(address=address, runtime_env=CODE, **QUIET)
    except (OSError, RuntimeError) as error:
        raise StageError(
            f"no Ray cluster answers at {address} (ray_address in runtime.yaml, or RAY_ADDRESS): {first_line(error)}. "
            "One that asks for a token (as `ray start` makes it) needs RAY_AUTH_MODE=token and the token on this side "
            "too",
            "transient",
        ) from None


def node_cores() -> list[int]:
    import ray

    return [int(n["Resources"]["CPU"]) for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= 1]


def wait_for_room(runtime: Runtime, cpus: int) -> None:
    """Wait until the nodes of a running cluster together have the cores for the fewest workers.

    Raises:
        StageError: they still have not after ten minutes (transient).
    """
    least, start, logged = runtime.num_workers[0], time.monotonic(), False
    while (room := sum(cores // cpus for cores in node_cores())) < least:
        if time.monotonic() - start > WAIT_FOR_NODES_S:
            raise StageError(
                f"the cluster at {runtime.ray_address} has room for {room} of the {least} workers of {cpus} cores; "
                "add nodes, or lower num_workers or cpus_per_worker in runtime.yaml",
                "transient",
            )
        if not logged:
            log(f"waiting for nodes: there is room for {room} of {least} workers of {cpus} cores")
            logged = True
        time.sleep(1)


def check_shared(state: str, data: str | Path) -> None:
    """Check that every node of a running cluster sees the state folder (or URI) and the data.

    Each node reads a token in the state folder, so a node's own folder at the same path does not pass.

    Raises:
        StageError: a node does not see one of them (user), or does not answer (transient).
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
        pending = {
            node["NodeManagerAddress"] + f" ({node['NodeID'][:8]})": ray.remote(num_cpus=0)(_seen)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(state, token, str(data))
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1  # others take no workers
        }
        answers = {name: ray.get(answer, timeout=ANSWER_S) for name, answer in pending.items()}
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise StageError(f"a node of the Ray cluster does not answer: {first_line(error)}", "transient") from None
    finally:
        files.rm_file(f"{path}/{token}")
    judge_shared(answers, state, data)


def judge_shared(answers: Mapping[str, tuple[bool, bool]], state: str, data: str | Path) -> None:
    """Raise for the first node that misses a folder; ``answers``: whether it sees the state and the data."""
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
    from fsspec.core import url_to_fs

    files, path = url_to_fs(state)
    try:
        with files.open(f"{path}/{token}") as file:
            state_seen = file.read().decode() == token
    except OSError:
        state_seen = False
    return state_seen, Path(data).exists()


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
