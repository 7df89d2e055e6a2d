"""Mend a ``dvc.lock`` that was cut off: DVC writes it in place, and a kill in that second leaves a part of it.

What the part lacks is taken from the copy that each run keeps, or else from git. Without either the whole entries stay;
the next run brings the results of the others out of DVC's run cache. So it does after a cut between two
items, which cannot be told from what a person took out.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from dvc.lock import LockError
from dvc.repo import Repo

from flows.repository.git import git

KEPT = ".gridflow/locks-of-dvc"
LOCK = "dvc.lock"
ENTRY = re.compile(r"(?m)^  (\S.*):\n")  # a stage's name in dvc.lock
OPEN = re.compile(r"([^\n]|:\n|\n +- path: [^\n]*\n)\Z")  # no whole text ends so: in a line, with a key or a path alone
HEAD = "schema: '2.0'\nstages:\n"


def mend_locks(root: Path) -> list[str]:
    """Mend each dvc.lock of a checkout that is cut off, and keep a copy of the others; a sentence for each mended one.

    Nothing is done while a DVC is at work, which may be writing just now.
    """
    sentences = []
    for path in [*root.glob(LOCK), *root.glob(f"*/{LOCK}")]:
        name = str(path.relative_to(root))
        kept = root / KEPT / name
        if not is_cut(path.read_text(errors="replace")):
            _write(kept, path.read_bytes())
            continue
        try:
            with Repo(str(root)).lock:
                text = path.read_text(errors="replace")
                if not is_cut(text):  # DVC has written the rest since
                    continue
                complete = mended(text, _references(root, name, kept))
                _write(path, complete.encode())
        except LockError:
            continue
        back = len(ENTRY.findall(complete)) - len(ENTRY.findall(text))
        sentences.append(
            f"{name} was cut off, as DVC was killed while it wrote it: {max(0, back)} stages' entries were put back; "
            "what they lack comes out of DVC's cache"
        )
    return sentences


def is_cut(text: str) -> bool:
    """Whether the text of a dvc.lock is a part of one."""
    return not text or bool(OPEN.search(text))


def mended(text: str, references: list[str]) -> str:
    """The text with its whole entries, and those that follow in the first reference that has the same before them."""
    starts = [match.start() for match in ENTRY.finditer(text)]
    names = ENTRY.findall(text)
    reference = next((one for one in references if not names or _begins(one, names)), "")
    if not names:
        return reference or HEAD.replace("stages:\n", "stages: {}\n")
    complete_entries = text[: starts[-1]]  # the last entry may be cut off
    if not reference:
        return complete_entries if len(names) > 1 else HEAD.replace("stages:\n", "stages: {}\n")
    return complete_entries + reference[_start(reference, names[-1]) :]


def _begins(reference: str, names: list[str]) -> bool:
    return ENTRY.findall(reference)[: len(names)] == names


def _start(text: str, name: str) -> int:
    return next(match.start() for match in ENTRY.finditer(text) if match[1] == name)


def _references(root: Path, name: str, kept: Path) -> list[str]:
    texts = [kept.read_text()] if kept.is_file() else []
    with contextlib.suppress(ValueError):  # it is not committed
        texts.append(git(root, "show", f"HEAD:./{name}") + "\n")
    return texts


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # two runs may begin together
    partial.write_bytes(content)
    partial.replace(path)
