"""The one task: runs one stage through DVC, follows its events, publishes its metrics, restores what a failure took."""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType
from prefect.states import Completed, Failed

from flows.execution.failures import can_heal, kind_of_failure, smaller_batch
from flows.execution.processes import ProcessGroups, Slots
from flows.repository.graph import StageNode
from flows.repository.leftovers import end_stage
from flows.ui.artifacts import if_it_can_be_shown, publish_results
from flows.ui.lineage import describe_assets
from tasks.engine.environment import THREADS
from tasks.engine.events import progress_line

LOG_EVERY_S = 5.0
# What DVC tells a person at a terminal, and says nothing in a log.
NOISE = re.compile(
    r"^(> python|Generating lock file|Updating lock file|To track the changes|\s*git add|To enable auto staging|"
    r"\s*dvc config core|Use `dvc push`)"
)
UNCHANGED, RESTORED = "didn't change, skipping", "is cached - skipping run"  # of DVC


@dataclass(kw_only=True)
class Run:
    """What the stages of one flow run share."""

    root: Path
    folder: Path  # of this run: events, failures and logs, a folder a stage
    slots: Slots
    isolated: bool = False  # the root is a worktree that goes with the run
    groups: ProcessGroups = field(default_factory=ProcessGroups)
    changed: set[str] = field(default_factory=set)  # stages whose outputs are others since: made, or from the cache
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)  # micro-batches of stages that ran out of memory


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended; ``kind`` is a failure's (``user|transient|oom|bug|cancelled``), None when all went well.

    ``cached``: the stage did not run; ``restored``: its outputs came from DVC's cache in place of others.
    """

    cached: bool = False
    restored: bool = False
    seconds: float = 0.0
    kind: str | None = None
    message: str = ""


def nothing_to_do(nodes: Sequence[StageNode], root: Path) -> Run:
    """The outcome of a run of stages that are all up to date."""
    run = Run(root=root, folder=root / ".gridflow" / "runs", slots=Slots(1))
    run.outcomes.update({node.name: Outcome(cached=True) for node in nodes})
    return run


@materialize(
    "dvc://gridflow",  # in its place each stage has its own outputs
    by="dvc",
    name="stage",
    task_run_name="{node.name}",
    cache_policy=NO_CACHE,
    retry_condition_fn=can_heal,
    persist_result=False,
)
def run_stage(node: StageNode, run: Run) -> State:
    """Run one stage if it is stale; the state says Cached when its outputs already were what they have to be."""
    if not node.stale and not run.changed.intersection(node.upstream):
        run.outcomes[node.name] = Outcome(cached=True)
        return State(type=StateType.COMPLETED, name="Cached", message="nothing that it depends on has changed")
    with run.slots.take(node.cpus):
        outcome = execute(node, run)
    run.outcomes[node.name] = outcome
    if outcome.kind:
        if outcome.kind == "oom" and (smaller := smaller_batch(run.root, node, run.batches.get(node.name))):
            run.batches[node.name] = smaller
        if not run.isolated:
            restore(node, run)
        return Failed(message=f"{outcome.kind}: {outcome.message}")
    with if_it_can_be_shown(f"the results of {node.name}"):
        publish_results(node, run.root)
        describe_assets(node, run.root)
    if outcome.restored or not outcome.cached:
        run.changed.add(node.name)
    if outcome.cached:
        return State(type=StateType.COMPLETED, name="Cached", message="DVC had this result already")
    return Completed(message=f"{outcome.seconds:.1f} s")


def execute(node: StageNode, run: Run) -> Outcome:
    """``dvc repro --single-item`` in a process group of its own, its output and events followed to the end."""
    folder = run.folder / node.slug
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.json").unlink(missing_ok=True)
    (folder / "events.jsonl").unlink(missing_ok=True)
    start = time.monotonic()
    # --wait-for-lock: without it stages that end at the same time fail on the repository's lock
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", node.name]
    env = stage_environment(folder)
    if batch := run.batches.get(node.name):
        get_run_logger().info("%s is tried again with a micro-batch of %d", node.name, batch)
        env["GRIDFLOW_MICRO_BATCH"] = str(batch)
    try:
        process = run.groups.start(command, cwd=run.root, env=env)
    except InterruptedError as error:
        return Outcome(kind="cancelled", message=str(error))
    try:
        tail, said = _follow(process, node, folder)
    finally:
        run.groups.forget(process)
        if process.poll() != 0:
            end_stage(folder)  # DVC was killed alone, perhaps: a second copy must not meet the first
    seconds = time.monotonic() - start
    if process.returncode == 0:
        return Outcome(cached=bool(said), restored=RESTORED in said, seconds=seconds)
    if run.groups.ended:
        return Outcome(kind="cancelled", message="the run was cancelled; run it again to go on", seconds=seconds)
    kind, message = kind_of_failure(folder, process.returncode, tail)
    return Outcome(kind=kind, message=message, seconds=seconds)


def stage_environment(folder: Path) -> dict[str, str]:
    """The environment of a stage: this interpreter first, events to ``folder``, nobody phones home."""
    return {
        **THREADS,  # stages run side by side
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "GRIDFLOW_RUN_DIR": str(folder),
        "GRIDFLOW_RUNNER_PID": str(os.getpid()),
        "DVC_NO_ANALYTICS": "1",
    }


def restore(node: StageNode, run: Run) -> None:
    """Bring back what the stage had made before: DVC deletes the outputs before it runs a stage."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--force", node.name]
    try:
        process = ProcessGroups().start(command, cwd=run.root, env=os.environ)
        process.communicate(timeout=600)
    except Exception as error:  # the stage's own failure is the news, not this
        get_run_logger().warning("the former outputs of %s were not restored: %s", node.name, error)


