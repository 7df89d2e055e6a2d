"""Run the stages of a graph as Prefect tasks, in the checkout or in a worktree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import allow_failure, get_run_logger
from prefect.assets import Asset
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.execution.failures import BACK_OFF
from flows.execution.messages import what_failed
from flows.execution.prepare import RunRequest, prepare_workspace
from flows.execution.sharing import pull, share
from flows.execution.stage import PipelineRun, StageOutcome, run_stage
from flows.execution.suspension import ended_by_suspension
from flows.repository.git import experiment_of
from flows.repository.graph import StageNode
from flows.repository.leftovers import new_run_folder
from flows.repository.workspace import Workspace
from flows.ui.artifacts import if_it_can_be_shown
from flows.ui.lineage import assets_of, publish_lineage, sources_of

REPORTS = "data/reports/"
MAX_STAGES = 256  # threads that may wait at the same time: more than a graph has stages


def stage_threads() -> TaskRunner[Any]:
    return ThreadPoolTaskRunner(max_workers=MAX_STAGES)


def run_nodes(nodes: Sequence[StageNode], run: PipelineRun) -> None:
    """Submit every stage as a task that waits for its upstream, and wait for all of them.

    After a failure, only report stages downstream still run. No process of a stage outlives this call.

    Raises:
        Pause: a person has suspended the run.
    """
    try:
        with ended_by_suspension(run.groups):
            _run_nodes(nodes, run)
    finally:  # cancelled, interrupted or broken
        run.groups.end_all()


def _run_nodes(nodes: Sequence[StageNode], run: PipelineRun) -> None:
    futures: dict[str, PrefectFuture[Any]] = {}
    for node in nodes:
        sources: list[Asset | str] = [*sources_of(node)]
        task = run_stage.with_options(
            name=node.name.partition("@")[0],
            retries=node.retries,
            retry_delay_seconds=BACK_OFF(node.retries),
            assets=assets_of(node, run.root),
            asset_deps=sources,
        )
        needs: list[Any] = [futures[name] for name in node.upstream if name in futures]
        if any(path.startswith(REPORTS) for path in node.outputs):  # a report says itself what is missing
            needs = [allow_failure(future) for future in needs]
        # Quoted: Prefect would look for futures in what other stages write to at the same time, and break on it.
        futures[node.name] = task.submit(quote(node), quote(run), wait_for=needs, return_state=False)
    wait(list(futures.values()))
    for name, future in futures.items():
        state, outcome = future.state, run.outcomes.get(name)
        if state.is_final() and not state.is_completed() and not (outcome and outcome.kind):
            message = f"its task broke outside the stage: {state.message}"
            run.outcomes[name] = StageOutcome(kind="bug", message=message)


class StagesFailed(Exception):  # noqa: N818 - what happened, in the words of a message
    """One or more stages failed; the message has a sentence for each."""


def run_in_worktree(
    worktree: Workspace, request: RunRequest, name: str | None = None
) -> tuple[list[StageNode], PipelineRun]:
    """Bring stages and all that they need up to date in a worktree; the stages, upstream first, and how they ended.

    Args:
        name: of the experiment that is to be saved, where a person chose one.

    Raises:
        ValueError: a stage, a parameter or an input is not what it has to be, or another experiment has the name;
            nothing has run.
    """
    pull(worktree.root, request.stages)
    nodes = prepare_workspace(worktree, request, say=get_run_logger().info)
    if name:
        worktree.check_name(name)
    run = PipelineRun(root=worktree.root, folder=new_run_folder(worktree.checkout), isolated=True)
    run_nodes(nodes, run)
    return nodes, run


def run_stages(
    worktree: Workspace, stages: Sequence[str], recipe: str | None, overrides: Sequence[str]
) -> list[StageNode]:
    """As `run_in_worktree`, for a flow that goes on with the results.

    Raises:
        StagesFailed: a stage failed.
        ValueError: as `run_in_worktree`.
    """
    request = RunRequest(stages=tuple(stages), recipe=recipe, overrides=tuple(overrides))
    nodes, run = run_in_worktree(worktree, request)
    if sentence := what_failed(nodes, run):
        raise StagesFailed(sentence)
    with if_it_can_be_shown("the lineage"):
        publish_lineage(nodes, worktree.root)
    return nodes


def save_and_share(worktree: Workspace, name: str, nodes: Sequence[StageNode]) -> str:
    """Save the stages' results as a DVC experiment, and send it to the remotes that runtime.yaml names.

    A transfer that fails is a warning: the experiment is kept here. Returns its commit.
    """
    commit = worktree.save(name, [node.name for node in nodes])
    if warning := share(worktree.root, nodes, experiment_of(worktree.checkout, commit)):
        get_run_logger().warning(warning)
    return commit
