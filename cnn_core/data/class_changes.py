"""What became of a set's classes since another version of it: new, gone, or renamed.

A class was renamed when most of its images (of a set of objects: its boxes) are still there under one new name. Images
are known by the SHA-256 of their pixels, so file names and the numbering of classes do not matter. Where too few
images are the same it cannot be known, and the classes are gone and new.

Versions are remembered as small tables of image and class, since DVC removes a stage's former output before it runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

ANNOTATIONS = "annotations.parquet"  # of a set of objects
RENAMED = "renamed.json"  # in a model folder: the names that a set gives to the model's classes now
BOX = ["x1", "y1", "x2", "y2"]
KEPT = 2  # versions of a set that are remembered


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetLabels:
    """A version of a set: its classes, and which one each labelled image or object is of."""

    content: str  # its hash
    source: str
    unit: str  # images or objects
    classes: list[str]
    items: pd.DataFrame  # key, class_name; several rows a key where an image may have several classes

    @property
    def counts(self) -> dict[str, int]:
        counts = self.items["class_name"].value_counts()
        return {name: int(counts.get(name, 0)) for name in self.classes}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassChanges:
    """The classes that only one of two versions has, with the number of their images or objects."""

    unit: str
    former: str  # the former version's content and source, in words
    new: dict[str, int]
    gone: dict[str, int]
    renamed: dict[str, Rename]  # by the former name

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.renamed)

    def plain(self) -> dict[str, Any]:
        """Plain values; none where the classes are the same."""
        return dataclasses.asdict(self) if self else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rename:
    now: str
    same: int  # images or objects that had the former name and have the new one
    of: int  # that had the former name


def read_labels(raw: Path) -> SetLabels:
    """Read the labels of a RAW set of images or of objects.

    Raises:
        OSError, KeyError, ValueError: the folder holds no RAW set.
    """
    manifest = json.loads((raw / "manifest.json").read_text(encoding="utf-8"))
    objects = (raw / ANNOTATIONS).is_file()
    several = bool(manifest.get("multilabel"))
    items = _objects(raw) if objects else _images(raw, manifest["classes"], several=several)
    return SetLabels(
        content=str(manifest.get("content_sha256", "")),
        source=str(manifest.get("source", "")),
        unit="objects" if objects else "images",
        classes=list(manifest["classes"]),
        items=items.drop_duplicates(["key", "class_name"] if several else "key", ignore_index=True),
    )


def compare_classes(former: SetLabels, present: SetLabels) -> ClassChanges:
    """Tell which classes ``present`` has gained, lost and renamed since ``former``."""
    before, now = former.counts, present.counts
    gone = {name: count for name, count in before.items() if name not in now}
    new = {name: count for name, count in now.items() if name not in before}
    renamed = _renames(former, present, gone, new) if gone and new and former.unit == present.unit else {}
    names = {rename.now for rename in renamed.values()}
    return ClassChanges(
        unit=present.unit,
        former=f"version {former.content[:12]}, from {former.source}",
        new={name: count for name, count in new.items() if name not in names},
        gone={name: count for name, count in gone.items() if name not in renamed},
        renamed=renamed,
    )


def sentences(changes: Mapping[str, Any]) -> Iterator[str]:
    """Say in words what `ClassChanges.plain` holds."""
    if not changes:
        return
    unit, since = changes["unit"], f"since the set's former version ({changes['former']})"
    for name, count in changes["new"].items():
        yield f"the class {name} is new {since}: {count:,} {unit}"
    for name, count in changes["gone"].items():
        yield f"the class {name} is gone {since}, where it had {count:,} {unit}"
    for name, rename in changes["renamed"].items():
        yield (
            f"the class {name} is now called {rename['now']} {since}: {rename['same']:,} of its {rename['of']:,} "
            f"{unit} are the same"
        )


def remember(folder: Path, name: str, labels: SetLabels) -> None:
    """Remember a version of the set ``name`` in ``folder`` as its newest; only the last few are kept."""
    path = folder / f"{name}@{labels.content[:12]}.parquet"
    if path.exists():
        os.utime(path)
        return
    folder.mkdir(parents=True, exist_ok=True)
    table = labels.items.copy()
    table.attrs = {key: getattr(labels, key) for key in ("content", "source", "unit", "classes")}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_parquet(partial, index=False)
    partial.replace(path)
    for old in _remembered(folder, name)[KEPT:]:
        old.unlink(missing_ok=True)


def former_version(folder: Path, name: str, content: str) -> SetLabels | None:
    """The newest version that is remembered and has other content, if any."""
    for path in _remembered(folder, name):
        if path.name != f"{name}@{content[:12]}.parquet":
            table = pd.read_parquet(path)
            return SetLabels(**table.attrs, items=table)
    return None


def names_now(model: str | Path, names: Sequence[str]) -> list[str]:
    """The names of a model's classes, in their order, as its folder says that a set calls them now."""
    path = Path(model) / RENAMED
    renamed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [renamed.get(name, name) for name in names]


