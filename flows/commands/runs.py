"""`gridflow run`, `retrain` and `batch`, which start a flow, and `ui`, which serves them."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from flows.commands.options import Background, Drift, ModelName, Overrides, Recipe, Revision, checkout

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


class StepName(enum.StrEnum):
    DETECT = "detect"
    SEGMENT = "segment"
    CLASSIFY = "classify"


def run(
    stages: Annotated[
        list[str] | None, typer.Argument(metavar="STAGE", help="Stages to run, with all that they need. [all]")
    ] = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Work in a git worktree and keep the result as a DVC experiment.")
    ] = False,
    revision: Revision = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The experiment's name (with --isolated).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check parameters and inputs, run nothing.")] = False,
) -> None:
    """Run the pipeline: the stages of dvc.yaml that are stale.

    A recipe and --set change params.yaml first, as `dvc exp run -S` does. A run that is refused changes nothing.
    """
    if (revision or name) and not isolated:
        raise typer.BadParameter("--revision and --name are options of an isolated run: add --isolated")
    from flows.execution.prepare import RunRequest
    from flows.pipeline import run_pipeline

    with checkout(2):
        request = RunRequest(stages=tuple(stages or ()), recipe=recipe, overrides=tuple(overrides or ()))
        code = run_pipeline(request, isolated=isolated, revision=revision, name=name, check_only=check)
    raise typer.Exit(code)


def retrain(
    model: ModelName,
    recipe: Recipe = None,
    overrides: Overrides = None,
    revision: Revision = None,
    inbox: Annotated[str | None, typer.Option(metavar="FOLDER", help="New data. [data/inbox/SET]")] = None,
    drift: Drift = "warn",
    background: Background = False,
    margin: Annotated[float, typer.Option(min=0, max=1, help="By how much the challenger has to be better.")] = 0.0,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="What the p-value may be at most.")] = 0.05,
    class_bound: Annotated[
        float, typer.Option(min=0, max=1, help="By how much it may be worse in a single class.")
    ] = 0.05,
    unseen: Annotated[bool, typer.Option("--unseen", help="Compare also on images newer than the champion.")] = False,
    approve: Annotated[bool, typer.Option("--approve", help="Ask a person in the UI before a promotion.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Train and compare although nothing is new.")] = False,
) -> None:
    """Take in new data, train, and promote only what is better.

    The challenger becomes the champion only if it is better than it on the same test images.
    """
    from flows.retrain import retrain as retrain_flow

    _run_flow(
        retrain_flow,
        model=model,
        recipe=recipe,
        overrides=overrides,
        revision=revision,
        inbox=inbox,
        drift=drift,
        background=background,
        margin=margin,
        alpha=alpha,
        class_bound=class_bound,
        unseen=unseen,
        approve=approve,
        force=force,
    )


def batch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder or .zip of images.")],
    steps: Annotated[
        list[StepName] | None,
        typer.Option("--step", help="What to do; may be repeated. [detect, classify]"),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="The model for a step; may be repeated. [the only one]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The results. [data/batch/RUN]")] = None,
    overrides: Overrides = None,
    revision: Revision = None,
) -> None:
    """Send a folder of images through the champions."""
    from flows.batch import batch as batch_flow

    _run_flow(
        batch_flow,
        folder=str(folder.resolve()),
        steps=[str(step) for step in steps] if steps else None,
        models=models,
        output=str(out.resolve()) if out else None,
        overrides=overrides,
        revision=revision,
    )


def ui(
    port: Annotated[
        int | None, typer.Option(help="The port of the server that is started when none answers. [4200]")
    ] = None,
) -> None:
    """Start the Prefect UI and serve the deployments."""
    from flows.deploy import PORT, serve_deployments

    with checkout(1, RuntimeError):
        serve_deployments(port or PORT)


def _run_flow(flow: Callable[..., State[Any]], **parameters: Any) -> NoReturn:
    """Run a flow at the checkout's root, print how it ended, and exit."""
    from prefect.exceptions import ParameterTypeError

    from flows.ui.terminal import run_flow

    with checkout(2, ParameterTypeError) as root:
        os.chdir(root)
        state = run_flow(lambda: flow(**parameters, return_state=True))
    print(state.message)
    raise typer.Exit(0 if state.is_completed() else 1)
