"""From a source of boxes and masks to a RAW set: read, check, deduplicate, split, write."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import REPEATED
from cnn_core.annotations.raw_objects import unpack_folder
from cnn_core.annotations.sets import ObjectSet
from cnn_core.data.ingestion import IngestParams, Spool
from cnn_core.data.near_copies import (
    NearCopies,
    Pairs,
    find_near_copies,
    near_warnings,
    refuse_gutted_classes,
    smallest_keys,
)
from cnn_core.data.objects.grown import read_source
from cnn_core.data.objects.judge import signatures
from cnn_core.data.objects.raw import SPLITS, Image, write_raw_objects
from cnn_core.data.objects.reading import Account, judge_all, read_pictures
from cnn_core.data.objects.sheet import draw_sheet
from cnn_core.data.objects.source import on_disk
from cnn_core.data.objects.statistics import statistics
from cnn_core.data.splits import assign_split
from cnn_core.data.validation import CONFLICTING, Refusal, count_reasons, find_duplicates, refuse_too_many
from cnn_core.files import is_composed, whole_folder
from cnn_core.images.near_duplicates import near_pairs

_EXAMPLES = 20  # of images that repeat others, in the manifest
_SET = "the set"  # in sentences that name a class of other kinds of sets


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """An image as it was read; its bytes lie in the spool."""

    id: str
    part: str  # the publisher's split, or ""
    span: tuple[int, int]
    height: int
    width: int
    sha256: str
    thumbnail: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rule:
    """Which splits are drawn, and by which shares; what the publisher has set apart stays where it is."""

    kept: frozenset[str]  # parts whose images stay
    val_fraction: float
    test_fraction: float

    def split(self, record: _Record, key: str, seed: int) -> str:
        if record.part in self.kept:
            return record.part
        return assign_split(key, seed=seed, val_fraction=self.val_fraction, test_fraction=self.test_fraction)


def ingest_objects(
    name: str,
    params: IngestParams,
    folder: str | Path,
    *,
    threads: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Write the RAW set ``name`` into ``folder`` and return its manifest. On an error nothing is written.

    Raises:
        ValueError: the source cannot be read, too much of it is bad, or no image is left to train from.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        on_disk(params.source, unpack_folder(folder, "").parent) as (path, shown),
        tempfile.TemporaryFile(dir=folder.parent) as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        account = Account(refused=[], shown=lambda text: text.replace(str(path), shown))
        spool = Spool(file)
        try:
            every = read_source(path)
        except ValueError as error:
            raise ValueError(account.shown(str(error))) from None
        for entry in every.refused:
            account.refuse(*entry)
        records = list(_records(every.annotations[0], account, spool, pool, on_progress))
        return _ingest(name, params, folder, every, records, account, spool, threads, generated=is_composed(path))


def _ingest(
    name: str,
    params: IngestParams,
    folder: Path,
    every: ObjectSet,
    records: list[_Record],
    account: Account,
    spool: Spool,
    threads: int | None,
    *,
    generated: bool,
) -> dict[str, Any]:
    images, objects, classes = every.annotations
    listed = Counter(entry.kind for entry in every.refused)
    totals = {"image": len(images) + listed["image"], "annotation": len(objects) + listed["annotation"]}
    sizes = {record.id: (record.width, record.height) for record in records}
    objects, clipped = judge_all(objects, sizes, account)
    records, counts = _without_copies(records, objects, account)
    for kind, total in totals.items():
        refuse_too_many(account.bad(kind), total, params.max_bad_fraction, params.source, what=f"{kind}s")
    if not records:
        raise ValueError(f"{params.source}: none of its {len(images):,} images can be used: {account.refused[-1]}")
    near = _near(records, search=params.near_duplicates, threads=threads)
    keys = dict(zip(_ids(records), smallest_keys([r.sha256 for r in records], near.groups), strict=True))
    groups = dict(zip(_ids(records), near.groups, strict=True))
    available = Counter({_SET: sum(record.part != "test" for record in records)})
    account.gone += near.left_out
    records = _without(records, near.left_out)
    rule = _rule(set(images["split"]), params)
    splits = {record.id: rule.split(record, keys[record.id], params.seed) for record in records}
    trained = {_SET: sum(split == "train" for split in splits.values())}
    if not trained[_SET]:
        bad = len(account.bad("image"))
        raise ValueError(
            f"{params.source}: of {len(images):,} images none is left to train from ({len(account.gone):,} repeat "
            f"others, {bad:,} are refused, {len(splits):,} are in val or test): add images, or choose another seed"
        )
    if "train" not in rule.kept:
        share = 1 - rule.val_fraction - rule.test_fraction
        refuse_gutted_classes(near, available, trained, train_fraction=share, name=name)
    kept = objects[objects["image_id"].isin(splits.keys())].reset_index(drop=True)
    account.gone_objects = len(objects) - len(kept)
    figures = statistics(kept, splits, {record.id: (record.width, record.height) for record in records}, classes)
    description = {
        "set": name,
        "format": every.format,
        "mode": "RGB",
        "classes": classes,
        "source": params.source,
        "generated": generated,
        "seed": params.seed,
        **_accounts(every, account, totals, objects=len(kept)),
        "clipped": clipped,
        "notes": dict(account.notes),
        "objects": figures,
        "duplicates": {
            **counts,
            **near.counts,
            "examples": [f"{entry.id}: {entry.detail}" for entry in account.gone][:_EXAMPLES],
        },
        "warnings": [
            *map(account.shown, every.warnings),
            *_unwatched(params.source, set(images["split"])),
            *near_warnings(near, available),
            *_warnings(splits, groups, figures["by_class"]),
        ],
    }
    return _write(folder, records, splits, kept, _quarantine(account), description, spool)


# Reading


def _records(
    images: pd.DataFrame, account: Account, spool: Spool, pool: ThreadPoolExecutor, on_progress: Callable[[int], None]
) -> Iterator[_Record]:
    for row, picture in read_pictures(images, account, pool, on_progress):
        account.notes.update(picture.notes)
        yield _Record(
            id=row.image_id,
            part=row.split,
            span=spool.add(picture.image),
            height=picture.height,
            width=picture.width,
            sha256=picture.sha256,
            thumbnail=picture.thumbnail,
        )


# Deciding


def _without_copies(
    records: list[_Record], objects: pd.DataFrame, account: Account
) -> tuple[list[_Record], dict[str, int]]:
    """Keep the first of images with equal pixels; those that are not learned from come first."""
    rank = {"test": 0, "val": 1}
    times = Counter(record.sha256 for record in records)
    again = [record for record in records if times[record.sha256] > 1]
    ordered = sorted(again, key=lambda record: rank.get(record.part, 2))
    labels, names = signatures(objects, _ids(ordered))
    tested = [record.part == "test" for record in ordered]
    copies = find_duplicates(_ids(ordered), [record.sha256 for record in ordered], labels, tested, names)
    account.gone += copies.left_out
    return _without(records, copies.left_out), copies.counts


def _near(records: Sequence[_Record], *, search: bool, threads: int | None) -> NearCopies:
    pairs: Pairs = near_pairs([record.thumbnail for record in records], threads=threads) if search else ()
    tested = [record.part == "test" for record in records]
    return find_near_copies(_ids(records), [0] * len(records), tested, ((_SET,),), pairs, refuse_near_test=True)


def _rule(parts: set[str], params: IngestParams) -> _Rule:
    """What to draw of a set whose publisher has made these parts ("" = none)."""
    apart = parts & {"val", "test"}
    if not apart or not parts - apart:
        return _Rule(kept=frozenset(), val_fraction=params.val_fraction, test_fraction=params.test_fraction)
    if "val" in apart:
        return _Rule(kept=frozenset(parts - {""}), val_fraction=0.0, test_fraction=0.0)
    return _Rule(kept=frozenset(apart), val_fraction=params.val_fraction, test_fraction=0.0)


def _unwatched(source: str, parts: set[str]) -> Iterator[str]:
    """A sentence where a source is one file that leads to others, of which DVC sees no change."""
    ending = Path(source).suffix.lower()
    if ending in (".yaml", ".yml") or (ending == ".json" and len(parts) > 1):
        yield (
            f"DVC watches {source} alone, so nobody notices a change in the files that it leads to: name their folder "
            "as the source"
        )


def _warnings(
    splits: Mapping[str, str], groups: Mapping[str, int], by_class: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    members: dict[int, set[str]] = {}
    for image_id, split in splits.items():
        members.setdefault(groups[image_id], set()).add(split)
    if torn := sum(len(parts) > 1 for parts in members.values()):
        yield f"{torn:,} groups of near-duplicates lie in several of the publisher's splits"
    counts = Counter(splits.values())
    for split in SPLITS:
        if not counts[split]:
            yield f"{split} has no images: the set's publisher made other parts, or it has few images"
        elif missing := [label for label, count in by_class[split].items() if not count]:
            yield f"{split} has no object of the class {', '.join(missing)}"


# Writing


def _accounts(every: ObjectSet, account: Account, totals: Mapping[str, int], *, objects: int) -> dict[str, Any]:
    """Listed = read + refused + left out, for images and for annotations."""
    bad = {kind: account.bad(kind) for kind in ("image", "annotation", "outline")}
    repeated = sum(entry.kind == "annotation" and entry.reason == REPEATED for entry in account.refused)
    gone = Counter(entry.reason for entry in account.gone if entry.reason != CONFLICTING)
    unused = {
        "repeats another annotation": repeated,
        "of an image that repeats another": account.gone_objects,
        **every.unused,
    }
    return {
        "rows_read": totals["image"],
        "left_out": {**every.left_out, **gone},
        "refused": {"total": len(bad["image"]), "reasons": count_reasons(bad["image"])},
        "annotations": {
            "listed": totals["annotation"] + sum(every.unused.values()),
            "read": objects,
            "refused": {"total": len(bad["annotation"]), "reasons": count_reasons(bad["annotation"])},
            "left_out": {reason: count for reason, count in unused.items() if count},
            "without_outline": len(bad["outline"]),
        },
        "images_listed": totals["image"] + sum(every.left_out.values()),
    }


def _quarantine(account: Account) -> list[tuple[str, str, str, str]]:
    entries = [
        ("image", entry.name, "", entry.reason) if entry.kind == "image" else (*entry,) for entry in account.refused
    ]
    return sorted([*entries, *(("image", each.id, "", f"{each.reason}: {each.detail}") for each in account.gone)])


def _write(
    folder: Path,
    records: Sequence[_Record],
    splits: Mapping[str, str],
    objects: pd.DataFrame,
    quarantine: Sequence[tuple[str, str, str, str]],
    description: Mapping[str, Any],
    spool: Spool,
) -> dict[str, Any]:
    spans = {record.id: record.span for record in records}
    rows = sorted(
        (Image(r.id, splits[r.id], r.width, r.height, r.sha256, r.span[1]) for r in records),
        key=lambda row: (SPLITS.index(row.split), row.id),
    )
    order = {row.id: number for number, row in enumerate(rows)}
    objects = objects.iloc[np.argsort(objects["image_id"].map(order).to_numpy(), kind="stable")]
    with whole_folder(folder) as partial:
        manifest = write_raw_objects(
            partial, rows, lambda row: spool.read(spans[row.id]), objects, quarantine, description
        )
        title = f"{description['set']}: images with their boxes"
        draw_sheet(partial / "sheet.png", rows, lambda row: spool.read(spans[row.id]), objects, title=title)
    return manifest


def _ids(records: Sequence[_Record]) -> list[str]:
    return [record.id for record in records]


def _without(records: Sequence[_Record], left_out: Sequence[Refusal]) -> list[_Record]:
    ids = {entry.id for entry in left_out}
    return [record for record in records if record.id not in ids]
