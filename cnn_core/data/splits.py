"""Which split an image belongs to. It follows from the image's key and the seed alone, so adding data moves no image.

The key of an image of the kind ``pixels`` is its ink (`ink_keys`). That of the kind ``images`` is its
hash, or the smallest hash among its near-duplicates (`images.near_duplicates`): adding a near-duplicate of an image
may move that image, but nothing else does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

FEW = 10  # images of a class, of which nothing reliable is learnt
_SHOWN = 10  # classes that a sentence names


def ink_keys(images: np.ndarray) -> list[str]:
    """The split keys of pixels, uint8 (N, H, W). Near-duplicates share a key.

    The key is the SHA-256 of an image's ink: the pixels brighter than half of the image's own maximum, cropped to
    their bounding box. So shifts that cut nothing off and changes of contrast share a key. Rotation, zoom, noise or
    another thickness of the stroke are not caught: a looser hash would also tie different characters together.
    """
    ink = images.astype(np.uint16) * 2 > images.max(axis=(1, 2), keepdims=True)
    rows, columns = ink.any(axis=2), ink.any(axis=1)
    tops, bottoms = rows.argmax(axis=1), rows.shape[1] - rows[:, ::-1].argmax(axis=1)
    lefts, rights = columns.argmax(axis=1), columns.shape[1] - columns[:, ::-1].argmax(axis=1)
    keys = []
    for mask, top, bottom, left, right in zip(ink, tops, bottoms, lefts, rights, strict=True):
        crop = mask[top:bottom, left:right]  # of a blank image: all of it
        keys.append(hashlib.sha256(repr(crop.shape).encode() + np.packbits(crop).tobytes()).hexdigest())
    return keys


def assign_split(key: str, *, seed: int, val_fraction: float, test_fraction: float) -> str:
    """Assign an image with this key to ``test``, ``val`` or ``train``.

    The SHA-256 of seed and key is read as a number in [0, 1): it lies below ``test_fraction``, in the
    ``val_fraction`` above that, or in the rest.
    """
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    number = int.from_bytes(digest[:8], "big") / 2**64
    if number < test_fraction:
        return "test"
    return "val" if number < test_fraction + val_fraction else "train"


def _listed(names: Sequence[str]) -> str:
    """The names, or the first of them and how many others."""
    more = f" and {len(names) - _SHOWN:,} others" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def check_proportions(class_counts: Mapping[str, Mapping[str, int]], *, far: float = 4.0) -> list[str]:
    """Warn of every class that val or test lacks, and of unequal shares, as hashing keeps them equal only on average.

    Args:
        class_counts: split -> class -> images.
        far: how many standard deviations of the binomial a share may deviate without a warning.

    Raises:
        ValueError: train lacks a class.
    """
    splits = ("train", "val", "test")
    classes = list(class_counts["train"])
    sums = {name: sum(class_counts[split][name] for split in splits) for name in classes}
    total, warnings = sum(sums.values()), []
    if lacking := [name for name in classes if not class_counts["train"][name]]:
        raise ValueError(
            f"no image of the class {_listed(lacking)} is left to train from, of {total:,} labelled ones in all: "
            "add images of it to the source, or choose another seed"
        )
    if few := [name for name in classes if sums[name] < FEW]:
        listed = _listed([f"{name} ({sums[name]})" for name in few])
        warnings.append(f"there are less than {FEW} images of the class {listed}: too few to learn and measure it by")
    for split in ("val", "test"):
        if missing := [name for name in classes if not class_counts[split][name]]:
            warnings.append(f"{split} has no image of the class {_listed(missing)}")
    for split in splits:
        size = sum(class_counts[split].values())
        for name in classes:
            share, count = sums[name] / total, class_counts[split][name]
            if count and abs(count - size * share) > far * math.sqrt(max(size * share * (1 - share), 1.0)):
                warnings.append(f"{split} has {count / size:.1%} of the class {name}, all splits {share:.1%}")
    return warnings
