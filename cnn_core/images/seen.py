"""Which images a model has learned from, known by their pixels, so that nobody has to take "unseen" on trust."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.files import MODEL_FILE, is_none
from cnn_core.images.decoding import BadImage, pixels_sha256, read_rgb

SEEN = "seen.parquet"  # in a model folder: sha256 of an image's pixels, and its split, train or val
UNKNOWN = "unknown"  # the split of a row without a hash: the first weights had learned from images that nobody listed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many images a model has learned from (``train``), or been chosen by (``val``)."""

    train: int
    val: int
    is_complete: bool  # nothing else is hidden in the weights that the training began with

    def __str__(self) -> str:
        """What a sentence may claim of the images: "500 images that it has never seen"."""
        if self.train or self.val:
            return f"of which it has learned from {self.train:,} and its epoch was chosen by {self.val:,}"
        return (
            "that it has never seen"
            if self.is_complete
            else "that its training has not seen; its first weights may have"
        )


def pixel_hashes(files: Iterable[str], *, threads: int) -> list[str | None]:
    """SHA-256 of each image's pixels, upright RGB; None where it cannot be read."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(_hash, files))


def _hash(file: str) -> str | None:
    try:
        return pixels_sha256(read_rgb(file))
    except BadImage:
        return None


def write_seen(folder: str | Path, parts: Mapping[str, Iterable[str]], *, start: str, threads: int) -> None:
    """List the images of ``parts``, split -> files, in a model folder, and those of the weights ``start``."""
    tables = [_table(pixel_hashes(files, threads=threads), split) for split, files in parts.items()]
    if not is_none(start):
        earlier = read_seen(start)
        tables.append(_table([None], UNKNOWN) if earlier is None else earlier)
    table = pd.concat(tables, ignore_index=True)
    table = table[table["sha256"].notna() | (table["split"] == UNKNOWN)]
    table.drop_duplicates(ignore_index=True).to_parquet(Path(folder) / SEEN, index=False)


def _table(hashes: list[str | None], split: str) -> pd.DataFrame:
    return pd.DataFrame({"sha256": hashes, "split": split}, dtype="str")


def read_seen(weights: str | Path) -> pd.DataFrame | None:
    """Read the list of a model folder, named by itself or by its weights file; None where there is none."""
    path = Path(weights)
    file = (path.parent if path.name == MODEL_FILE else path) / SEEN
    return pd.read_parquet(file) if file.is_file() else None


def overlap(weights: str | Path, files: Iterable[str], *, threads: int) -> Overlap | None:
    """Count the images that a model has seen; None where it is not known which those are."""
    seen = read_seen(weights)
    if seen is None:
        return None
    splits = seen.dropna().groupby("sha256")["split"].agg(set)
    hits: list[Any] = [splits.get(hashed) for hashed in pixel_hashes(files, threads=threads)]
    of_training = sum(hit is not None and "train" in hit for hit in hits)
    return Overlap(
        train=of_training,
        val=sum(hit is not None for hit in hits) - of_training,
        is_complete=not (seen["split"] == UNKNOWN).any(),
    )


def claim(seen: Overlap | None) -> str:
    """What a sentence may say of images behind their number."""
    return str(seen) if seen else "(which images its weights have learned from is not known)"
