"""What ingestion does with near-duplicates: one split for each group, none in train of what the test part shows."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cnn_core.data.validation import Refusal
from cnn_core.images.near_duplicates import joined

NEAR_TEST = "near-duplicate of a test image"  # left out, but not bad
LEAST = 0.5  # of the images that train should hold of a class

Pairs = Iterable[tuple[np.ndarray, np.ndarray]]  # rows and rows, as `images.near_duplicates.near_pairs` yields them


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearCopies:
    """The decisions of `find_near_copies`. Numbers count rows.

    Attributes:
        groups: a number for each row, the same for near-duplicates.
        across_classes: the ids of each group with more than one label; all stay.
        largest_of_class: how many images of a class the largest group holds, apart from the publisher's val and test.
    """

    groups: list[int]
    left_out: list[Refusal]
    counts: dict[str, int]
    left_out_of_class: dict[str, int]
    across_classes: list[list[str]]
    largest_of_class: dict[str, int]


def find_near_copies(
    ids: Sequence[str],
    labels: Sequence[int],
    ranks: Sequence[int],
    classes: Sequence[Sequence[str]],
    pairs: Pairs,
    *,
    refuse_near_test: bool,
) -> NearCopies:
    """Decide what happens to labelled rows that show the same. Exact duplicates have been left out before.

    They all stay, as a group shares a split. With ``refuse_near_test``, a row is left out that itself (not through
    others) shows what a row of a higher rank with its label shows; ``ranks`` are 2 in the publisher's own test part, 1
    in its val part, and 0 in what is still to be split. A group with two labels is
    suspect of being none, so nothing is left out for its sake; it is reported. ``classes`` are the names that each
    label stands for: one, or several where images may have several.
    """
    label, rank = np.asarray(labels, int), np.asarray(ranks, int)
    tested = rank > 0
    groups, partners = np.arange(len(ids)), np.full(len(ids), -1)
    for left, right in pairs:
        if not len(left):
            continue
        groups = joined(len(ids), groups[left], groups[right])[groups]
        leak = (rank[left] != rank[right]) & (label[left] == label[right])
        left_is_lower = rank[left] < rank[right]
        trained, test = np.where(left_is_lower, left, right)[leak], np.where(left_is_lower, right, left)[leak]
        partners[trained] = test
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    left_out: list[Refusal] = []
    across: list[list[str]] = []
    lost: Counter[str] = Counter()
    largest: dict[str, int] = {}
    counts = {"near": 0, "near_train_in_test": 0, "near_across_classes": 0}
    for rows in members.values():
        counts["near"] += len(rows) - 1
        for name, size in Counter(name for row in rows if not tested[row] for name in classes[label[row]]).items():
            largest[name] = max(size, largest.get(name, 0))
        if tested[rows].any():
            counts["near_train_in_test"] += int((~tested[rows]).sum())
        if len(set(label[rows].tolist())) > 1:
            counts["near_across_classes"] += len(rows)
            across.append([ids[row] for row in rows])
            continue
        for row in rows:
            if refuse_near_test and partners[row] >= 0:
                detail = f"shows what {ids[partners[row]]} shows, which is kept"
                left_out.append(Refusal(id=ids[row], reason=NEAR_TEST, detail=detail))
                lost.update(classes[label[row]])
    return NearCopies(
        groups=groups.tolist(),
        left_out=left_out,
        counts=counts,
        left_out_of_class=dict(sorted(lost.items())),
        across_classes=across,
        largest_of_class=largest,
    )


def smallest_keys(hashes: Sequence[str], groups: Sequence[int]) -> list[str]:
    """Split keys: the smallest SHA-256 of each row's group.

    A row without a near-duplicate has its own hash, so adding rows moves it to another split only when one of them is
    its near-duplicate (or ties it to others in a chain).
    """
    smallest: dict[int, str] = {}
    for digest, group in zip(hashes, groups, strict=True):
        smallest[group] = min(digest, smallest.get(group, digest))
    return [smallest[group] for group in groups]


def refuse_gutted_classes(
    near: NearCopies, available: Mapping[str, int], train: Mapping[str, int], *, train_fraction: float, name: str
) -> None:
    """Stop when near-duplicates take most of a class away from train, by leaving out or by one large group.

    Args:
        available: the labelled images of each class outside the publisher's val and test parts.
        train: those of them that train will hold.
        train_fraction: the share of them that train should hold.

    Raises:
        ValueError: a class has less than `LEAST` of what it should; the message counts and says what to do.
    """
    gutted = [label for label, count in available.items() if train[label] < LEAST * train_fraction * count]
    faults = [
        f"of {available[label]:,} images of {label}, {near.left_out_of_class.get(label, 0):,} are left out of train as "
        f"near-duplicates of test images, and one group of near-duplicates holds {near.largest_of_class[label]:,}"
        for label in gutted
        if max(near.left_out_of_class.get(label, 0), near.largest_of_class[label] - 1) >= LEAST * available[label]
    ]
    if faults:
        examples = "; ".join(f"{entry.id} {entry.detail}" for entry in near.left_out[:3]) or "none is left out"
        raise ValueError(
            f"near-duplicates take most of a class away from train: {'; '.join(faults)} ({examples}). "
            f"If these are different pictures, set ingest.{name}.near_duplicates to false; if they are copies, the "
            "source needs other pictures, or other parts. Nothing was written"
        )


def near_warnings(near: NearCopies, available: Mapping[str, int]) -> list[str]:
    """Sentences about what near-duplicates did, with counts by class."""
    warnings = []
    if near.left_out:
        counts = ", ".join(f"{count:,} of {label}" for label, count in near.left_out_of_class.items())
        warnings.append(f"near-duplicates of test images are left out of train: {counts}")
    for label, size in near.largest_of_class.items():
        if size > LEAST * available[label] and size > 2:
            warnings.append(
                f"one group of near-duplicates holds {size:,} of the {available[label]:,} images of {label}, so they "
                "share a split"
            )
    if near.across_classes:
        warnings.append(
            f"{near.counts['near_across_classes']:,} images look like near-duplicates of images with another label; "
            "all stay, as one label is wrong or they are different pictures, such as "
            f"{', '.join(near.across_classes[0][:3])}"
        )
    return warnings
