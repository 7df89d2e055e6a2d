"""The task that runs one stage through DVC, publishes its results and restores its outputs after a failure."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType
from prefect.states import Completed, Failed

from flows.execution.failures import can_heal, kind_of_failure, smaller_batch
from flows.execution.output import RESTORED, follow
from flows.execution.processes import ProcessGroups, Slots
from flows.repository.graph import StageNode
from flows.repository.leftovers import end_stage
from flows.repository.outputs import remember_set
from flows.ui.artifacts import if_it_can_be_shown, publish_results
from flows.ui.lineage import describe_assets
from tasks.engine.environment import THREADS
from tasks.engine.events import FULL, full
from tasks.engine.runtime import available_cores

RESTORE_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class StageOutcome:
    cached: bool = False  # the stage did not run
    restored: bool = False  # its outputs came from DVC's cache and replaced others
    seconds: float = 0.0
    kind: str | None = None  # of a failure: user, transient, oom, bug or cancelled; None when all went well
    message: str = ""


@dataclass(kw_only=True)
class PipelineRun:
    root: Path
    folder: Path  # events, failures and logs of this run, in a folder for each stage
    isolated: bool = False  # the root is a worktree, which is removed with the run
    slots: Slots = field(default_factory=lambda: Slots(available_cores()))
    groups: ProcessGroups = field(default_factory=ProcessGroups)
    changed: set[str] = field(default_factory=set)  # stages whose outputs changed in this run (computed or restored)
    outcomes: dict[str, StageOutcome] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)  # micro-batches of stages that ran out of memory


def nothing_to_do(nodes: Sequence[StageNode], root: Path) -> PipelineRun:
    outcomes = {node.name: StageOutcome(cached=True) for node in nodes}
    return PipelineRun(root=root, folder=root / ".gridflow" / "runs", outcomes=outcomes)


@materialize(
    "dvc://gridflow",  # a placeholder: `run_nodes` gives each stage the assets of its own outputs
    by="dvc",
    name="stage",
    task_run_name="{node.name}",
    cache_policy=NO_CACHE,
    retry_condition_fn=can_heal,
    persist_result=False,
)
def run_stage(node: StageNode, run: PipelineRun) -> State:
    """Run a stage if it is stale. The state is Cached when its outputs were up to date already."""
    if not node.stale and not run.changed.intersection(node.upstream):
        run.outcomes[node.name] = StageOutcome(cached=True)
        return State(type=StateType.COMPLETED, name="Cached", message="nothing that it depends on has changed")
    with run.slots.take(node.cpus):
        try:
            outcome = execute(node, run)
        except OSError as error:
            if error.errno not in FULL:
                raise
            outcome = StageOutcome(kind="user", message=full(error))
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


def execute(node: StageNode, run: PipelineRun) -> StageOutcome:
    """Run ``dvc repro --single-item`` in a process group of its own, and follow its output and events to the end."""
    folder = run.folder / node.slug
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.json").unlink(missing_ok=True)
    (folder / "events.jsonl").unlink(missing_ok=True)
    remember_set(node, run.root)
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
        return StageOutcome(kind="cancelled", message=str(error))
    try:
        last_lines, skipped = follow(process, node, folder)
    finally:
        run.groups.forget(process)
        if process.poll() != 0:
            end_stage(folder)  # perhaps DVC alone was killed: a second copy of the stage must not meet the first
    seconds = time.monotonic() - start
    if process.returncode == 0:
        return StageOutcome(cached=bool(skipped), restored=skipped == RESTORED, seconds=seconds)
    if run.groups.ended:
        return StageOutcome(kind="cancelled", message="the run was cancelled; run it again to go on", seconds=seconds)
    kind, message = kind_of_failure(folder, process.returncode, last_lines)
    return StageOutcome(kind=kind, message=message, seconds=seconds)


def stage_environment(folder: Path) -> dict[str, str]:
    """The environment of a stage that writes its events to ``folder``: this interpreter comes first in the path."""
    return {
        **THREADS,  # stages run side by side
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "GRIDFLOW_RUN_DIR": str(folder),
        "GRIDFLOW_RUNNER_PID": str(os.getpid()),
        "DVC_NO_ANALYTICS": "1",
    }


def restore(node: StageNode, run: PipelineRun) -> None:
    """Bring back the stage's former outputs, which DVC deletes before it runs a stage."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "checkout", "--force", node.name]
    try:
        process = ProcessGroups().start(command, cwd=run.root, env=os.environ)
        process.communicate(timeout=RESTORE_TIMEOUT_S)
    except Exception as error:  # the stage's failure is what people have to see, not this one
        get_run_logger().warning("the former outputs of %s were not restored: %s", node.name, error)
