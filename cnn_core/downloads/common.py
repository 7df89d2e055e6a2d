"""What the downloads of official weights have in common, whoever publishes them.

folder/<file>        as it is published
       <stem>.json   its origin and its SHA-256, which readers check; written last
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cnn_core.files import write_json
from cnn_core.locks import temporary_folder

FAILED, UNKNOWN = 3, 4  # exit codes; a sentence is on standard output


class UnknownNameError(ValueError):
    """Nobody publishes weights of this name."""


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target`` to download into; it is removed afterwards (after a kill, by the next)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target.parent, f".{target.stem}-") as folder:
        partial = folder / "download"
        partial.mkdir()
        yield partial


def replace(file: Path, target: Path, origin: dict[str, Any]) -> Path:
    """Replace ``target`` by the downloaded file in one move, and note its origin."""
    note = target.with_suffix(".json")
    note.unlink(missing_ok=True)  # a kill between the two moves must not leave another file's note
    file.rename(target)
    write_json(note, origin)
    return target


def command_line(program: str, about: str | None, *, name: str, url: str, fetch: Callable[..., Path]) -> int:
    """Run ``python -m PROGRAM NAME FOLDER [--url URL]`` and return its exit code; ``name`` and ``url`` are help texts.

    It is a process of its own for ``flows``, which must not import the libraries that download.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("name", help=name)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", help=url)
    arguments = parser.parse_args()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries print their progress
            fetch(arguments.name, arguments.folder, url=arguments.url)
    except ValueError as error:
        print(error)
        return UNKNOWN if isinstance(error, UnknownNameError) else FAILED
    return 0
