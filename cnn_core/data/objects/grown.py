"""A source of objects that grew by the inbox: the set as it was read from its own format, and what came, in one folder.

    <folder>/images/…           the files of the images, by their image_ids
             images.parquet     `tables.IMAGES`, and sha256 of the pixels ("" = not decoded)
             objects.parquet    `tables.OBJECTS`, and iscrowd
             refused.parquet    `Refused`: what the first source held and nobody can use
             manifest.json      format and classes, what is left out, written last

Any format grows in this way, and nothing of the first source is lost: image_ids, splits, classes and their order,
boxes, masks, and the account of what is not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cnn_core.annotations.checks import Refused
from cnn_core.annotations.sets import ObjectSet, read_set
from cnn_core.annotations.tables import SCHEMA_VERSION, read_images, read_objects, write_images, write_objects
from cnn_core.files import read_json, safe_file_name, whole_folder, write_json

SHA256 = "sha256"  # the further column of the images' table
REFUSED = "refused.parquet"
_SCHEMA = pa.schema([(name, pa.string()) for name in Refused._fields])


def is_grown(path: str | Path) -> bool:
    return (Path(path) / REFUSED).is_file() and (Path(path) / "objects.parquet").is_file()


def read_source(path: str | Path) -> ObjectSet:
    """Read a source of any format, or one that grew.

    Raises:
        ValueError: as `read_set`, or the grown source is not whole.
    """
    return _read_grown(Path(path)) if is_grown(path) else read_set(path)


def write_grown(target: Path, every: ObjectSet, *, generated: bool) -> None:
    """Write a set, with copies of its images, into ``target``, which may be the folder that it was read from."""
    images, objects, classes = every.annotations
    names = _file_names(images["image_id"], images["file"])
    with whole_folder(target) as partial:
        for name, file in zip(names, images["file"], strict=True):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, partial / name)
        write_images(partial / "images.parquet", images.assign(file=names))
        write_objects(partial / "objects.parquet", objects)
        rows = [entry._asdict() for entry in every.refused]
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial / REFUSED)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "kind": "grown",
            "format": every.format,
            "classes": classes,
            "counts": {str(split): int(count) for split, count in images["split"].value_counts().items()},
            "generated": generated,
            "left_out": dict(every.left_out),
            "unused": dict(every.unused),
            "warnings": list(every.warnings),
        }
        write_json(partial / "manifest.json", manifest)


def _read_grown(folder: Path) -> ObjectSet:
    manifest = read_json(folder / "manifest.json", made_by="ingest")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        version = manifest.get("schema_version")
        raise ValueError(f"{folder} has schema version {version}, not {SCHEMA_VERSION}: it is of another Gridflow")
    images = read_images(folder / "images.parquet")
    return ObjectSet(
        format=manifest["format"],
        annotations=(
            images.assign(file=[str(folder / name) for name in images["file"]]),
            read_objects(folder / "objects.parquet"),
            list(manifest["classes"]),
        ),
        refused=[Refused(**row) for row in pq.read_table(folder / REFUSED).to_pylist()],
        left_out=manifest["left_out"],
        unused=manifest["unused"],
        warnings=manifest["warnings"],
    )


def _file_names(image_ids: Sequence[str] | pd.Series, files: Sequence[str] | pd.Series) -> list[str]:
    """A path for each image: its image_id with the ending of its file, as far as a file can be called so."""
    names: dict[str, None] = {}
    for image_id, file in zip(image_ids, files, strict=True):
        ending = Path(file).suffix or ".img"
        stem = safe_file_name(image_id.removesuffix(ending))
        candidates = (f"images/{stem}{f'-{number}' if number else ''}{ending}" for number in range(len(names) + 1))
        names[next(name for name in candidates if name not in names)] = None
    return list(names)
