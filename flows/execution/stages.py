"""Submit the stages of a graph as Prefect tasks, and wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import allow_failure
from prefect.assets import Asset
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.execution.failures import BACK_OFF
from flows.execution.stage import PipelineRun, StageOutcome, run_stage
from flows.repository.graph import StageNode
from flows.ui.lineage import assets_of, sources_of

REPORTS = "data/reports/"
MAX_STAGES = 256  # threads that may wait at the same time: more than a graph has stages


def stage_threads() -> TaskRunner[Any]:
    """The task runner of a flow that runs stages."""
    return ThreadPoolTaskRunner(max_workers=MAX_STAGES)


def run_nodes(nodes: Sequence[StageNode], run: PipelineRun) -> None:
    """Submit every stage as a task that waits for its upstream, and wait for all of them.

    After a failure, only report stages downstream still run. No process of a stage outlives this call.
    """
    try:
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
    finally:  # cancelled, interrupted or broken
        run.groups.end_all()
