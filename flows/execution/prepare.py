"""Prepare a run: patch the parameters, read the graph, check the inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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


@functools.cache
def prepare(root: Path, stages: tuple[str, ...], recipe: str | None, overrides: tuple[str, ...]) -> list[StageNode]:
    """Patch the parameters, read the graph and check all that can be known before the first stage.

    Cached, so that the command line fails before a server is started, and the flow then checks nothing twice.

    Raises:
        ValueError: a stage, a recipe, a parameter or an input is not what it has to be; nothing has run.
    """
    for sentence in clear_leftovers(root):
        print(sentence, flush=True)
    changes = patch_params(root, recipe, overrides)
    if changes:
        print("params.yaml changed (`git restore params.yaml` goes back to the committed values):")
        print("\n".join(f"  {change}" for change in changes), flush=True)
    nodes = read_graph(root, stages)
    _check(root, nodes, changes)
    return nodes


def prepare_workspace(
    place: Workspace,
    stages: Sequence[str] = (),
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    say: Callable[[str], None] = print,
) -> list[StageNode]:
    """The same in a worktree, where relative paths to what only the user's checkout has become absolute.

    Raises:
        ValueError: as ``prepare`` does.
    """
    changes = patch_params(place.root, recipe, overrides)
    nodes = read_graph(place.root, stages)
    if found := sources_of_checkout(place, nodes):
        patch_params(place.root, None, found, check=False)
        nodes = read_graph(place.root, stages)
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
