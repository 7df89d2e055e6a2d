"""The kinds of reasons for which images and annotations are refused, so that they can be counted."""

from __future__ import annotations

from cnn_core.annotations.checks import REPEATED
from cnn_core.annotations.sets import LEFT_OUT_IMAGE
from cnn_core.data.validation import CONFLICTING
from cnn_core.images.decoding import (
    DAMAGED,
    EMPTY,
    NOT_AN_IMAGE,
    TOO_MANY_BYTES,
    TOO_MANY_PIXELS,
    TOO_NARROW,
    TOO_SMALL,
    UNKNOWN_RANGE,
    UNREADABLE,
)

_OF_IMAGES = (
    EMPTY,
    NOT_AN_IMAGE,
    DAMAGED,
    UNREADABLE,
    TOO_MANY_PIXELS,
    TOO_MANY_BYTES,
    TOO_SMALL,
    TOO_NARROW,
    UNKNOWN_RANGE,
)
# A part of the sentence -> what it is counted as; the first that fits.
_KINDS = (
    (LEFT_OUT_IMAGE, LEFT_OUT_IMAGE),
    (CONFLICTING, CONFLICTING),
    ("it shows the class", "unknown class"),
    ("its label file", "label file that is not read"),
    (REPEATED, "repeats another annotation"),
    ("not an image", NOT_AN_IMAGE),
    ("is not there", "file is missing"),
    ("but the set says", "size differs from the file's"),
    ("number of pixels", "size that is no number"),
    ("has the size", "size differs from the file's"),
    ("no id", "malformed entry"),
    ("the id", "malformed entry"),
    ("no mapping", "malformed entry"),
    ("names no image", "malformed entry"),
    ("name of a file", "malformed entry"),
    ("iscrowd", "malformed entry"),
    ("XML", "XML cannot be used"),
    ("rotated", "rotated box"),
    ("which is not read", "of a kind that is not read"),
    ("sticks", "box outside of its picture"),
    ("outside", "box outside of its picture"),
    ("from 0 to 1", "box outside of its picture"),
    ("its box is", "box without area"),
    ("no number", "no numbers"),
    ("numbers", "no numbers"),
    ("class", "unknown class"),
    ("categor", "unknown class"),
    ("label", "unknown class"),
    ("its image", "image is not listed"),
    ("polygon", "polygon that is none"),
    ("outline", "polygon that is none"),
    ("mask", "mask that does not fit"),
    ("rle", "mask that does not fit"),
    ("segmentation", "mask that does not fit"),
)


def category(reason: str) -> str:
    """One of a few texts for a reason."""
    start = reason.partition(":")[0]
    if start in _OF_IMAGES:
        return start
    return next((kind for sign, kind in _KINDS if sign in reason), "other")
