"""Prepare a run: patch the parameters, read the graph, check the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.execution.messages import foreign, missing
from flows.repository.graph import StageNode, missing_inputs, read_graph
from flows.repository.leftovers import clear_leftovers
from flows.repository.parameters import changed_sections, check_params, patch_params
from flows.repository.workspace import (
    Workspace,
    sources_of_checkout,
)

MAX_STAGES = 256  # threads that may wait at the same time: more than a graph has stages


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run is asked to do."""

    stages: tuple[str, ...] = ()  # names from dvc.yaml, with all that they need; empty: the default run
    recipe: str | None = None  # a set of parameters from recipes/, written to params.yaml first
    overrides: tuple[str, ...] = ()  # train.digits.epochs=3, written over the recipe's


def prepare(root: Path, request: RunRequest, *, say: Callable[[str], None] = print) -> list[StageNode]:
    """Patch the parameters, read the graph and check all that can be known before the first stage.

    Returns:
        The stages of the run, upstream first.

    Raises:
        ValueError: a stage, a recipe, a parameter or an input is not what it has to be; nothing has run.
    """
    for sentence in clear_leftovers(root):
        say(sentence)
    changes = patch_params(root, request.recipe, request.overrides)
    if changes:
        say("params.yaml changed (`git restore params.yaml` goes back to the committed values):")
    for change in changes:
        say(f"  {change}")
    nodes = read_graph(root, request.stages)
    _check(root, nodes, changes)
    return nodes


def prepare_workspace(place: Workspace, request: RunRequest, *, say: Callable[[str], None] = print) -> list[StageNode]:
    """The same in a worktree, where relative paths to what only the user's checkout has become absolute.

    Raises:
        ValueError: as ``prepare`` does.
    """
    changes = patch_params(place.root, request.recipe, request.overrides)
    nodes = read_graph(place.root, request.stages)
    if found := sources_of_checkout(place, nodes):
        patch_params(place.root, None, found, check=False)
        nodes = read_graph(place.root, request.stages)
    for change in [*changes, *found]:
        say(f"parameter {change}")
    _check(place.root, nodes, changes)
    return nodes


def _check(root: Path, nodes: Sequence[StageNode], changes: Sequence[str]) -> None:
    """``changes`` were checked before they were written."""
    if absent := missing_inputs(root, nodes):
        raise ValueError("\n".join(missing(root, stage, path) for stage, path in absent))
    if found := [(node.name, path) for node in nodes for path in node.foreign]:
        raise ValueError("\n".join(foreign(root, stage, path) for stage, path in found))
    if sections := {node.section for node in nodes if node.stale} - changed_sections(changes):
        check_params(root, sections=sections)
