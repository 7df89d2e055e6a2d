"""The sentences of a run for a person: what happened, where the results are, what is missing and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnn_core.reporting.headlines import made_at
from flows.execution.stage import PipelineRun, StageOutcome
from flows.repository.graph import StageNode
from flows.repository.parameters import parameters_naming

# The outputs that a person looks for, and what the summary calls them.
RESULTS = {"data/reports": "report", "data/models": "model", "data/predictions": "predictions"}
WEIGHTS = (".pt", ".pth")  # suffixes of files of weights
SHOWN_FILES = 3  # of an output folder


def counts(run: PipelineRun) -> str:
    cached = sum(outcome.cached for outcome in run.outcomes.values())
    return f"{len(run.outcomes) - cached} stages ran, {cached} were up to date"


def failures(run: PipelineRun) -> list[str]:
    return [
        f"{name} failed ({outcome.kind}): {outcome.message}" for name, outcome in run.outcomes.items() if outcome.kind
    ]


def what_failed(nodes: Sequence[StageNode], run: PipelineRun) -> str:
    """Why the run is not complete, in one sentence or more; empty when it is."""
    if failed := failures(run):
        return "; ".join(failed)
    not_started = [node.name for node in nodes if node.name not in run.outcomes]
    return f"{', '.join(not_started)} did not start, and nothing says why" if not_started else ""


def former_figures(run: PipelineRun, nodes: Sequence[StageNode]) -> list[str]:
    """The stages that failed or did not start, of which the metrics of an earlier run are there, with its moment."""
    complete = {name for name, outcome in run.outcomes.items() if not outcome.kind}
    stages = [
        node
        for node in nodes
        if node.name not in complete and any((run.root / path).is_file() for path in node.metrics)
    ]
    moments = {node.name: made_at(run.root, node.name) for node in stages}
    return [f"{name} (of {moment})" if moment else name for name, moment in moments.items()]


def summary(nodes: Sequence[StageNode], run: PipelineRun, experiment: str | None = None) -> str:
    """A table of the stages, and where the results are: the checkout, or a saved ``experiment``."""
    width = max([24, *(len(node.name) + 2 for node in nodes)])
    lines = ["", f"{'stage':<{width}}{'state':<14}{'seconds':>8}"]
    for node in nodes:
        outcome = run.outcomes.get(node.name)
        seconds = f"{outcome.seconds:8.1f}" if outcome and not outcome.cached else ""
        lines.append(f"{node.name:<{width}}{_state(outcome):<14}{seconds}".rstrip())
    if run.isolated and not experiment:
        results = ["  none was saved; what the finished stages made is in DVC's cache, where the next run finds it"]
    else:
        results = [*(_saved(experiment) if experiment else _files(nodes, run.root)), *_accuracies(nodes, run.root)]
    return "\n".join(
        [*lines, *(f"\n{sentence}" for sentence in failures(run)), *(["", "Results:", *results] if results else [])]
    )


def _state(outcome: StageOutcome | None) -> str:
    if outcome is None:
        return "not started"
    if outcome.kind:
        return "failed"
    return "cached" if outcome.cached else "done"


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
    for node in nodes:
        for output in node.metrics:
            metrics = json.loads((root / output).read_text()) if (root / output).exists() else {}
            if "accuracy" in metrics:
                images = "generated images" if metrics.get("generated") is True else "images"
                yield f"  {'accuracy':<13}{metrics['accuracy']:.2%} ({node.name}, {metrics.get('n', 0):,} {images})"
            if "map" in metrics and "exact_match" in metrics:  # of several labels an image
                yield f"  {'mAP':<13}{metrics['map']:.4f} ({node.name}, {metrics.get('n', 0):,} images)"


def missing(root: Path, stage: str, path: str) -> str:
    keys = parameters_naming(root, path)
    parameter = f" (the parameter {keys[0]})" if keys else ""
    if path == "none":  # DVC needs a path to depend on, also for a start from random weights
        random = f"{stage} starts from random weights with data/weights/none{parameter}, not none"
        return f"{random}. Nothing was run or deleted."
    if (root / f"{path}.dvc").exists():
        return (
            f"{stage} needs {path}{parameter}, of which only the pointer {path}.dvc is here. `dvc checkout {path}.dvc` "
            f"brings it from DVC's cache, `dvc pull {path}.dvc` from its remote. Nothing was run or deleted."
        )
    if Path(path).suffix in WEIGHTS:
        target = f"data/weights/{Path(path).name}"
        return (
            f"{stage} needs the weights {path}{parameter}, which do not exist. `gridflow fetch {Path(path).name}` "
            f"gets official weights by that name; without a network put the file at {target}. Then name it with "
            f"`--set {keys[0] if keys else f'{stage}.weights'}={target}`. Nothing was run or deleted."
        )
    if path.startswith("~") and keys:
        full = Path(path).expanduser()
        return (
            f"{stage} needs {path}{parameter}, but DVC does not know what ~ stands for: write {full} into params.yaml, "
            f"or use `--set {keys[0]}={path}`, which expands it. Nothing was run or deleted."
        )
    alternative = f" or name another with `--set {keys[0]}=PATH`" if keys else ""
    return (
        f"{stage} needs {path}{parameter}, which does not exist. Put it there{alternative}; "
        "`gridflow fetch` gets the data sets that it knows. Nothing was run or deleted."
    )


def foreign(root: Path, stage: str, path: str) -> str:
    keys = parameters_naming(root, path)
    rename = f" and name that folder with `--set {keys[0]}=PATH`" if keys else ""
    return (
        f"{path} holds files that {stage} did not make and would overwrite. Move them to another folder{rename}; "
        "if they are not wanted, delete them. Nothing was run or deleted."
    )
