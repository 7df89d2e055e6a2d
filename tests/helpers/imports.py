"""Which modules a file of this project imports, read from its source: nothing is executed."""

from __future__ import annotations

import ast
import functools
from collections.abc import Container, Iterator
from pathlib import Path

LAYERS = ("flows", "tasks", "cnn_core")


@functools.cache
def imported(path: Path, *, top_level_only: bool = False) -> tuple[str, ...]:
    """The dotted names that a file imports, ``from a import b`` as both ``a`` and ``a.b``."""
    return tuple(_imported(ast.parse(path.read_text()), top_level_only))


def _imported(tree: ast.Module, top_level_only: bool) -> Iterator[str]:
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def project_files(root: Path, path: Path, *, leaves: Container[str] = ()) -> set[Path]:
    """Every file of the project that ``path`` imports, directly or through others, itself included; those in ``leaves``
    are not looked into."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        if str(file.relative_to(root)) in leaves:
            continue
        names = (name for name in imported(file) if name.split(".")[0] in LAYERS)
        candidates = (root / (name.replace(".", "/") + ".py") for name in names)
        waiting += [candidate for candidate in candidates if candidate.is_file()]
    return found
