"""Submits the stages of a graph as Prefect tasks, and waits for them."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import allow_failure
from prefect.futures import wait

from flows.execution.failures import BACK_OFF
from flows.execution.stage import Outcome, Run, run_stage
from flows.repository.graph import StageNode
from flows.ui.lineage import assets_of, sources_of

REPORTS = "data/reports/"


def run_nodes(nodes: Sequence[StageNode], run: Run) -> None:
    """Submit every stage as a task that waits for its upstream, and wait for all of them; none outlives this call.

    Downstream of a failed stage nothing starts but reports.
    """
    try:
        futures = {}
        for node in nodes:
            task = run_stage.with_options(
                name=node.name.partition("@")[0],
                retries=node.retries,
                retry_delay_seconds=BACK_OFF(node.retries),
                assets=assets_of(node, run.root),
                asset_deps=sources_of(node),
            )
            needs = [futures[name] for name in node.upstream if name in futures]
            if any(path.startswith(REPORTS) for path in node.outputs):  # a report says itself what is missing
                needs = [allow_failure(future) for future in needs]
            futures[node.name] = task.submit(node, run, wait_for=needs)
        wait(list(futures.values()))
        for name, future in futures.items():
            state, known = future.state, run.outcomes.get(name)
            if state.is_final() and not state.is_completed() and not (known and known.kind):
                run.outcomes[name] = Outcome(kind="bug", message=f"its task broke outside the stage: {state.message}")
    finally:  # cancelled, interrupted or broken
        run.groups.end_all()
