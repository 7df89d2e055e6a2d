"""Folders that are whole or absent, the JSON that describes them, and tables for people."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MAX_PIXELS = 50_000_000  # of an image file, 0.15 GB as RGB; its header is asked before anything unpacks
GENERATED = "generated-"  # the start of the names of pictures that a program drew
_CHUNK = 1 << 20
_LONG_PART, _LONG_NAME, _DEPTH = 160, 500, 20  # bytes, characters, folders; a file system takes 255 and 4,096 bytes
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\/]")
_HASHED = re.compile(r"-[0-9a-f]{16}$")  # the end of a part that `safe_file_name` has changed
_ENDING = re.compile(r"\.[A-Za-z]\w{0,4}$")


@contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """An empty sibling folder to write into, which becomes ``target`` when the block ends without an error.

    So what exists at ``target`` is whole, and a failure leaves what an earlier run put there. A sibling, because a
    rename is only one step within a file system.
    """
    target = Path(target)
    partial, former = (target.parent / f".{target.name}.{suffix}" for suffix in ("partial", "former"))
    if former.exists() and not target.exists():  # killed between the two renames
        former.rename(target)
    for left_over in (partial, former):  # of a killed run
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            target.rename(former)
        partial.rename(target)
    except BaseException:
        if former.exists() and not target.exists():
            former.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)


def are_generated(names: Iterable[str]) -> bool:
    """Whether a program drew one of these pictures or more, by their names (``forest/generated-00001.jpg``)."""
    return any(name.rpartition("/")[2].startswith(GENERATED) for name in names)


def is_composed(source: str | Path) -> bool:
    """Whether the manifest of a set says that a program made its images, as the stage compose does."""
    source = Path(source)  # a folder, or a file in it such as data.yaml
    manifest = (source.parent if source.is_file() else source) / "manifest.json"
    content = read_json(manifest, made_by="compose") if manifest.is_file() else {}
    return isinstance(content, dict) and content.get("generated") is True  # a set of others may have a list there


def reserve(path: str | Path) -> None:
    """Claim the disk's space for a file that is mapped into memory and still has holes.

    On a full disk this is an OSError; a write into a hole would kill the process (SIGBUS).
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with Path(path).open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def write_json(path: str | Path, value: Any) -> None:
    """The same value gives the same bytes."""
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path, *, made_by: str) -> Any:
    """Read a JSON file that the stage ``made_by`` writes last. Raises ValueError if it is missing or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} does not exist; the stage {made_by} writes it: run `dvc repro {made_by}`") from None
    except ValueError:
        raise ValueError(f"{path} is not valid JSON; run the stage {made_by} again, which writes it") from None


def sha256_files(folder: str | Path, names: Iterable[str] | None = None) -> str:
    """One SHA-256 over the names and bytes of files in ``folder``, in the order of ``names`` (or `file_names`)."""
    digest = hashlib.sha256()
    for name in file_names(folder) if names is None else names:
        path = Path(folder) / name
        digest.update(f"{name}:{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def file_names(folder: str | Path) -> list[str]:
    """List the files below a folder, relative to it and sorted, but for Python's ``__pycache__``."""
    files = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(file.as_posix() for file in files if "__pycache__" not in file.parts)


def refuse_links(folders: Iterable[Path]) -> None:
    """Refuse folders that are links: DVC does not look behind them, so a change there would go unnoticed.

    Raises:
        ValueError: one is a link; the message says what to do.
    """
    for folder in folders:
        if folder.is_symlink():
            raise ValueError(
                f"{folder} is a link to the folder {folder.resolve()}, and DVC does not see what changes behind it: "
                "put a copy of the folder there, or name the folder itself as the source"
            )


NONE = "data/weights/none"


def is_none(path: str | Path) -> bool:
    """Whether a weights parameter says: start from scratch."""
    return Path(path).name == "none"


MODEL_FILE = "model.pt"  # the weights in the model folder of a detector or segmenter


