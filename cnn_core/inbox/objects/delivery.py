"""Sort a delivery's images into new, known and bad ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from cnn_core.annotations.checks import REPEATED, Refused
from cnn_core.annotations.sets import LEFT_OUT_IMAGE
from cnn_core.data.objects.grown import SHA256
from cnn_core.data.objects.reading import Account, judge_all, read_pictures
from cnn_core.data.validation import CONFLICTING, refuse_too_many
from cnn_core.inbox.objects.classes import match_classes, of_known_classes
from cnn_core.inbox.objects.content import Box, ObjectContent, ObjectDelivery, boxes_by_hash, boxes_of, sizes_of
from cnn_core.inbox.objects.reading import read_labelled

SAME_BOX = 2.0  # pixels by which two formats may round the sides of one box


def read_delivery(
    path: Path,
    content: ObjectContent,
    pool: ThreadPoolExecutor,
    *,
    shown: str,
    prefix: str,
    max_bad_fraction: float,
    background: bool,
    refused: list[Refused],
) -> ObjectDelivery:
    """Read a delivery and sort its images into new, known and bad ones.

    Args:
        path: a folder.
        shown: the delivery's name, for messages.
        prefix: what the image_ids of the new images begin with.
        background: take images without a label as images that show no object.
        refused: takes what cannot be used, also when the delivery is refused.

    Raises:
        ValueError: the delivery cannot be read, holds nothing new, or too much of it is bad.
    """
    account = Account(refused=refused, shown=lambda text: text.replace(str(path), shown))
    every, left_out = read_labelled(path, account, shown, background)
    listed = len(every.annotations[1]) + sum(entry.kind == "annotation" for entry in refused)
    classes, warnings = match_classes(every.annotations[2], content.classes)
    images, objects = of_known_classes(every, classes, content.classes, account)
    pictures = {row.image_id: picture.sha256 for row, picture in read_pictures(images, account, pool)}
    images = images[images["image_id"].isin(pictures.keys())].reset_index(drop=True)
    images = images.assign(**{SHA256: [pictures[image_id] for image_id in images["image_id"]]})
    objects, _ = judge_all(objects, sizes_of(images), account)
    new, known = _sorted_out(images, objects, content, account)
    objects, of_known = _split_rows(objects, new, known)
    bad = {kind: account.bad(kind) for kind in ("image", "annotation")}
    unused = sum(every.unused.values())
    totals = {"image": len(new) + len(known) + len(bad["image"]), "annotation": listed}
    for kind, total in totals.items():
        refuse_too_many(bad[kind], total, max_bad_fraction, shown, what=f"{kind}s")
    images_listed = totals["image"] + sum(left_out.values())
    if new.empty:
        others = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
        raise ValueError(
            f"{shown} holds nothing new: of its {images_listed:,} images {len(known):,} are in the set already and "
            f"{len(bad['image']):,} are bad" + (f"; left out: {others}" if others else "")
        )
    repeated = sum(entry.kind == "annotation" and entry.reason == REPEATED for entry in refused)
    counts = {"listed": images_listed, "new": len(new), "known": len(known), "refused": len(bad["image"])}
    annotations = {
        "listed": listed + unused,
        "added": len(objects),
        "refused": len(bad["annotation"]),
        "left_out": len(of_known) + repeated + unused,
    }
    named = _named(new, set(content.every.annotations[0]["image_id"]), prefix)
    parts = set(content.every.annotations[0]["split"])
    new = new.assign(image_id=list(named.values()), split=[_part(split, parts) for split in new["split"]])
    objects = objects.assign(image_id=[named[image_id] for image_id in objects["image_id"]])
    return ObjectDelivery(
        images=new,
        objects=objects,
        boxes=boxes_by_hash(new, objects),
        counts=counts,
        annotations=annotations,
        left_out=left_out,
        warnings=[*warnings, *map(account.shown, every.warnings), *_mask_warnings(objects, content)],
    )


def _sorted_out(
    images: pd.DataFrame, objects: pd.DataFrame, content: ObjectContent, account: Account
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images that are new, and those whose pixels came before with the same boxes; with others they are bad."""
    boxes = boxes_of(objects)
    seen = dict(content.boxes)
    new, known = [], []
    rows = zip(images["image_id"], images["file"], images[SHA256], strict=True)
    for number, (image_id, file, digest) in enumerate(rows):
        own = boxes.get(image_id, [])
        if digest not in seen:
            seen[digest] = own
            new.append(number)
        elif _agree(own, seen[digest]):
            known.append(number)
        else:
            before, now = _words(seen[digest]), _words(own)
            other = f"{before} before" if before != now else "them at other places before"
            account.refuse("image", file, file, f"{CONFLICTING}: says {now}, where the same pixels had {other}")
            for box in own:
                account.refuse("annotation", file, f"a {box[0]}", f"{LEFT_OUT_IMAGE}: {CONFLICTING}")
    return images.iloc[new].reset_index(drop=True), images.iloc[known].reset_index(drop=True)


def _agree(first: Sequence[Box], second: Sequence[Box]) -> bool:
    """Whether two lists hold the same boxes, but for a rounding."""
    others = list(second)
    for label, *corners in first:
        same = (
            number
            for number, (name, *sides) in enumerate(others)
            if name == label and all(abs(a - b) <= SAME_BOX for a, b in zip(corners, sides, strict=True))
        )
        if (number := next(same, None)) is None:
            return False
        others.pop(number)
    return not others


def _words(boxes: Sequence[Box]) -> str:
    counts = Counter(label for label, *_ in boxes)
    return ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "no object"


def _split_rows(objects: pd.DataFrame, new: pd.DataFrame, known: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts = (objects[objects["image_id"].isin(images["image_id"])].reset_index(drop=True) for images in (new, known))
    return next(parts), next(parts)


def _named(images: pd.DataFrame, taken: set[str], prefix: str) -> dict[str, str]:
    """A new image_id for each image, below ``prefix``, that no image of the set bears."""
    names: dict[str, str] = {}
    for image_id in images["image_id"]:
        name, number = f"{prefix}/{image_id}", 1
        while name in taken:
            number += 1
            name = f"{prefix}-{number}/{image_id}"
        taken.add(name)
        names[image_id] = name
    return names


def _part(delivered: str, parts: set[str]) -> str:
    """The part that a new image comes into, so that no old image changes its split.

    ``ingest`` draws what the set's publisher has not set apart, so a delivery's own val or test counts only where the
    set has one, too.
    """
    apart = parts & {"val", "test"}
    rest = sorted(parts - apart)
    if not rest:  # all is drawn
        return min(apart)
    return delivered if delivered in apart else "train" if "train" in rest else rest[0]


def _mask_warnings(objects: pd.DataFrame, content: ObjectContent) -> list[str]:
    masks, before = int(objects["rle"].notna().sum()), content.every.annotations[1]["rle"].notna()
    if len(before) and before.all() and masks < len(objects):
        return [
            f"{len(objects) - masks:,} of its {len(objects):,} objects have no mask, where all of the set's have one"
        ]
    return []
