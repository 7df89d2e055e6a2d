"""The pipeline flow: the graph of ``dvc.yaml``, each stage one task run; and its command line.

``python -m flows.pipeline [--recipe NAME] [--set key=value …] [STAGE …]``
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.graph import StageNode, find_root, missing_inputs, read_graph
from flows.processes import Slots
from flows.stage import Outcome, Run, run_stage
from flows.workspace import check_params, parameters_naming, patch_params

KEPT_RUNS = 20
# What a person wants to find, of all outputs.
RESULTS = {"data/reports": "report", "data/models": "model", "data/predictions": "predictions"}
WEIGHTS = (".pt", ".pth")  # endings of files of weights
SHOWN_FILES = 3
MAX_STAGES = 256  # threads that may wait at the same time: more than a graph has stages


@flow(
    name="pipeline",
    description="Runs the stages of dvc.yaml that are stale, each as one task.",
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_STAGES),
    persist_result=False,
)
def pipeline(
    stages: list[str] | None = None, recipe: str | None = None, overrides: list[str] | None = None
) -> State[str]:
    """Run the stages named, with all that they need.

    Args:
        stages: names from dvc.yaml, such as train@digits; none is the default run.
        recipe: a set of parameters from recipes/, written to params.yaml first.
        overrides: parameters as key=value, written to params.yaml after the recipe.
    """
    root = find_root()
    try:
        nodes = prepare(root, tuple(stages or ()), recipe, tuple(overrides or ()))
    except ValueError as error:
        return Failed(message=str(error), data=str(error))
    run = Run(root=root, folder=new_run_folder(root), slots=Slots(os.cpu_count() or 1))
    try:
        run_nodes(nodes, run)
    finally:  # cancelled, interrupted or broken: no stage outlives its flow
        run.groups.end_all()
    text = summary(nodes, run)
    failed = [
        f"{name} failed ({outcome.kind}): {outcome.message}" for name, outcome in run.outcomes.items() if outcome.kind
    ]
    return Failed(message="; ".join(failed), data=text) if failed else Completed(message=counts(run), data=text)


@functools.cache
def prepare(root: Path, stages: tuple[str, ...], recipe: str | None, overrides: tuple[str, ...]) -> list[StageNode]:
    """Patch the parameters, read the graph and check all that can be known before the first stage.

    Cached, so that the command line fails before a server is started, and the flow then checks nothing twice.

    Raises:
        ValueError: a stage, a recipe, a parameter or an input is not what it has to be; nothing has run.
    """
    changes = patch_params(root, recipe, overrides)
    if changes:
        print("params.yaml changed (`git restore params.yaml` goes back to the committed values):")
        print("\n".join(f"  {change}" for change in changes), flush=True)
    nodes = read_graph(root, stages)
    if missing := missing_inputs(root, nodes):
        raise ValueError("\n".join(_missing(root, stage, path) for stage, path in missing))
    if foreign := [(node.name, path) for node in nodes for path in node.foreign]:
        raise ValueError("\n".join(_foreign(root, stage, path) for stage, path in foreign))
    if not changes and any(node.stale for node in nodes):  # changes were checked before they were written
        check_params(root)
    return nodes


def run_nodes(nodes: Sequence[StageNode], run: Run) -> None:
    """Submit every stage as a task that waits for its upstream, and wait for all of them."""
    futures = {}
    for node in nodes:
        task = run_stage.with_options(name=node.name.partition("@")[0], retries=node.retries, retry_delay_seconds=2)
        needs = [futures[name] for name in node.upstream if name in futures]
        futures[node.name] = task.submit(node, run, wait_for=needs)
    wait(list(futures.values()))


def new_run_folder(root: Path) -> Path:
    """A folder for this run's events and failures; of the earlier ones the newest stay."""
    runs = root / ".gridflow" / "runs"
    folder = runs / str(flow_run.get_id() or "local")
    folder.mkdir(parents=True, exist_ok=True)
    old = sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_RUNS:]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return folder


def nothing_to_do(nodes: Sequence[StageNode], root: Path) -> Run:
    """The outcome of a run of stages that are all up to date."""
    run = Run(root=root, folder=root / ".gridflow" / "runs", slots=Slots(1))
    run.outcomes.update({node.name: Outcome(cached=True) for node in nodes})
    return run


def counts(run: Run) -> str:
    cached = sum(outcome.cached for outcome in run.outcomes.values())
    return f"{len(run.outcomes) - cached} stages ran, {cached} were up to date"


