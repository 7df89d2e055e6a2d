"""A source of objects as files: a folder or a file as it is, a .zip unpacked beside the RAW set while it is read."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from cnn_core.annotations.sets import ADVICE
from cnn_core.images.archives import SourceFiles, open_files
from cnn_core.locks import temporary_folder

MAX_BYTES = 64 << 30  # of a .zip, unpacked
_FILES = {".yaml", ".yml", ".json", ".xml"}  # that a source may be
_NAMES = ("_annotations.coco.json", "data.yaml", "data.yml", "annotations.xml")


def is_file_of_objects(path: str | Path) -> bool:
    """Whether a source is one file that lists boxes or masks, by its ending."""
    return Path(path).suffix.lower() in _FILES and Path(path).expanduser().is_file()


def are_objects(files: SourceFiles) -> bool:
    """Whether a folder or .zip holds boxes or masks, by the names of its files, and of XML and JSON the beginning."""
    names = [PurePosixPath(name) for name in files.names]
    if any(name.name.lower() in _NAMES or ("instances_" in name.stem and name.suffix == ".json") for name in names):
        return True
    if {"images.parquet", "objects.parquet"} <= set(files.names) or "annotations.parquet" in files.names:
        return True
    voc = next((name for name in names if name.suffix.lower() == ".xml"), None)
    others = [name for name in names if name.suffix.lower() == ".json" and len(name.parts) <= 3][:5]
    return (voc is not None and _begins(files, voc, (b"<filename", b"<object"))) or any(
        _begins(files, name, (b'"annotations"', b'"categories"', b'"original_width"')) for name in others
    )


def _begins(files: SourceFiles, name: PurePosixPath, signs: Sequence[bytes]) -> bool:
    with files.open(str(name)) as file:
        start = file.read(1 << 16)
    return any(sign in start for sign in signs)


@contextlib.contextmanager
def on_disk(source: str | Path, beside: Path) -> Iterator[tuple[Path, str]]:
    """Give the path to read and the path to show in messages; of a .zip the former is a temporary folder.

    Raises:
        ValueError: there is nothing, or the .zip is damaged or leads out of its folder.
    """
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix.lower() in _FILES:
        if not path.exists():
            raise ValueError(f"the source {source} does not exist: {ADVICE}")
        yield path, str(path)
        return
    beside.mkdir(parents=True, exist_ok=True)
    with temporary_folder(beside, ".unpacked-") as parent:
        folder = parent / "content"
        folder.mkdir()
        with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
            for name in files.names:
                target = folder / name
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with files.open(name) as packed, target.open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
                except OSError as error:
                    raise ValueError(f"{path}/{name} cannot be unpacked: {error.strerror}") from None
        yield folder, str(path)
