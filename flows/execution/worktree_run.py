"""Run stages in a worktree from within another flow, as task runs of that flow."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import get_run_logger

from flows.execution.messages import what_failed
from flows.execution.prepare import RunRequest, prepare_workspace
from flows.execution.sharing import pull, share
from flows.execution.stage import PipelineRun
from flows.execution.stages import run_nodes
from flows.repository.git import experiment_of
from flows.repository.graph import StageNode
from flows.repository.leftovers import new_run_folder
from flows.repository.workspace import Workspace
from flows.ui.artifacts import if_it_can_be_shown
from flows.ui.lineage import publish_lineage


class StagesFailed(Exception):  # noqa: N818 - what happened, in the words of a message
    """One or more stages failed; the message has a sentence for each."""


def run_stages(
    worktree: Workspace, stages: Sequence[str], recipe: str | None, overrides: Sequence[str]
) -> list[StageNode]:
    """Bring stages and all that they need up to date in a worktree.

    Returns:
        The stages of the run, upstream first.

    Raises:
        StagesFailed: a stage failed.
        ValueError: a stage, a parameter or an input is not what it has to be; nothing has run.
    """
    request = RunRequest(stages=tuple(stages), recipe=recipe, overrides=tuple(overrides))
    pull(worktree.root, request.stages)
    nodes = prepare_workspace(worktree, request, say=get_run_logger().info)
    run = PipelineRun(root=worktree.root, folder=new_run_folder(worktree.checkout), isolated=True)
    run_nodes(nodes, run)
    if sentence := what_failed(nodes, run):
        raise StagesFailed(sentence)
    with if_it_can_be_shown("the lineage"):
        publish_lineage(nodes, worktree.root)
    return nodes


def save_and_share(worktree: Workspace, name: str, nodes: Sequence[StageNode]) -> str:
    """Save the stages' results as a DVC experiment, and send it to the remotes that runtime.yaml names.

    A transfer that fails is a warning: the experiment is kept here.

    Returns:
        The experiment's commit.
    """
    commit = worktree.save(name, [node.name for node in nodes])
    if warning := share(worktree.root, nodes, experiment_of(worktree.checkout, commit)):
        get_run_logger().warning(warning)
    return commit