def _remembered(folder: Path, name: str) -> list[Path]:
    """The files of a set's versions, the newest first."""
    return sorted(folder.glob(f"{name}@*.parquet"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _images(raw: Path, classes: Sequence[str], *, several: bool) -> pd.DataFrame:
    table = _rows(raw, ["sha256", "labels" if several else "label"])
    if several:
        table = table.explode("labels").dropna().rename(columns={"labels": "label"})
    table = table[table["label"] >= 0]
    names = [classes[label] for label in table["label"]]
    return pd.DataFrame({"key": table["sha256"].astype(str).to_numpy(), "class_name": names}, dtype=str)


def _objects(raw: Path) -> pd.DataFrame:
    """Objects, each known by its picture and its box to a tenth of a pixel."""
    hashes = _rows(raw, ["id", "sha256"]).set_index("id")["sha256"]
    table = pq.read_table(raw / ANNOTATIONS, columns=["image_id", "class_name", *BOX]).to_pandas()
    boxes = table[BOX].astype(float).round(1).astype(str).agg(" ".join, axis=1) if len(table) else table["image_id"]
    keys = table["image_id"].map(hashes).astype(str) + " " + boxes
    return pd.DataFrame({"key": keys.to_numpy(), "class_name": table["class_name"].to_numpy()}, dtype=str)


def _rows(raw: Path, columns: list[str]) -> pd.DataFrame:
    parts = [pq.read_table(part, columns=columns).to_pandas() for part in sorted(raw.glob("part-*.parquet"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: [] for name in columns})


def _renames(
    former: SetLabels, present: SetLabels, gone: Mapping[str, int], new: Mapping[str, int]
) -> dict[str, Rename]:
    """Most of the former class's images have the new name, and most of the new class's images that were there before
    had the former one. Of several labels an image, a pair that shares more of its images goes first, and neither label
    has two partners."""
    both = former.items.merge(present.items, on="key", suffixes=("", "_now"))
    of_new = both.drop_duplicates(["key", "class_name_now"])["class_name_now"].value_counts()
    moved = both[both["class_name"].isin(gone) & both["class_name_now"].isin(new)]
    pairs = moved.value_counts(["class_name", "class_name_now"])
    renames: dict[str, Rename] = {}

    def share(pair: tuple[str, str]) -> float:
        return pairs[pair] / (gone[pair[0]] + of_new[pair[1]] - pairs[pair])

    for before, now in sorted(pairs.index, key=share, reverse=True):
        same = int(pairs[before, now])
        is_free = before not in renames and now not in {rename.now for rename in renames.values()}
        if is_free and 2 * same > gone[before] and 2 * same > of_new[now]:
            renames[before] = Rename(now=now, same=same, of=gone[before])
    return renames
