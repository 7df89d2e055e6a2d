"""Look at a source of images without keeping anything: ``python -m tasks.look SOURCE KIND``.

It reads and checks the source as the stage ingest does, into a temporary folder, and prints what it read as JSON. Where
the source cannot be read, it prints one sentence and exits with 3.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cnn_core.data.ingestion import IngestParams
from cnn_core.data.layouts.multilabels import SeveralLabelsError
from cnn_core.locks import temporary_folder
from tasks.ingest import read_source

SAY_S = 5.0  # between two lines of progress


def look(source: str, kind: str) -> dict[str, Any]:
    """Return the manifest that an ingestion would write, with ``sides`` (quantiles of the images' longer sides, in
    pixels) and, of objects, the number of their ``masks``. What looks like several labels an image is read so.

    Raises:
        ValueError: as the ingestion does.
    """
    params = IngestParams(
        source=source,
        kind=kind,  # type: ignore[arg-type]  # of the command line, which checks it
        val_fraction=0.1,
        test_fraction=0.1,
        seed=0,
        max_bad_fraction=1.0,  # what is bad is counted here, and stops nothing
        near_duplicates=True,
    )
    with temporary_folder() as scratch:
        folder = scratch / "look"
        try:
            manifest = read_source("look", params, folder, on_progress=_Progress())
        except SeveralLabelsError:
            several = dataclasses.replace(params, multilabel=True)
            manifest = read_source("look", several, folder, on_progress=_Progress())
        tables = [pq.read_table(part, columns=["width", "height"]) for part in sorted(folder.glob("part-*"))]
        longest = np.concatenate([np.maximum(table["width"], table["height"]) for table in tables])
        annotations = folder / "annotations.parquet"
        masks = pq.read_table(annotations, columns=["rle"])["rle"].is_valid() if annotations.is_file() else None
    manifest["sides"] = {f"{share:g}": int(np.quantile(longest, share)) for share in (0.1, 0.5, 0.9)}
    return manifest | ({} if masks is None else {"masks": int(np.count_nonzero(masks))})


class _Progress:
    """Prints how many images were read, now and then, to standard error."""

    def __init__(self) -> None:
        self._count, self._printed = 0, time.monotonic()

    def __call__(self, images: int) -> None:
        self._count += images
        if time.monotonic() - self._printed > SAY_S:
            self._printed = time.monotonic()
            print(f"… {self._count:,} images read", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Look at a source of images without keeping anything.")
    parser.add_argument("source", type=Path)
    parser.add_argument("kind", choices=["auto", "pixels", "images", "objects"])
    options = parser.parse_args()
    try:
        print(json.dumps(look(str(options.source), options.kind)))
    except ValueError as error:
        print(error)
        sys.exit(3)


if __name__ == "__main__":
    main()
