"""Settings that change no result: ``runtime.yaml``, overridden by ``GRIDFLOW_<NAME>``."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from cnn_core.params import Params, bounded, from_mapping, read_yaml

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ".gridflow/sets"  # the last versions of the data sets, as `cnn_core.data.class_changes` remembers them
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set by git within a hook; they overrule ``git -C``
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MAPPED_SHARE = 0.5  # of the memory that the training images may take; larger sets are streamed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime(Params):
    """The keys of ``runtime.yaml``, which explains each."""

    num_workers: tuple[int, int]  # the fewest and the most; equal for a fixed number
    use_gpu: Literal["auto", True, False]
    cpus_per_worker: int = bounded(0)
    micro_batch: int = bounded(0)
    local_images: int = bounded(0)
    oom_smaller_batch: bool
    compile: bool
    feed: Literal["auto", "mapped", "streamed"]
    ray_address: str
    state: str
    pull_from: str
    push_to: str
    push_experiment_to: str
    sharing_secret: str

    def __post_init__(self) -> None:
        super().__post_init__()
        least, most = self.num_workers
        if least < 1:
            raise ValueError(f"num_workers must be at least 1, not {least}")
        if most < least:
            raise ValueError(f"num_workers is a range from the fewest to the most, not {least}-{most}")

    @property
    def elastic(self) -> bool:
        return self.num_workers[0] < self.num_workers[1]

    def cpus(self, nodes: Sequence[int] = ()) -> int:
        """The cores, and so the threads, of each worker, so that the largest allowed number of workers fits.

        Args:
            nodes: the cores of each node of a cluster; empty for this machine.
        """
        nodes = nodes or [available_cores()]
        return self.cpus_per_worker or max(1, min(nodes) // math.ceil(self.num_workers[1] / len(nodes)))

    def threads(self) -> int:
        """The threads of a process that has this machine to itself: `cpus_per_worker`, or all cores that it may use."""
        return self.cpus_per_worker or available_cores()

    def streams(self, image_bytes: int) -> bool:
        """Whether Ray Data reads training images of this size, rather than mapping them."""
        if self.feed == "auto":
            return image_bytes > MAPPED_SHARE * machine_memory()
        return self.feed == "streamed"


def load_runtime(path: str | Path = ROOT / "runtime.yaml") -> Runtime:
    """Read the settings of the file; ``GRIDFLOW_<NAME>`` in the environment replaces a value.

    Raises:
        ValueError: an unknown key or a bad value; the message says which of the two has it.
    """
    values: dict[str, Any] = dict(read_yaml(path))
    environment = {
        field.name: os.environ[f"GRIDFLOW_{field.name.upper()}"]
        for field in dataclasses.fields(Runtime)
        if os.environ.get(f"GRIDFLOW_{field.name.upper()}")
    }
    texts = {field.name for field in dataclasses.fields(Runtime) if field.type == "str"}
    from_environment = {k: v if k in texts else yaml.safe_load(v) for k, v in environment.items()}
    if "RAY_ADDRESS" in os.environ:
        from_environment["ray_address"] = os.environ["RAY_ADDRESS"]
    _checked(values, "runtime")
    return _checked(values | from_environment, "the environment's GRIDFLOW_* with runtime")


def _checked(values: Mapping[str, Any], name: str) -> Runtime:
    return from_mapping(Runtime, {**values, "num_workers": _range(values.get("num_workers"), name)}, name)


def _range(value: Any, name: str) -> tuple[int, int]:
    """Parse ``2`` or ``1-4`` into the least and the most."""
    match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", str(value).strip())
    if not match:
        raise ValueError(f"{name}.num_workers must be a whole number or a range such as 1-4, not {value!r}")
    return int(match[1]), int(match[2] or match[1])


def machine_memory() -> int:
    """Return the bytes of memory of the machine, but not more than the limits of its control groups."""
    limits = [
        _numbers(folder / name)
        for folder in _control_groups("memory")
        for name in ("memory.max", "memory.limit_in_bytes")  # version 2, version 1
    ]
    return min([psutil.virtual_memory().total, *(limit[0] for limit in limits if limit)])


def available_cores() -> int:
    """Return the cores of the process's affinity, but not more than the quotas of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _control_groups("cpu"):
        version_1 = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        for quota in (_numbers(folder / "cpu.max"), _numbers(*version_1)):
            if len(quota) == 2 and quota[0] > 0:  # -1 is no quota
                cores = min(cores, max(1, quota[0] // quota[1]))
    return cores


def _control_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups and of those around them, of version 2 and of version 1."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = GROUPS / controllers if controllers else GROUPS
        inner = top / group.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _numbers(*files: Path) -> list[int]:
    """The numbers in files of a control group; empty where one is missing or sets no limit."""
    try:
        return [int(word) for file in files for word in file.read_text().split()]
    except (OSError, ValueError):
        return []


def main_checkout(root: Path | None = None) -> Path:
    """The checkout that owns the git folder of ``root`` (default: this file's): for a worktree, its origin.

    The project may lie in a subfolder of the repository. ``root`` itself where it is no worktree, or outside git (an
    unpacked archive).
    """
    root = root or ROOT
    command = ["git", "-C", str(root), "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-prefix"]
    env = {key: value for key, value in os.environ.items() if key not in OF_A_HOOK}
    try:
        answer = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return root
    common, prefix = answer.split("\n")[:2]
    return Path(common).parent / prefix if Path(common).name == ".git" else root


def git_commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def state_folder(runtime: Runtime, root: Path | None = None) -> str:
    """Where unfinished runs of the checkout ``root`` (default: this file's) keep their state."""
    if "://" in runtime.state:
        return runtime.state.rstrip("/")
    return str((main_checkout(root) / (runtime.state or ".gridflow/state")).absolute())
