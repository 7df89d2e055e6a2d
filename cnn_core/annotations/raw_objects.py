"""A RAW set of objects, as the stage ingest writes it, read as truth.

    data/raw/<set>/part-<split>-00000.parquet …   id, image (the file's own bytes), split, width, height, sha256
                   annotations.parquet            `tables.OBJECTS`, image_id = id, and iscrowd
                   quarantine.parquet             kind, file, annotation, reason of all that was left out
                   manifest.json                  written last

Whoever reads truth wants files of images. They are unpacked once, into ``data/unpacked/<set>-<its content>/<split>/``:
the folder's name changes with the content, and an older one is removed. (They do not lie in ``data/raw``, which stages
depend on whole. Of a set that lies elsewhere they lie beside it, in ``.<set>-<its content>``.)
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow.parquet as pq

from cnn_core.annotations.tables import Annotations, images_table, read_objects
from cnn_core.files import read_json, safe_file_name
from cnn_core.locks import temporary_folder

SCHEMA_VERSION = 1
KIND = "objects"
ANNOTATIONS = "annotations.parquet"
RAW, UNPACKED = "raw", "unpacked"  # folders of data/
_SIGNS = 12  # of the content's hash in the name of the folder
_BATCH = 64  # images in memory at a time
_ENDING = re.compile(r"\.\w{1,5}$")


def is_raw(folder: str | Path) -> bool:
    """Whether a folder is a RAW set of objects, by its files."""
    return (Path(folder) / ANNOTATIONS).is_file() and (Path(folder) / "manifest.json").is_file()


def read_raw_objects(folder: str | Path, split: str | None) -> Annotations:
    """Read one split, or all, with the paths of the unpacked images.

    Raises:
        ValueError: the set is missing, not whole or of another version, or has no such split.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json", made_by="ingest")
    if manifest.get("schema_version") != SCHEMA_VERSION or manifest.get("kind") != KIND:
        raise ValueError(f"{folder} is no RAW set of objects of this version: run the stage ingest again")
    counts = {name: count for name, count in manifest["counts"].items() if count}
    if split is not None and split not in counts:
        raise ValueError(f"{folder} has no images of the split {split!r}; it has {', '.join(counts)}")
    splits = list(counts) if split is None else [split]
    images = images_table(pd.concat([_unpacked(folder, manifest["content_sha256"], each) for each in splits]))
    objects = read_objects(folder / ANNOTATIONS)
    objects = objects[objects["image_id"].isin(images["image_id"])].reset_index(drop=True)
    return images, objects, list(manifest["classes"])


def parts(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"part-{split}-*.parquet"))


def _unpacked(folder: Path, content: str, split: str) -> pd.DataFrame:
    """The images' table of a split, and its files on the disk."""
    columns = ["id", "width", "height", "split"]
    tables = [pq.read_table(part, columns=columns).to_pandas() for part in parts(folder, split)]
    images = pd.concat(tables, ignore_index=True).rename(columns={"id": "image_id"})
    home, shown = (unpack_folder(path, content) for path in (folder.absolute(), folder))
    images["file"] = [str(shown / split / _file_name(name)) for name in images["image_id"]]
    if (home / split).is_dir():
        return images
    _remove_others(home)
    home.mkdir(parents=True, exist_ok=True)
    with temporary_folder(home, f".{split}-") as beside:
        partial = beside / split
        partial.mkdir()
        for part in parts(folder, split):
            for batch in pq.ParquetFile(part).iter_batches(batch_size=_BATCH, columns=["id", "image"]):
                for name, data in zip(batch["id"].to_pylist(), batch["image"].to_pylist(), strict=True):
                    file = partial / _file_name(name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
        with contextlib.suppress(OSError):  # another process was as fast
            partial.rename(home / split)
    return images


def unpack_folder(folder: Path, content: str) -> Path:
    """Where the images of a RAW set are unpacked, relative to the working directory where ``folder`` is."""
    name = f"{folder.absolute().name}-{content[:_SIGNS]}"
    if folder.absolute().parent.name == RAW:
        return folder.parent.parent / UNPACKED / name
    return folder.parent / f".{name}"


def _file_name(image_id: str) -> str:
    ending = PurePosixPath(image_id).suffix
    stem = image_id.removesuffix(ending)
    return safe_file_name(stem) + ending if _ENDING.fullmatch(ending) else safe_file_name(image_id)


def _remove_others(home: Path) -> None:
    """Remove the files of what the set held before."""
    same = re.compile(re.escape(home.name[:-_SIGNS]) + rf"[0-9a-f]{{{_SIGNS}}}")
    for other in home.parent.iterdir() if home.parent.is_dir() else ():
        if other != home and same.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)
