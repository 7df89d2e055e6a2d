"""What does not change a result: ``runtime.yaml``, over which ``GRIDFLOW_<NAME>`` of the environment goes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from cnn_core.params import Params, bounded, from_mapping, read_yaml

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime(Params):
    """The keys of ``runtime.yaml``, which says what each means."""

    num_workers: int = bounded(1)
    use_gpu: Literal["auto", True, False]
    cpus_per_worker: int = bounded(0)
    micro_batch: int = bounded(0)
    compile: bool
    ray_address: str
    state: str

    @property
    def cpus(self) -> int:
        """Cores, and so threads, of one worker."""
        return self.cpus_per_worker or max(1, available_cores() // self.num_workers)


def load_runtime(path: str | Path = ROOT / "runtime.yaml") -> Runtime:
    """The settings of the file, each replaced by ``GRIDFLOW_<NAME>`` where the environment has it.

    Raises:
        ValueError: an unknown key or a bad value; it says whether the file or the environment holds it.
    """
    values: dict[str, Any] = dict(read_yaml(path))
    environment = {
        field.name: os.environ[f"GRIDFLOW_{field.name.upper()}"]
        for field in dataclasses.fields(Runtime)
        if os.environ.get(f"GRIDFLOW_{field.name.upper()}")
    }
    texts = {"ray_address", "state"}
    from_environment = {k: v if k in texts else yaml.safe_load(v) for k, v in environment.items()}
    if "RAY_ADDRESS" in os.environ:
        from_environment["ray_address"] = os.environ["RAY_ADDRESS"]
    _checked(values, "runtime")
    return _checked(values | from_environment, "the environment's GRIDFLOW_* with runtime")


def _checked(values: Mapping[str, Any], name: str) -> Runtime:
    return from_mapping(Runtime, values, name)


def available_cores() -> int:
    """Cores that this process may use: its affinity, and not more than a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period))) if quota != "max" else cores
    except (OSError, ValueError):
        return cores


def main_checkout() -> Path:
    """The checkout that owns this one's git folder: of a worktree, the one that it was made from."""
    command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ROOT  # an unpacked archive
    common = Path(done.stdout.strip())
    return common.parent if common.name == ".git" else ROOT


def state_folder(runtime: Runtime) -> str:
    """Where checkpoints in progress live: an absolute path, or an fsspec URI as it was given."""
    if "://" in runtime.state:
        return runtime.state.rstrip("/")
    return str((main_checkout() / (runtime.state or ".gridflow/state")).absolute())
