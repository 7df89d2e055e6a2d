"""What kind of data set a source holds, by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cnn_core.data.layouts.pixel_files import has_pixel_tables, top_files
from cnn_core.data.layouts.pixel_idx import is_idx
from cnn_core.data.objects.source import are_objects, is_file_of_objects
from cnn_core.images.archives import open_files

ADVICE = (
    "name a folder or .zip with a table of pixels (train.csv), MNIST's idx files, a folder of images for each class, "
    "or images and a table of their labels; `gridflow fetch digits` or `gridflow fetch scenes` gets one of Kaggle's"
)
MAX_BYTES = 64 << 30


def kind_of(source: str | Path) -> Literal["pixels", "images", "objects"]:
    """Tell the kind: ``objects`` for a set of boxes or masks (`are_objects`), ``pixels`` for tables of pixels or idx
    files, at most one folder down, else ``images``.

    Raises:
        ValueError: there is no such folder or .zip.
    """
    if is_file_of_objects(source):
        return "objects"
    with open_files(source, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        if are_objects(files):
            return "objects"
        is_pixels = any(map(is_idx, top_files(files))) or has_pixel_tables(files)
    return "pixels" if is_pixels else "images"
