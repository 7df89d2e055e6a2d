"""Texts of people (names of classes and images) as the picture's fonts can draw them."""

from __future__ import annotations

import re

LONGEST = 40  # characters; a longer text would make the picture as wide as itself
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def drawable(text: object, longest: int = LONGEST) -> str:
    """A text on one line, without what Pillow cannot measure, cut where it is long."""
    line = _CONTROL.sub(" ", str(text))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
