"""Read the graph of ``dvc.yaml``, and which of its stages are stale.

DVC's Python API is not public, so pyproject.toml pins DVC. Only this module, parameters.py, storage.py and
workspace.py import it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
from dvc.api import DVCFileSystem
from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo
from dvc.stage import Stage
from fsspec import AbstractFileSystem
from fsspec.implementations.dirfs import DirFileSystem

from flows.repository.git import git
from tasks.engine.events import name_is_not_utf8


@dataclass(frozen=True, kw_only=True)
class StageNode:
    """A stage of ``dvc.yaml``, as the flows need it. Paths are relative to the repository's root."""

    name: str  # such as train@digits
    description: str
    upstream: tuple[str, ...]  # names of the stages that it waits for
    inputs: tuple[str, ...]  # dependencies that no stage makes: sources (also those with a .dvc pointer), weights, code
    outputs: tuple[str, ...]
    metrics: tuple[str, ...]
    retries: int
    cpus: int
    foreign: tuple[str, ...]  # outputs below data/sources that hold files which no stage has made
    stale: bool
    reason: str  # why it is stale, such as "deps: params.yaml"; empty when it is up to date

    @property
    def slug(self) -> str:
        """The name in small letters, digits and dashes: for artifact keys and folders."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower())

    @property
    def section(self) -> str:
        """The name of its section of the parameters, which is that of its module: train of train@digits."""
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
    """Read stages with all that they need, upstream first.

    Args:
        root: the checkout or worktree.
        targets: stages (``train@digits``) or a foreach (``train``); empty: every stage of ``dvc.yaml``.

    Raises:
        ValueError: a target is unknown, or ``dvc.yaml`` or ``params.yaml`` cannot be read.
    """
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            graph = repo.index.graph  # an edge points from a stage to what it needs
            selected = _select(repo, targets)
            needed = set(selected).union(*(nx.descendants(graph, stage) for stage in selected))
            ordered = [stage for stage in nx.dfs_postorder_nodes(graph.subgraph(needed)) if stage.cmd]
            with repo.lock:
                return [_node(stage, graph, root) for stage in ordered]
    except DvcException as error:
        raise ValueError(f"DVC cannot read the pipeline: {_sentence(error)}") from error
    except UnicodeEncodeError as error:
        raise ValueError(name_is_not_utf8(error)) from error


def missing_inputs(root: Path, nodes: Sequence[StageNode]) -> list[tuple[str, str]]:
    """``(stage, path)`` for every input that does not exist and that no stage makes."""
    return [(node.name, path) for node in nodes for path in node.inputs if not (root / path).exists()]


def files_of(root: Path, commit: str) -> AbstractFileSystem:
    """The files of a commit as a file system of fsspec: git's files, and outputs out of DVC's cache or remote.

    Cache and remotes are those of the checkout today, not those of the commit. The project may lie in a subfolder of
    the repository.
    """
    settings = Config(str(root / ".dvc"))
    config = {section: dict(settings[section]) for section in ("cache", "core", "remote") if section in settings}
    inner = git(root, "rev-parse", "--show-prefix").rstrip("/")
    if not inner:
        return DVCFileSystem(str(root), rev=commit, config=config)
    top = git(root, "rev-parse", "--show-toplevel")
    return DirFileSystem(inner, DVCFileSystem(top, rev=commit, config=config, subrepos=True))


def _select(repo: Repo, targets: Sequence[str]) -> list[Stage]:
    stages = [stage for stage in repo.index.stages if stage.cmd and Path(stage.path_in_repo).name == "dvc.yaml"]
    default = [stage for stage in stages if stage.path_in_repo == "dvc.yaml"]
    if not targets:
        return default
    selected = []
    for target in targets:
        matches = [stage for stage in stages if target in (_name(stage), _name(stage).partition("@")[0])]
        if not matches:
            names = ", ".join(sorted(_name(stage) for stage in stages))
            raise ValueError(f"there is no stage {target!r}; the stages are {names}")
        selected += matches
    return selected


def _name(stage: Stage) -> str:
    """The stage's name: ``train@digits``, or ``study/dvc.yaml:depth`` for a stage of another pipeline file."""
    folder = Path(stage.path_in_repo).relative_to(".").parent
    return stage.name if folder == Path() else f"{folder / 'dvc.yaml'}:{stage.name}"


def _node(stage: Stage, graph: nx.DiGraph, root: Path) -> StageNode:
    def relative(paths: list[str]) -> tuple[str, ...]:
        return tuple(
            str(path.relative_to(root) if path.is_relative_to(root) else path) for path in map(Path, map(str, paths))
        )

    outputs = {out.fs_path for other in graph.successors(stage) if other.cmd for out in other.outs}
    meta = stage.meta or {}
    inputs = [dep.fs_path for dep in stage.deps if not hasattr(dep, "params") and not _is_made(dep.fs_path, outputs)]
    changed = _is_stale(stage, inputs)
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


def _is_stale(stage: Stage, inputs: Collection[str]) -> bool:
    """Whether a stage has to run. One whose results are here needs no source that is not, as in a second clone."""
    if not stage.changed():
        return False
    absent = [dep.fs_path for dep in stage.deps if not hasattr(dep, "params") and not Path(dep.fs_path).exists()]
    only_sources = bool(absent) and all(path in inputs for path in absent)
    return not only_sources or stage.changed_outs() or stage.changed(allow_missing=True)


def _is_made(path: str, outputs: set[str]) -> bool:
    """Whether a path is a stage's output, lies in one, or is a folder with one in it."""
    input_ = Path(path)
    return any(input_ == out or out in input_.parents or input_ in out.parents for out in map(Path, outputs))


def _is_foreign(out: Output, root: Path) -> bool:
    """Whether a stage would overwrite a source that DVC does not know, and which would be lost for good."""
    if not Path(out.fs_path).is_relative_to(root / "data" / "sources") or not out.exists:
        return False
    return not out.hash_info or out.changed_checksum()


def _reason(stage: Stage) -> str:
    entries = stage.changed_entries()
    words = [f"{kind}: {', '.join(items)}" for kind, items in zip(("deps", "outs"), entries[:2], strict=True) if items]
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