def failures(run: Run) -> list[str]:
    """One sentence for each stage that failed."""
    return [f"{name} failed ({end.kind}): {end.message}" for name, end in run.outcomes.items() if end.kind]


def summary(nodes: Sequence[StageNode], run: Run) -> str:
    """What happened, and where the results lie, for a person."""
    lines = ["", f"{'stage':<24}{'state':<14}{'seconds':>8}"]
    for node in nodes:
        end = run.outcomes.get(node.name)
        state = "not started" if end is None else "failed" if end.kind else "cached" if end.cached else "done"
        seconds = f"{end.seconds:8.1f}" if end and not end.cached else ""
        lines.append(f"{node.name:<24}{state:<14}{seconds}".rstrip())
    results = list(_results(nodes, run.root))
    return "\n".join(
        [*lines, *(f"\n{sentence}" for sentence in failures(run)), *(["", "Results:", *results] if results else [])]
    )


def _results(nodes: Sequence[StageNode], root: Path) -> Iterator[str]:
    """Where the results of the run lie, and how good the models are."""
    for node in nodes:
        for output in node.outputs:
            path = root / output
            kind = next((kind for folder, kind in RESULTS.items() if output.startswith(folder)), None)
            if kind is None or not path.exists():
                continue
            files = sorted(path.iterdir()) if kind != "model" and path.is_dir() else [path]
            yield from (f"  {kind:<13}{file.relative_to(root)}" for file in files[:SHOWN_FILES])
    for node in nodes:
        for output in node.metrics:
            metrics = json.loads((root / output).read_text()) if (root / output).exists() else {}
            if "accuracy" in metrics:
                yield f"  {'accuracy':<13}{metrics['accuracy']:.2%} ({node.name}, {metrics.get('n', 0):,} images)"


def _missing(root: Path, stage: str, path: str) -> str:
    keys = parameters_naming(root, path)
    named = f" (the parameter {keys[0]})" if keys else ""
    if path == "none":  # DVC wants a path to depend on, so a start from nothing is one too
        return (
            f"{stage} starts from random weights with data/weights/none{named}, not none. Nothing was run or deleted."
        )
    if Path(path).suffix in WEIGHTS:
        put = f"data/weights/{Path(path).name}"
        return (
            f"{stage} needs the weights {path}{named}, which do not exist. `python -m flows.fetch {Path(path).name}` "
            f"gets official weights by that name; without a network put the file at {put}. Then name it with "
            f"`--set {keys[0] if keys else f'{stage}.weights'}={put}`. Nothing was run or deleted."
        )
    correct = f" or name another with `--set {keys[0]}=PATH`" if keys else ""
    return (
        f"{stage} needs {path}{named}, which does not exist. Put it there{correct}; "
        "`python -m flows.fetch` gets the data sets that it knows. Nothing was run or deleted."
    )


def _foreign(root: Path, stage: str, path: str) -> str:
    keys = parameters_naming(root, path)
    named = f" and name that folder with `--set {keys[0]}=PATH`" if keys else ""
    return (
        f"{path} holds files that {stage} did not make and would overwrite. Move them to another folder{named}; "
        "if they are not wanted, delete them. Nothing was run or deleted."
    )


def main() -> int:
    """The command line; the exit code is 0 only when every stage is done."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="run these with all that they need (default: all)")
    parser.add_argument("--recipe", help="write a set of parameters from recipes/ to params.yaml first")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="write a parameter to params.yaml first, as `dvc exp run -S` does")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="check parameters and inputs, run nothing")
    arguments = parser.parse_args()
    try:
        root = find_root()
        os.chdir(root)
        nodes = prepare(root, tuple(arguments.stages), arguments.recipe, tuple(arguments.overrides))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.check:
        return 0
    if not any(node.stale for node in nodes) and get_current_settings().api.url is None:
        # To record that nothing was to be done, a temporary server would start for nobody to look at.
        print(summary(nodes, nothing_to_do(nodes, root)))
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        state = pipeline(
            stages=arguments.stages, recipe=arguments.recipe, overrides=arguments.overrides, return_state=True
        )
    except KeyboardInterrupt:
        print("\ninterrupted: every process was ended. Run the same command again to go on.", file=sys.stderr)
        return 130
    print(state.result(raise_on_failure=False))
    return 0 if state.is_completed() else 1


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
