"""What a run says to a person: what happened, where the results lie, what is missing and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.execution.stage import PipelineRun
from flows.repository.graph import StageNode
from flows.repository.parameters import parameters_naming

# What a person wants to find, of all outputs.
RESULTS = {"data/reports": "report", "data/models": "model", "data/predictions": "predictions"}
WEIGHTS = (".pt", ".pth")  # endings of files of weights
SHOWN_FILES = 3


def counts(run: PipelineRun) -> str:
    cached = sum(outcome.cached for outcome in run.outcomes.values())
    return f"{len(run.outcomes) - cached} stages ran, {cached} were up to date"


def failures(run: PipelineRun) -> list[str]:
    """One sentence for each stage that failed."""
    return [f"{name} failed ({end.kind}): {end.message}" for name, end in run.outcomes.items() if end.kind]


def what_failed(nodes: Sequence[StageNode], run: PipelineRun) -> str:
    """Why the run is not whole, in a sentence or more; empty when it is."""
    if failed := failures(run):
        return "; ".join(failed)
    left = [node.name for node in nodes if node.name not in run.outcomes]
    return f"{', '.join(left)} did not start, and nothing says why" if left else ""


def summary(nodes: Sequence[StageNode], run: PipelineRun, experiment: str | None = None) -> str:
    """What happened, and where the results lie.

    Args:
        experiment: what the results were saved as, of an isolated run; else they lie in the checkout.
    """
    width = max([24, *(len(node.name) + 2 for node in nodes)])
    lines = ["", f"{'stage':<{width}}{'state':<14}{'seconds':>8}"]
    for node in nodes:
        end = run.outcomes.get(node.name)
        state = "not started" if end is None else "failed" if end.kind else "cached" if end.cached else "done"
        seconds = f"{end.seconds:8.1f}" if end and not end.cached else ""
        lines.append(f"{node.name:<{width}}{state:<14}{seconds}".rstrip())
    if run.isolated and not experiment:
        results = ["  none was saved; what the finished stages made is in DVC's cache, where the next run finds it"]
    else:
        results = [*(_saved(experiment) if experiment else _files(nodes, run.root)), *_accuracies(nodes, run.root)]
    return "\n".join(
        [*lines, *(f"\n{sentence}" for sentence in failures(run)), *(["", "Results:", *results] if results else [])]
    )


def _saved(experiment: str) -> list[str]:
    return [
        f"  {'experiment':<13}{experiment}",
        f"  {'':<13}`dvc exp show -A` compares it, `dvc exp apply {experiment}` puts it into the checkout",
    ]


def _files(nodes: Sequence[StageNode], root: Path) -> Iterator[str]:
    for node in nodes:
        for output in node.outputs:
            path = root / output
            kind = next((kind for folder, kind in RESULTS.items() if output.startswith(folder)), None)
            if kind is None or not path.exists():
                continue
            files = sorted(path.iterdir()) if kind != "model" and path.is_dir() else [path]
            yield from (f"  {kind:<13}{file.relative_to(root)}" for file in files[:SHOWN_FILES])


def _accuracies(nodes: Sequence[StageNode], root: Path) -> Iterator[str]:
    """How good the models are."""
    for node in nodes:
        for output in node.metrics:
            metrics = json.loads((root / output).read_text()) if (root / output).exists() else {}
            if "accuracy" in metrics:
                yield f"  {'accuracy':<13}{metrics['accuracy']:.2%} ({node.name}, {metrics.get('n', 0):,} images)"


def missing(root: Path, stage: str, path: str) -> str:
    """That an input of a stage is not there, and what to do."""
    keys = parameters_naming(root, path)
    named = f" (the parameter {keys[0]})" if keys else ""
    if path == "none":  # DVC wants a path to depend on, so a start from nothing is one too
        return (
            f"{stage} starts from random weights with data/weights/none{named}, not none. Nothing was run or deleted."
        )
    if (root / f"{path}.dvc").exists():
        return (
            f"{stage} needs {path}{named}, of which only the pointer {path}.dvc is here. `dvc checkout {path}.dvc` "
            f"brings it from DVC's cache, `dvc pull {path}.dvc` from its remote. Nothing was run or deleted."
        )
    if Path(path).suffix in WEIGHTS:
        put = f"data/weights/{Path(path).name}"
        return (
            f"{stage} needs the weights {path}{named}, which do not exist. `gridflow fetch {Path(path).name}` "
            f"gets official weights by that name; without a network put the file at {put}. Then name it with "
            f"`--set {keys[0] if keys else f'{stage}.weights'}={put}`. Nothing was run or deleted."
        )
    correct = f" or name another with `--set {keys[0]}=PATH`" if keys else ""
    return (
        f"{stage} needs {path}{named}, which does not exist. Put it there{correct}; "
        "`gridflow fetch` gets the data sets that it knows. Nothing was run or deleted."
    )


def foreign(root: Path, stage: str, path: str) -> str:
    """That files of a person's own lie where a stage would write, and what to do."""
    keys = parameters_naming(root, path)
    named = f" and name that folder with `--set {keys[0]}=PATH`" if keys else ""
    return (
        f"{path} holds files that {stage} did not make and would overwrite. Move them to another folder{named}; "
        "if they are not wanted, delete them. Nothing was run or deleted."
    )
