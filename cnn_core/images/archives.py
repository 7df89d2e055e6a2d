"""The files of a folder or a .zip, read safely."""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from cnn_core.files import is_utf8, printable, refuse_links

# The errors of reading an archive that is cut short or damaged (BadGzipFile is an OSError without
# an errno).
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
MAX_ENTRIES = 2_000_000  # of a .zip; zipfile takes about 0.6 KB of memory for each
HIDDEN = "hidden"  # names that begin with a dot, and __MACOSX
_ZIP_TAIL = (1 << 16) + 200  # bytes: the longest comment, and the records before it


class SourceFiles:
    """The files below a folder or in a .zip, by their relative names with ``/``; hidden files are left out.

    ``folders`` names empty folders too (as far as a .zip lists them), ``left_out`` counts files that are not among the
    names, by why.
    """

    def __init__(
        self,
        path: Path,
        sizes: dict[str, int],
        folders: Iterable[str],
        opener: Callable[[str], BinaryIO],
        left_out: Mapping[str, int],
    ) -> None:
        self.path, self.names, self._sizes, self._opener = path, sorted(sizes), sizes, opener
        self.folders, self.left_out = sorted(folders), dict(left_out)

    def size(self, name: str) -> int:
        return self._sizes[name]

    def at(self, name: str) -> str:
        return f"{self.path}/{name}"

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open the file, unpacked while it is read; damage met in the block is one ValueError."""
        with self.reading(name), self._opener(name) as file:
            yield file

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Blame damage met inside the block on this file, for a block that has two files open."""
        try:
            yield
        except DAMAGE as error:
            raise ValueError(f"{self.at(name)} is damaged or cut short ({error}): get it again") from None
        except OSError as error:
            if error.errno is None:  # gzip's own
                raise ValueError(f"{self.at(name)} is damaged ({error}): get it again") from None
            raise ValueError(f"{self.at(name)} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def open_files(path: str | Path, *, advice: str, max_bytes: int) -> Iterator[SourceFiles]:
    """Open the folder or .zip at ``path``.

    Args:
        advice: the end of the message when there is nothing: what to put there or run.
        max_bytes: of all files of a .zip, unpacked. zipfile reads no more of a file than the size that the .zip
            states, so a bomb that states too little is met as damage.

    Raises:
        ValueError: there is nothing, it is no folder and no whole .zip, or an entry leads out of the .zip.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"the source {path} does not exist: {advice}")
    if path.is_dir():
        yield _folder(path)
        return
    try:
        _refuse_many_entries(path)
        archive = zipfile.ZipFile(path)
    except DAMAGE:
        if path.suffix.lower() == ".zip" or path.open("rb").read(2) == b"PK":
            raise ValueError(f"{path} is no whole .zip file, it is damaged or cut short: get it again") from None
        raise ValueError(f"the source {path} is a file, not a folder or a .zip: {advice}") from None
    except UnicodeDecodeError as error:
        name = error.object.decode("utf-8", "backslashreplace")
        raise ValueError(f"{path} has an entry whose name is not UTF-8, as it claims: {name}. Pack it again") from None
    except OSError as error:
        raise ValueError(f"the source {path} cannot be read: {error.strerror}") from None
    with archive:
        yield _zip(path, archive, max_bytes)


def _folder(path: Path) -> SourceFiles:
    sizes: dict[str, int] = {}
    below: list[str] = []
    left_out: Counter[str] = Counter()
    not_utf8: list[str] = []
    for folder, folders, files in os.walk(path, onerror=_unreadable):
        folders[:] = [name for name in folders if not _hidden(name)]
        refuse_links(Path(folder, name) for name in folders)
        below += [inner for name in folders if is_utf8(inner := Path(folder, name).relative_to(path).as_posix())]
        for name in files:
            file = Path(folder, name)
            inner = file.relative_to(path).as_posix()
            if _hidden(name):
                left_out[HIDDEN] += 1
            elif not is_utf8(inner):
                not_utf8.append(inner)
            elif file.is_file():
                sizes[inner] = file.stat().st_size
            else:
                left_out["links that lead nowhere, or no files"] += 1
    if not_utf8:
        left_out[f"files whose name is not UTF-8, such as {printable(min(not_utf8))}"] = len(not_utf8)
    return SourceFiles(path, sizes, below, lambda name: (path / name).open("rb"), left_out)


def _unreadable(error: OSError) -> None:
    raise ValueError(f"the source {error.filename} cannot be read: {error.strerror}")


def _zip(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> SourceFiles:
    entries: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    hidden = 0
    for entry in archive.infolist():
        if escapes(entry.filename):
            raise ValueError(
                f"{path} has the entry {entry.filename!r}, which leads out of the folder: such a .zip is not to be "
                "trusted and nothing of it was read; get it from its publisher"
            )
        name = entry.filename.replace("\\", "/")  # which some programs on Windows write
        inner, is_folder = PurePosixPath(name), name.endswith("/")
        around = [*inner.parents, inner] if is_folder else inner.parents
        folders |= {str(folder) for folder in around if folder.parts and not any(map(_hidden, folder.parts))}
        if any(map(_hidden, inner.parts)):
            hidden += not is_folder
        elif not is_folder:
            entries[name] = entry
    if (total := sum(entry.file_size for entry in entries.values())) > max_bytes:
        raise ValueError(
            f"{path} would unpack to {total / 2**30:.1f} GiB, more than the {max_bytes / 2**30:.1f} GiB that such a "
            "source can need: get the original, or unpack it into a folder if you trust it"
        )

    def opener(name: str) -> BinaryIO:
        try:
            return archive.open(entries[name])  # type: ignore[return-value]  # typed as IO[bytes], and has all that a BinaryIO has
        except (NotImplementedError, RuntimeError) as error:  # a method that zipfile lacks; a password
            raise ValueError(f"{path}/{name} cannot be unpacked ({error}): unpack the .zip yourself") from None

    sizes = {name: entry.file_size for name, entry in entries.items()}
    return SourceFiles(path, sizes, folders, opener, {HIDDEN: hidden} if hidden else {})


@contextlib.contextmanager
def open_only_entry(file: BinaryIO, where: str) -> Iterator[IO[bytes]]:
    """Open the one file in a .zip that is itself a file of a source, as Kaggle's client saves a table.

    Raises:
        ValueError: it is damaged, or holds another number of files.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not _hidden(name)]
            if len(names) != 1:
                raise ValueError(f"{where} holds {len(names):,} files, not one: unpack it")
            with archive.open(names[0]) as opened:
                yield opened
    except DAMAGE as error:
        raise ValueError(f"{where} is damaged or cut short ({error}): get it again") from None


def _refuse_many_entries(path: Path) -> None:
    """Refuse a .zip of more entries than are ever meant, before zipfile lists them all in memory."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _ZIP_TAIL))
        tail = file.read()
    end, large = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    count = int.from_bytes(tail[end + 10 : end + 12], "little") if end >= 0 else 0
    if count == 0xFFFF and large >= 0:
        count = int.from_bytes(tail[large + 32 : large + 40], "little")
    if count > MAX_ENTRIES:
        raise ValueError(
            f"{path} lists {count:,} files, more than the {MAX_ENTRIES:,} that are read from one .zip: unpack it into "
            "a folder if you trust it"
        )


def escapes(name: str) -> bool:
    """Whether an archive's entry would land outside of where it is unpacked, on any system."""
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name) is not None


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
