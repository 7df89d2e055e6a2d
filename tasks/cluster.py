"""A Ray for the stage: one of its own, ended with it, or a running cluster.

Quiet, without telemetry, bounded, and with workers that run this tree's code.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from tasks.events import ROOT, StageError
from tasks.runtime import Runtime, available_cores

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
    # Threads that wait for each other by spinning long are many times as slow once other work shares the cores; a short
    # spin is the compromise with not spinning at all (figures: docs/benchmarks.md). GNU's OpenMP, which torch bundles.
    "GOMP_SPINCOUNT": "10000",
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
