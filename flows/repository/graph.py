"""The graph of ``dvc.yaml`` and what of it is stale; besides it only parameters.py and workspace.py import DVC.

DVC's Python API is not public: pyproject.toml pins DVC, and everything that leans on it stands here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
from dvc.api import DVCFileSystem
from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import Stage


@dataclass(frozen=True, kw_only=True)
class StageNode:
    """One stage of ``dvc.yaml`` as the flow needs it. Paths are relative to the repository's root."""

    name: str  # train@digits
    description: str
    upstream: tuple[str, ...]  # names of the stages that it waits for
    inputs: tuple[str, ...]  # dependencies that no stage makes: sources (behind a .dvc pointer too), weights, code
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    retries: int
    cpus: int
    foreign: tuple[str, ...]  # sources where a stage would write that hold something no stage has made
    stale: bool
    reason: str  # why it is stale: "changed: params.yaml (train.digits)"; empty when fresh

    @property
    def slug(self) -> str:
        """The name in small letters, digits and dashes, as Prefect's artifact keys and folders want it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower())

    @property
    def section(self) -> str:
        """Its section of the parameters, which bears the name of its module: train of train@digits."""
        return self.name.rpartition(":")[2].partition("@")[0]


def find_root(start: Path | None = None) -> Path:
    """The root of the repository that holds ``start`` (default: the current folder).

    Raises:
        ValueError: there is no repository with a ``dvc.yaml`` here.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            return folder
    raise ValueError(f"{here} is not inside a Gridflow checkout (no dvc.yaml with a .dvc folder beside it)")


def read_graph(root: Path, targets: Sequence[str] = ()) -> list[StageNode]:
    """The stages named, with all that they need, upstream first; the default is every stage of ``dvc.yaml``.

    A target is a stage's name (``train@digits``), or a foreach's name (``train``) for all of its stages.

    Raises:
        ValueError: a target is unknown, or ``dvc.yaml`` or ``params.yaml`` cannot be read.
    """
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            graph = repo.index.graph  # an edge points from a stage to what it needs
            chosen = _choose(repo, targets)
            needed = set(chosen).union(*(nx.descendants(graph, stage) for stage in chosen))
            ordered = [stage for stage in nx.dfs_postorder_nodes(graph.subgraph(needed)) if stage.cmd]
            with repo.lock:
                return [_node(stage, graph, root) for stage in ordered]
    except DvcException as error:
        raise ValueError(f"DVC cannot read the pipeline: {_sentence(error)}") from error


def missing_inputs(root: Path, nodes: Sequence[StageNode]) -> list[tuple[str, str]]:
    """``(stage, path)`` for every input that a stage needs, no stage makes and is not there."""
    return [(node.name, path) for node in nodes for path in node.inputs if not (root / path).exists()]


def files_of(root: Path, commit: str) -> DVCFileSystem:
    """The files of a commit, as fsspec has them: those that git holds, and outputs out of DVC's cache or remote, which
    are the checkout's of today and not those of the commit's time."""
    mine = Config(str(root / ".dvc"))
    config = {section: dict(mine[section]) for section in ("cache", "core", "remote") if section in mine}
    return DVCFileSystem(str(root), rev=commit, config=config)


def _choose(repo: Repo, targets: Sequence[str]) -> list[Stage]:
    stages = [stage for stage in repo.index.stages if stage.cmd and Path(stage.path_in_repo).name == "dvc.yaml"]
    default = [stage for stage in stages if stage.path_in_repo == "dvc.yaml"]
    if not targets:
        return default
    chosen = []
    for target in targets:
        found = [stage for stage in stages if target in (_name(stage), _name(stage).partition("@")[0])]
        if not found:
            known = ", ".join(sorted(_name(stage) for stage in stages))
            raise ValueError(f"there is no stage {target!r}; the stages are {known}")
        chosen += found
    return chosen


def _name(stage: Stage) -> str:
    """``train@digits``, and ``study/dvc.yaml:depth`` for a stage of another pipeline file."""
    folder = Path(stage.path_in_repo).relative_to(".").parent
    return stage.name if folder == Path() else f"{folder / 'dvc.yaml'}:{stage.name}"


def _node(stage: Stage, graph: nx.DiGraph, root: Path) -> StageNode:
    def relative(paths: list[str]) -> tuple[str, ...]:
        return tuple(
            str(path.relative_to(root) if path.is_relative_to(root) else path) for path in map(Path, map(str, paths))
        )

    made = {out.fs_path for other in graph.successors(stage) if other.cmd for out in other.outs}
    meta = stage.meta or {}
    inputs = [dep.fs_path for dep in stage.deps if not hasattr(dep, "params") and not _is_made(dep.fs_path, made)]
    changed = stage.changed()
    foreign = [out.fs_path for out in stage.outs if changed and _is_foreign(out, root)]
    return StageNode(
        name=_name(stage),
        description=stage.desc or "",
        upstream=tuple(_name(other) for other in graph.successors(stage) if other.cmd),
        inputs=relative(inputs),
        outputs=relative([out.fs_path for out in stage.outs]),
        metrics=relative([out.fs_path for out in stage.outs if out.metric]),
        retries=int(meta.get("retries", 0)),
        cpus=int(meta.get("cpus", 1)),
        foreign=relative(foreign),
        stale=changed,
        reason=_reason(stage) if changed else "",
    )


def _is_made(path: str, made: set[str]) -> bool:
    """Of a stage's output, in one, or a folder of them."""
    place, outs = Path(path), map(Path, made)
    return any(place == out or out in place.parents or place in out.parents for out in outs)


def _is_foreign(out: Output, root: Path) -> bool:
    """Whether something lies where a stage writes a source that DVC does not know: it would be deleted for good."""
    if not Path(out.fs_path).is_relative_to(root / "data" / "sources") or not out.exists:
        return False
    return not out.hash_info or out.changed_checksum()


def _reason(stage: Stage) -> str:
    entries = stage.changed_entries()
    words = [f"{what}: {', '.join(items)}" for what, items in zip(("deps", "outs"), entries[:2], strict=True) if items]
    if entries[2]:
        words.append("command")
    return "; ".join(words)


def _sentence(error: BaseException) -> str:
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(" ".join(str(cause).split()))
        cause = cause.__cause__
    return ": ".join(dict.fromkeys(filter(None, causes)))
