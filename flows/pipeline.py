"""The pipeline flow: the graph of ``dvc.yaml``, each stage one task run."""

import os
import sys

if __name__ == "__main__":  # here, because the imports below take seconds, which the command would pay twice
    os.execv(sys.executable, [sys.executable, "-m", "flows.cli", "run", *sys.argv[1:]])

import dataclasses
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

import httpx
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed

from flows.execution.failures import full_disk_is_said
from flows.execution.messages import counts, former_figures, summary, what_failed
from flows.execution.prepare import RunRequest, prepare, prepare_workspace
from flows.execution.sharing import check_sharing, share
from flows.execution.stage import PipelineRun, nothing_to_do
from flows.execution.stages import run_in_worktree, run_nodes, stage_threads
from flows.repository.git import experiment_of
from flows.repository.graph import StageNode, find_root
from flows.repository.leftovers import clear_leftovers, new_run_folder
from flows.repository.workspace import uncommitted, workspace
from flows.ui import notify
from flows.ui.artifacts import if_it_can_be_shown, publish_summary
from flows.ui.forms import NO_VALUES, NOTHING, Empty, Override, Recipe, Text, Values
from flows.ui.lineage import publish_lineage
from flows.ui.terminal import end_without_server, run_flow
from tasks.engine.runtime import load_runtime

SHOWN_FILES = 5  # uncommitted files that a message names


@dataclasses.dataclass
class TerminalRun:
    """A run that a person started at a terminal."""

    nodes: list[StageNode] | None = None  # what was prepared before Prefect starts
    code: int | None = None  # the exit code, once the table of the stages was printed


# Of a run by `run_pipeline`; no parameter of the flow, because Prefect stores and shows parameters.
_TERMINAL: ContextVar[TerminalRun | None] = ContextVar("terminal", default=None)


@flow(
    name="pipeline",
    description="Runs the stages of dvc.yaml that are stale, each as one task.",
    task_runner=stage_threads(),
    persist_result=False,
    on_failure=[notify.failed],
    on_crashed=[notify.failed],
)
def pipeline(
    stages: list[Text] | Empty = NOTHING,
    recipe: Recipe | Empty = "",
    values: Values | Empty = NO_VALUES,
    overrides: list[Override] | None = None,
    isolated: bool | None = None,
    revision: str | Empty = "",
    name: str | Empty = "",
) -> State[str]:
    """Run stages of dvc.yaml, with all that they need.

    Args:
        stages: names from dvc.yaml, such as train@digits; empty: the default run.
        recipe: a set of parameters from recipes/, written to params.yaml first.
        values: the parameters that people change most, written over the recipe's.
        overrides: other parameters as key=value, such as train.digits.seed=1, written last. The grammar is that of
            `dvc exp run -S`.
        isolated: work in a git worktree and keep the result as a DVC experiment, so that the checkout stays as it is.
            Empty: yes for a run of a deployment, no for the command line.
        revision: the commit, branch, tag or experiment that an isolated run works at; empty: the checkout's commit.
        name: the experiment's name; empty: the flow run's.
    """
    settings = (*(values.overrides() if values else ()), *(overrides or ()))
    root, request = find_root(), RunRequest(stages=tuple(stages or ()), recipe=recipe or None, overrides=settings)
    try:
        with full_disk_is_said():
            check_sharing(root)
            if isolated or (isolated is None and deployment.get_id()):
                return _run_isolated(root, request, revision=revision or None, name=name or None)
            terminal = _TERMINAL.get()
            nodes = prepare(root, request) if terminal is None or terminal.nodes is None else terminal.nodes
            run = PipelineRun(root=root, folder=new_run_folder(root))
    except ValueError as error:
        return Failed(message=str(error), data=str(error))
    run_nodes(nodes, run)
    return _end(run, nodes)


def _run_isolated(root: Path, request: RunRequest, *, revision: str | None, name: str | None) -> State[str]:
    logger = get_run_logger()
    for sentence in clear_leftovers(root):
        logger.info(sentence)
    with workspace(root, name=name or flow_run.get_name() or "run", revision=revision or "HEAD") as worktree:
        logger.info("works at the commit %s in %s", worktree.rev[:10], worktree.root.relative_to(root))
        if not revision and (changed := uncommitted(root)):
            names = ", ".join(changed[:SHOWN_FILES]) + (" …" if len(changed) > SHOWN_FILES else "")
            logger.info("only what is committed runs here; these %d files are not: %s", len(changed), names)
        nodes, run = run_in_worktree(worktree, request, name)
        if what_failed(nodes, run):
            return _end(run, nodes)
        commit = worktree.save(name, [node.name for node in nodes])
        return _end(run, nodes, experiment_of(root, commit))


def _end(run: PipelineRun, nodes: Sequence[StageNode], experiment: str | None = None) -> State[str]:
    """Share and show the results of a run; the flow's last state, with a text for a person."""
    text, failed = summary(nodes, run, experiment), what_failed(nodes, run)
    if not_shared := "" if failed else share(run.root, nodes, experiment):
        text += f"\n{not_shared}"
    with if_it_can_be_shown("the run's page"):
        from flows.comparison.run_page import publish_page  # SciPy's import takes a second: not in the UI's worker

        if page := publish_page(run, nodes, experiment):
            text += f"\n  {'this run':<13}{page}"
    if terminal := _TERMINAL.get():
        terminal.code = 1 if failed else 0
        print(text, flush=True)
        end_without_server(terminal.code)
    with if_it_can_be_shown("the summary"):
        publish_summary(text, run.root, nodes, experiment, former=former_figures(run, nodes))
        publish_lineage(nodes, run.root, experiment)
    if failed:
        return Failed(message=failed, data=text)
    message = "; ".join(filter(None, [counts(run), f"experiment {experiment}" if experiment else "", not_shared]))
    name = "NotShared" if not_shared else None  # a completed run: nothing of it is lost
    return Completed(name=name, message=message, data=text)


def run_pipeline(
    request: RunRequest,
    *,
    isolated: bool = False,
    revision: str | None = None,
    name: str | None = None,
    check_only: bool = False,
) -> int:
    """Run the pipeline for a person at a terminal, or with ``check_only`` check what can be checked before a run.

    Returns:
        The exit code: 0 when every stage is done, 1 when not, 130 after an interruption.

    Raises:
        ValueError: the request cannot be run as it stands; nothing has run.
    """
    root = find_root()
    os.chdir(root)
    terminal = TerminalRun()
    if isolated:
        if check_only:
            with workspace(root, name="check", revision=revision or "HEAD") as worktree:
                prepare_workspace(worktree, request)
            return 0
    else:
        terminal.nodes = prepare(root, request)  # a fault is found here, before a server is started
        if check_only:
            return 0
        if not _needs_a_flow(terminal.nodes):
            print(summary(terminal.nodes, nothing_to_do(terminal.nodes, root)))
            return 0
    options = {**dataclasses.asdict(request), "isolated": isolated, "revision": revision, "name": name}
    token = _TERMINAL.set(terminal)
    try:
        state = run_flow(lambda: pipeline(**options, return_state=True))
        if terminal.code is None:
            print(state.result(raise_on_failure=False))
    except httpx.HTTPError:  # the server went away: it was said with the table
        if terminal.code is None:
            raise
    finally:
        _TERMINAL.reset(token)
    return 1 if terminal.code is None else terminal.code


def _needs_a_flow(nodes: Sequence[StageNode]) -> bool:
    """Whether there is anything to do; else a temporary server would start for nobody to look at."""
    return (
        any(node.stale for node in nodes) or get_current_settings().api.url is not None or bool(load_runtime().push_to)
    )
