"""Prepare a run: patch the parameters, read the graph, check the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.execution.failures import full_disk_is_said
from flows.execution.messages import foreign, missing
from flows.repository.graph import StageNode, missing_inputs, read_graph
from flows.repository.leftovers import clear_leftovers
from flows.repository.parameters import changed_sections, check_params, patch_params
from flows.repository.recipes import skipped
from flows.repository.workspace import Workspace, sources_of_checkout

RESULTS = {"data/metrics", "data/plots", "data/predictions", "data/raw"}  # not in git; the report reads them whole


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    stages: tuple[str, ...] = ()  # names from dvc.yaml, with all that they need; empty: the default run
    recipe: str | None = None  # a set of parameters from recipes/, written to params.yaml first
    overrides: tuple[str, ...] = ()  # such as train.digits.epochs=3, written over the recipe's


def prepare(root: Path, request: RunRequest, *, say: Callable[[str], None] = print) -> list[StageNode]:
    """Patch the checkout's parameters, read the graph, and check all that can be known before the first stage.

    Returns:
        The stages of the run, upstream first.

    Raises:
        ValueError: a stage, a recipe, a parameter or an input is not what it has to be; nothing has run.
    """
    with full_disk_is_said():
        for sentence in clear_leftovers(root):
            say(sentence)
        with _restored_when_refused(root / "params.yaml"):
            changes = patch_params(root, request.recipe, request.overrides)
            nodes = read_graph(root, request.stages)
            _check(root, nodes, changes)
        _say_skipped(root, request.recipe, say)
        for stage, path in missing_inputs(root, nodes):
            say(f"{stage}: {path} is not here; the stage's results are, and are used")
        if changes:
            say("params.yaml changed (`git restore params.yaml` goes back to the committed values):")
        for change in changes:
            say(f"  {change}")
    return nodes


def _say_skipped(root: Path, recipe: str | None, say: Callable[[str], None]) -> None:
    """Name what a recipe sets of entries that are not there."""
    if recipe and (names := skipped(root, recipe)):
        say(f"the recipe {recipe} also names {', '.join(names)}: params.yaml has no such entries, so these are skipped")


@contextmanager
def _restored_when_refused(path: Path) -> Iterator[None]:
    """Put a file's content back where the block fails: DVC reads the graph by the new parameters, so they go first."""
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    except BaseException:
        if before is not None and path.read_bytes() != before:
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(before)
            partial.replace(path)
        raise


def prepare_workspace(
    worktree: Workspace, request: RunRequest, *, say: Callable[[str], None] = print
) -> list[StageNode]:
    """Do the same in a worktree.

    Relative paths to files that only the user's checkout has become absolute.

    Raises:
        ValueError: as `prepare`.
    """
    changes = patch_params(worktree.root, request.recipe, request.overrides)
    _say_skipped(worktree.root, request.recipe, say)
    nodes = read_graph(worktree.root, request.stages)
    if sources := sources_of_checkout(worktree, nodes):
        patch_params(worktree.root, None, sources, check=False)
        nodes = read_graph(worktree.root, request.stages)
    for change in [*changes, *sources]:
        say(f"parameter {change}")
    _check(worktree.root, nodes, changes)
    return nodes


def _check(root: Path, nodes: Sequence[StageNode], changes: Sequence[str]) -> None:
    """Check the inputs, and the parameters of stages that will run; those in ``changes`` were checked before."""
    absent = missing_inputs(root, [node for node in nodes if node.stale])
    for folder in {path for _, path in absent} & RESULTS:  # none of the stages that are there writes into it
        (root / folder).mkdir(parents=True, exist_ok=True)
    if absent := [(stage, path) for stage, path in absent if path not in RESULTS]:
        raise ValueError("\n".join(missing(root, stage, path) for stage, path in absent))
    if at_risk := [(node.name, path) for node in nodes for path in node.foreign]:
        raise ValueError("\n".join(foreign(root, stage, path) for stage, path in at_risk))
    if sections := {node.section for node in nodes if node.stale} - changed_sections(changes):
        check_params(root, sections=sections)
