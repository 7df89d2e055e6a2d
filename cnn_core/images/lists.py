"""Lists of images: a .txt or .csv file that names one image a line, as Ultralytics takes them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

_COLUMNS = ("file", "path", "image", "filename", "file_name", "image_path", "source")  # of a .csv with a header


def is_list(path: str | Path) -> bool:
    path = Path(path).expanduser()
    return path.suffix.lower() in (".txt", ".csv") and path.is_file()


def read_list(path: str | Path) -> tuple[list[str], Counter[str]]:
    """The files that a list names, in order, and counts of the lines that are left out.

    A relative name is meant from the list's folder, or else from the current one.

    Raises:
        ValueError: it names nothing.
    """
    path = Path(path).expanduser()
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = list(csv.reader(file)) if path.suffix.lower() == ".csv" else [[line.strip()] for line in file]
    rows = [row for row in rows if row and row[0].strip()]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((header.index(name) for name in _COLUMNS if name in header), None)
    names = [row[column or 0].strip() for row in rows[column is not None :] if len(row) > (column or 0)]
    if not names:
        raise ValueError(f"{path} names no image: write the path of one image into each line")
    files = [_resolved(name, path.parent) for name in names]
    different = list(dict.fromkeys(files))
    again = len(files) - len(different)
    return different, Counter({"lines that name a file again": again} if again else {})


def _resolved(name: str, folder: Path) -> str:
    file = Path(name).expanduser()
    beside = folder / file
    return str(file if not beside.exists() and file.exists() else beside)