def _follow(process: Popen[str], node: StageNode, folder: Path) -> tuple[list[str], str]:
    """Log the process's lines and progress until it ends; its last lines, and what DVC says where it ran nothing."""
    logger, lines, events = get_run_logger(), _lines(process), _Events(folder / "events.jsonl", node)
    tail: list[str] = []
    said = ""
    for line in lines:
        if line is not None:
            said = next((words for words in (UNCHANGED, RESTORED) if words in line), said)
            if line and not NOISE.match(line):
                logger.info(line)
                tail = [*tail[-19:], line]
        events.follow()
    events.follow(last=True)
    process.wait()
    return tail, said


def _lines(process: Popen[str]) -> Iterator[str | None]:
    """The process's lines as they come, and None at least twice a second."""
    waiting: queue.Queue[str | None] = queue.Queue()
    stdout = process.stdout
    assert stdout is not None

    def read() -> None:
        for line in stdout:
            waiting.put(line.rstrip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive() or not waiting.empty():
        # a grandchild that outlives the stage may keep the pipe open: the stage's own end is what counts
        if process.poll() is not None and waiting.empty():
            reader.join(timeout=1.0)
            if waiting.empty():
                return
        try:
            yield waiting.get(timeout=0.5)
        except queue.Empty:
            yield None


class _Events:
    """Reads a stage's events as they come: progress goes to the log and to a progress artifact."""

    def __init__(self, path: Path, node: StageNode) -> None:
        self._path, self._node, self._read, self._logged = path, node, 0, 0.0
        self._artifact: Any = None

    def follow(self, *, last: bool = False) -> None:
        if not self._path.exists():
            return
        with self._path.open() as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind("\n") + 1]
        self._read += len(whole.encode())
        steps = [event for event in map(json.loads, whole.splitlines()) if event["event"] == "progress"]
        if not steps:
            return
        done = steps[-1]["done"] == steps[-1]["total"]
        if last or done or time.monotonic() - self._logged >= LOG_EVERY_S:
            self._logged = time.monotonic()
            self._show(steps[-1])

    def _show(self, step: dict[str, Any]) -> None:
        keys = ("label", "done", "total", "unit", "eta_s", "numbers")
        line = progress_line(**{key: step[key] for key in keys})
        get_run_logger().info(line)
        if not step["total"]:
            return
        percent = 100.0 * step["done"] / step["total"]
        with if_it_can_be_shown(f"the progress of {self._node.name}"):
            if self._artifact is None:
                key = f"{self._node.slug}-progress"
                self._artifact = create_progress_artifact(percent, key=key, description=line)
            else:
                update_progress_artifact(self._artifact, percent, description=line)
