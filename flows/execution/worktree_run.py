"""Stages run in a worktree from within another flow: as its own task runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prefect import get_run_logger

from flows.execution.messages import what_failed
from flows.execution.prepare import RunRequest, prepare_workspace
from flows.execution.processes import Slots
from flows.execution.sharing import pull, share
from flows.execution.stage import Run
from flows.execution.stages import run_nodes
from flows.repository.git import experiment_of
from flows.repository.graph import StageNode
from flows.repository.leftovers import new_run_folder
from flows.repository.workspace import Workspace
from flows.ui.artifacts import if_it_can_be_shown
from flows.ui.lineage import publish_lineage


class StagesFailed(Exception):  # noqa: N818
    """A stage failed; a sentence for each."""


def run_stages(
    place: Workspace, stages: Sequence[str], recipe: str | None, overrides: Sequence[str]
) -> list[StageNode]:
    """Bring the stages and all that they need up to date in a worktree.

    Returns:
        the stages that this took.

    Raises:
        StagesFailed: with a sentence for each that failed.
    """
    pull(place.root, stages)
    request = RunRequest(stages=tuple(stages), recipe=recipe, overrides=tuple(overrides))
    nodes = prepare_workspace(place, request, say=get_run_logger().info)
    run = Run(root=place.root, folder=new_run_folder(place.checkout), slots=Slots(os.cpu_count() or 1), isolated=True)
    run_nodes(nodes, run)
    if failed := what_failed(nodes, run):
        raise StagesFailed(failed)
    with if_it_can_be_shown("the lineage"):
        publish_lineage(nodes, place.root)
    return nodes


def save_and_share(place: Workspace, name: str, nodes: Sequence[StageNode]) -> str:
    """Save what the stages made as a DVC experiment, and send it where runtime.yaml says; its commit.

    What cannot be sent is a warning: the experiment is kept here.
    """
    commit = place.save(name, [node.name for node in nodes])
    if unshared := share(place.root, nodes, experiment_of(place.checkout, commit)):
        get_run_logger().warning(unshared)
    return commit
