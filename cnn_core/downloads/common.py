"""What fetching official weights has in common, whoever publishes them (fetch_weights.py, fetch_yolo.py).

folder/<file>        as it is published
       <stem>.json   where it came from, and its SHA-256, which readers hold the file against; written last
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cnn_core.files import write_json

FAILED, UNKNOWN = 3, 4  # exit statuses; a sentence, or the end of one, is on standard output


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """An empty folder to download into, from which a file becomes ``target`` in one move; gone afterwards."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}-") as partial:
        yield Path(partial)


def put(file: Path, target: Path, origin: dict[str, Any]) -> Path:
    """Replace ``target`` by what came, and note where it came from."""
    note = target.with_suffix(".json")
    note.unlink(missing_ok=True)  # so that a kill between the two moves leaves no note of another file
    file.rename(target)
    write_json(note, origin)
    return target


def command_line(
    program: str,
    about: str | None,
    *,
    name: str,
    url: str,
    unknown: Callable[[str], str | None],
    fetch: Callable[..., Path],
) -> int:
    """``python -m PROGRAM NAME FOLDER [--url URL]``: a process of its own for ``flows``, which must not import what
    brings the weights.

    Args:
        name, url: help texts.
        unknown: the end of a sentence when nobody has weights of a name, else None.
        fetch: (name, folder, url=…); a `ValueError` is a failure that is told in its sentence.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("name", help=name)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", help=url)
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # libraries tell what they do
        said, status = unknown(arguments.name), UNKNOWN
        if said is None:
            try:
                fetch(arguments.name, arguments.folder, url=arguments.url)
            except ValueError as error:
                said, status = str(error), FAILED
    if said is not None:
        print(said)
        return status
    return 0
