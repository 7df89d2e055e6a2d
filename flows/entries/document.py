"""Edit entries in the text of a YAML file, so that comments, order and everything else stay as they are.

A path is the keys that lead to an entry: ``("train", "digits")``. Keys are indented by two spaces a level, as in
``params.yaml``; `checked` holds every edit against the file's content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

Path = Sequence[str]
INDENT = 2
EMPTY = re.compile(r"^(\s*[\w-]+:) *(?:\{\}|null|~)( *#.*)?$")


def block(text: str, path: Path) -> str:
    """The lines of an entry with its key; raises KeyError if it is not there."""
    lines = text.splitlines(keepends=True)
    start, stop = _span(lines, path)
    return "".join(lines[start:stop])


def insert(text: str, path: Path, entry: str) -> str:
    """Put the lines of an entry at the end of the section at ``path``, which is made where it is missing.

    Args:
        entry: the lines with the entry's key, indented as they stand in the section.
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    try:
        start, stop = _span(lines, path)
    except KeyError:
        head = f"{' ' * INDENT * (len(path) - 1)}{path[-1]}:\n"
        return insert(text, path[:-1], head + entry) if len(path) > 1 else "".join([*lines, "\n", head, entry])
    if empty := EMPTY.match(lines[start].rstrip("\n")):
        lines[start] = f"{empty[1]}{empty[2] or ''}\n"
    return "".join([*lines[:stop], entry, *lines[stop:]])


def remove(text: str, path: Path) -> str:
    """Take an entry out; a section that is left without entries is ``{}``. Nothing where it is not there."""
    lines = text.splitlines(keepends=True)
    try:
        start, stop = _span(lines, path)
    except KeyError:
        return text
    rest = [*lines[:start], *lines[stop:]]
    if len(path) > 1:
        head, end = _span(rest, path[:-1])
        if not any(_indent(line) > INDENT * (len(path) - 2) for line in rest[head + 1 : end]):
            key, _, comment = rest[head].rstrip("\n").partition(":")
            rest[head] = f"{key}: {{}}{comment if comment.strip().startswith('#') else ''}\n"
    return "".join(rest)


def checked(text: str, edited: str, change: Callable[[dict[str, Any]], None]) -> str:
    """The edited text, if its content is that of ``text`` after ``change``; else ``text`` written anew, after it.

    A file that somebody has formatted in another way may be one that lines cannot be cut from.
    """
    wanted = yaml.safe_load(text) or {}
    change(wanted)
    try:
        if yaml.safe_load(edited) == wanted:
            return edited
    except yaml.YAMLError:
        pass
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)


def without(content: dict[str, Any], path: Path) -> None:
    """Take an entry out of a file's content."""
    node: Any = content
    for key in path[:-1]:
        node = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(node, dict):
        node.pop(path[-1], None)


def _span(lines: Sequence[str], path: Path) -> tuple[int, int]:
    """The first line of an entry, and the line behind its last one that is neither blank nor a comment."""
    start, stop = -1, len(lines)
    for depth, key in enumerate(path):
        names = {key, f"'{key}'", f'"{key}"'}
        for number in range(start + 1, stop):
            line = lines[number]
            if _indent(line) == INDENT * depth and line.strip().partition(":")[0] in names:
                start = number
                break
        else:
            raise KeyError(".".join(path))
        stop = next((n for n in range(start + 1, stop) if -1 < _indent(lines[n]) <= INDENT * depth), stop)
    while stop > start + 1 and _indent(lines[stop - 1]) < 0 and not _goes_on(lines[stop - 1], len(path) - 1):
        stop -= 1
    return start, stop


def _goes_on(line: str, depth: int) -> bool:
    """Whether a line is a comment that goes on from an entry's lines, as it is indented deeper than its key."""
    return line.lstrip().startswith("#") and len(line) - len(line.lstrip(" ")) > INDENT * depth


def _indent(line: str) -> int:
    """How far a line is indented; -1 for a blank line or a comment."""
    stripped = line.strip()
    return -1 if not stripped or stripped.startswith("#") else len(line) - len(line.lstrip(" "))
