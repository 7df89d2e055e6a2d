"""What kind of data set a source holds, by the names of its files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from cnn_core.data.digit_sources import is_table
from cnn_core.data.objects.source import are_objects, is_file_of_objects
from cnn_core.images.archives import open_files

ADVICE = (
    "name a folder or .zip with Kaggle's train.csv and test.csv, MNIST's idx files, or seg_train/<class>/ and "
    "seg_test/<class>/ with images; `gridflow fetch digits` or `gridflow fetch scenes` gets one of Kaggle's"
)
MAX_BYTES = 64 << 30


def kind_of(source: str | Path) -> Literal["pixels", "images", "objects"]:
    """Return ``objects`` for a set of boxes or masks (`are_objects`), ``pixels`` for a folder or .zip with train.csv or
    idx files, at most one folder down, else ``images``.

    Raises:
        ValueError: there is no such folder or .zip.
    """
    if is_file_of_objects(source):
        return "objects"
    with open_files(source, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        if are_objects(files):
            return "objects"
        return "pixels" if any(is_table(PurePosixPath(name)) for name in files.names) else "images"