def weights_file(path: str | Path) -> Path:
    """Find the checkpoint, the file in a model folder of ours, or the OpenVINO folder that a parameter names.

    Raises:
        ValueError: nothing is there; the message says what to fetch or put where.
    """
    path = Path(path)
    if is_none(path):
        raise ValueError(f"{path} stands for no weights at all: name a model folder or a file such as {_OFFICIAL}")
    if path.is_file():
        return path
    if (path / "model.json").is_file() and (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    if any(path.glob("*.xml")):
        return path
    if path.is_dir():
        raise ValueError(
            f"{path} holds neither {MODEL_FILE} and model.json nor an OpenVINO model: it is no model folder of a "
            "training stage"
        )
    if Path(f"{path}.dvc").is_file():
        raise ValueError(f"{path} does not exist, but DVC knows it: run `dvc pull {path}.dvc`")
    name = path.name if path.suffix == ".pt" else "NAME"
    raise ValueError(
        f"{path} does not exist: `gridflow fetch {name}` puts the official weights of that name at "
        f"data/weights/{name} (there are {_OFFICIAL}); your own file may lie anywhere"
    )


_OFFICIAL = (
    "yolo11n.pt, yolo11n-seg.pt, FastSAM-s.pt, sam_b.pt, sam_l.pt, mobile_sam.pt, sam2.1_t.pt, sam2.1_s.pt, "
    "sam2.1_b.pt or sam2.1_l.pt"
)


def file_sha256(file: str | Path) -> str:
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_utf8(name: str) -> bool:
    """Whether tables, JSON and DVC can hold a name; other bytes are surrogates in Python."""
    return name.isascii() or not any("\udc80" <= character <= "\udcff" for character in name)


def printable(name: str) -> str:
    """A name whose bytes that are not UTF-8 are escaped: ``caf\\xe9.jpg``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def safe_file_name(name: str) -> str:
    """Make a relative path of a name that comes from data, to which the caller appends an ending.

    Nothing leads out of the folder that it is put in. ``a/b`` stays as it is, with its folder.
    Different names give different paths: a part that is no plain name (``..``, an empty or a long
    one, one with control characters, a folder that looks like a file) gets a hash at its end.
    """
    deep = len(name) > _LONG_NAME or name.count("/") > _DEPTH
    parts = [name] if deep else name.split("/")
    return "/".join([*(_safe_part(part, folder=True) for part in parts[:-1]), _safe_part(parts[-1])])


def _safe_part(part: str, *, folder: bool = False) -> str:
    try:
        long = len(os.fsencode(part)) > _LONG_PART
    except UnicodeEncodeError:  # half of a surrogate pair
        long = True
    odd = part in ("", ".", "..") or _UNSAFE.search(part) or _HASHED.search(part)
    if not (long or odd or (folder and _ENDING.search(part))):
        return part
    plain = re.sub(r"[^\w.+@#=,-]", "_", part[:40]).strip(".")
    return f"{plain or '_'}-{hashlib.sha256(part.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


# What a spreadsheet takes for a formula. The apostrophe is here so that `read_csv` can tell ours from a person's.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table that people may open in a spreadsheet.

    A text that a spreadsheet would compute gets an apostrophe in front, which `read_csv` takes off again: the names of
    files and classes are other people's, and ``=HYPERLINK(…)`` is a name too. Texts that are plain numbers stay. A name
    that is no UTF-8 keeps its bytes.
    """
    values = table.astype(object).where(table.notna(), None)  # NaN, NaT and pandas' NA
    rows = [tuple(table.columns), *values.itertuples(index=False, name=None)]
    lines = "".join(",".join(map(_csv_cell, row)) + "\n" for row in rows)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(lines, encoding="utf-8", errors="surrogateescape", newline="")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read what `write_csv` wrote, as the texts that they were: ``NA``, ``null`` and ``01`` too."""
    import pandas as pd

    with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = ([cell.removeprefix("'") for cell in row] for row in csv.reader(file))
    return pd.DataFrame(rows, columns=header, dtype=object)


def _csv_cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = f"'{value}" if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value) else value
    quoted = not text or any(sign in text for sign in ',"\r\n')
    return '"' + text.replace('"', '""') + '"' if quoted else text
