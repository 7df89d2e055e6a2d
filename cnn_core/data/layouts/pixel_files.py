"""Find the tables of pixels among the files of a source, and open them, packed or not."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TextIO, cast

from cnn_core.data.layouts.parts import PARTS, TRAIN, part_in_name, part_of_folder
from cnn_core.data.layouts.pixel_columns import are_pixels, read_columns
from cnn_core.data.layouts.pixel_tables import Table, lines_of
from cnn_core.images.archives import SourceFiles, open_only_entry

_TABLE = re.compile(r".+\.(csv|tsv|tab)(\.gz|\.zip)?", re.IGNORECASE)
_FIRST = 50  # lines by which a table is judged
_GZIP, _ZIP = b"\x1f\x8b", b"PK\3\4"


def top_files(files: SourceFiles) -> list[str]:
    """The files at the top of a source and one folder down."""
    return [name for name in files.names if name.count("/") <= 1]


def is_table(name: str) -> bool:
    return _TABLE.fullmatch(PurePosixPath(name).name) is not None


def has_pixel_tables(files: SourceFiles) -> bool:
    """Whether one of the tables at the top looks like one of pixels."""
    return any(_looks_like_pixels(files, name) for name in top_files(files) if is_table(name))


def pixel_tables(files: SourceFiles, advice: str, *, others: bool) -> list[Table]:
    """Tell which tables of a source hold which part, train first. A table alone is train, whatever its name.

    Args:
        others: something else than tables is there, so tables that do not look like pixels are of no concern.

    Raises:
        ValueError: a part has two tables, train has none, or a table's columns make no square images.
    """
    names = [name for name in top_files(files) if is_table(name)]
    # What is called train.csv is one, unless there are idx files: its columns say what is wrong with it.
    pixels = [name for name in names if _looks_like_pixels(files, name) or (not others and part_of_folder(_stem(name)))]
    if not pixels and not others:
        pixels = [name for name in names if part_in_name(_stem(name))]
    by_part: dict[str, str] = {}
    for part in PARTS:
        called = [name for name in pixels if (part_in_name(_stem(name)) or part_in_name(_folder(name))) == part]
        shallow = [name for name in called if "/" not in name] or called
        unpacked = [name for name in shallow if f"{name}.gz" in shallow or f"{name}.zip" in shallow] or shallow
        if len(unpacked) > 1:
            tables = " and ".join(sorted(unpacked)[:3])
            raise ValueError(f"{files.path} has {tables}: name the one folder that is meant")
        if unpacked:
            by_part[part] = unpacked[0]
    nameless = [name for name in pixels if not (part_in_name(_stem(name)) or part_in_name(_folder(name)))]
    if TRAIN not in by_part and len(nameless) == 1:
        by_part = {TRAIN: nameless[0], **by_part}
    elif TRAIN not in by_part and nameless:
        raise ValueError(
            f"{files.path} has {' and '.join(nameless[:3])}: call the one to learn from train.csv, and the one to "
            "test on test.csv"
        )
    if by_part and TRAIN not in by_part:
        raise ValueError(
            f"{files.path} has {next(iter(by_part.values()))} but no train.csv, so nothing to learn from: {advice}"
        )
    return [_table(files, name, part) for part, name in by_part.items()]


def first_lines(files: SourceFiles, name: str) -> list[str]:
    """The first lines of a table that are not blank."""
    with open_table(files, name) as text:
        return list(itertools.islice(lines_of(text, files.at(name)), _FIRST))


@contextlib.contextmanager
def open_table(files: SourceFiles, name: str) -> Iterator[TextIO]:
    """Open a table as text, unpacked from a .gz or a .zip of one file, with any line ends.

    A byte that is no UTF-8 spoils its row alone. UTF-16 is told by its mark.
    """
    with contextlib.ExitStack() as stack:
        file = _buffered(stack.enter_context(files.open(name)))
        head = file.peek(4)[:4]
        if head[:2] == _GZIP:
            file = _buffered(gzip.GzipFile(fileobj=file))
        elif head == _ZIP:
            file = _buffered(stack.enter_context(open_only_entry(file, files.at(name))))
        with files.reading(name):
            encoding = "utf-16" if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        yield io.TextIOWrapper(file, encoding=encoding, errors="replace", newline=None)


def _buffered(file: object) -> io.BufferedReader:
    return io.BufferedReader(cast(io.RawIOBase, file))


def _looks_like_pixels(files: SourceFiles, name: str) -> bool:
    try:
        with open_table(files, name) as text:
            return are_pixels(list(itertools.islice(lines_of(text, files.at(name)), 3)))
    except ValueError:  # damaged or no table; if its name is train.csv, reading it says so
        return False


def _table(files: SourceFiles, name: str, part: str) -> Table:
    lines = first_lines(files, name)
    columns = read_columns(lines, files.at(name), labelled=part == TRAIN)
    return Table(name=name, part=part, columns=columns)


def _stem(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[0]


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.name
