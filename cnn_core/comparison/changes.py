"""One figure in two runs: how it changed, and whether by more than luck.

Two classifiers that answered the same test images are told apart image by image (McNemar). Other figures that stand
with a 95 % interval are compared by the interval of their difference. Of all others it is not known what luck would do.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from cnn_core.comparison.promotion import Comparison, mcnemar
from cnn_core.reporting.headlines import Headline

ALPHA = 0.05
Interval = tuple[float, float]
Method = Literal["images", "intervals", "none"]
Meaning = Literal["same", "better", "worse", "clear", "not clear", "not known"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One figure in both runs.

    Attributes:
        key: "evaluate-digits:accuracy", the metrics file and the key in it (nested ones with slashes).
        headline: one of the report's headline figures, of which more is better.
        before, after: with their 95 % intervals, where the metrics hold them.
        method: how the change was judged; "images" is a paired test.
        meaning: "clear" and "not clear" of a figure of which it is not known whether more is better.
        why: the numbers behind it, for a person.
        p_value: of the paired test, two-sided; shared: images that both answered; gained, lost: right in only one.
        low, high: the 95 % interval of the difference.
    """

    key: str
    label: str
    headline: bool
    unit: str
    before: float
    after: float
    before_interval: Interval | None
    after_interval: Interval | None
    method: Method
    meaning: Meaning
    why: str
    p_value: float | None = None
    shared: int | None = None
    gained: int | None = None
    lost: int | None = None
    low: float | None = None
    high: float | None = None


def changed(
    key: str,
    before: tuple[float, Interval | None],
    after: tuple[float, Interval | None],
    *,
    headline: Headline | None = None,
    test: Comparison | None = None,
) -> Change:
    """
    Args:
        before, after: the figure with its interval, where it has one.
        headline: what the report says of it.
        test: of an accuracy: both classifiers' answers to the same images.
    """
    told = _judged(*before, *after, test)
    if headline and told["meaning"] == "clear":
        gain = after[0] - before[0] if told["method"] == "intervals" else told["gained"] - told["lost"]
        told["meaning"] = "better" if (gain > 0) == headline.higher_is_better else "worse"
    return Change(
        key=key,
        label=headline.label if headline else key.replace("_", " ").replace(":", ": "),
        headline=headline is not None,
        unit=headline.unit if headline else "",
        before=before[0],
        after=after[0],
        before_interval=before[1],
        after_interval=after[1],
        **told,
    )


def _judged(
    before: float, bounds: Interval | None, after: float, other_bounds: Interval | None, test: Comparison | None
) -> dict[str, Any]:
    if test is not None:
        p_value = two_sided(test.gained, test.lost)
        why = f"{test.gained} gained, {test.lost} lost of {test.n:,} images, p = {p_value:.2g}"
        meaning = "clear" if p_value <= ALPHA else "not clear"
        if test.gained == test.lost == 0 and before == after:
            meaning, why = "same", f"the same {test.n:,} answers are right"
        counts = {"p_value": p_value, "shared": test.n, "gained": test.gained, "lost": test.lost}
        return {"method": "images", "meaning": meaning, "why": why, **counts}
    if before == after:
        return {"method": "none", "meaning": "same", "why": ""}
    if bounds is None or other_bounds is None:
        return {"method": "none", "meaning": "not known", "why": ""}
    low, high = difference_interval(before, bounds, after, other_bounds)
    return {
        "method": "intervals",
        "meaning": "not clear" if low <= 0 <= high else "clear",
        "why": f"95 %: {low:+.4f} to {high:+.4f}",
        "low": low,
        "high": high,
    }


def two_sided(gained: int, lost: int) -> float:
    """Exact p-value of McNemar's test: that so many of ``gained + lost`` throws of a fair coin fall on one side."""
    return min(1.0, 2 * min(mcnemar(gained, lost), mcnemar(lost, gained)))


def difference_interval(before: float, bounds: Interval, after: float, other_bounds: Interval) -> Interval:
    """The 95 % interval of ``after - before`` from those of both, as if the two were measured on different images
    (Newcombe, 1998, method 10; MOVER). On the same images it is wider than need be: never too sure."""
    middle = after - before
    down = math.hypot(after - other_bounds[0], bounds[1] - before)
    up = math.hypot(other_bounds[1] - after, before - bounds[0])
    return middle - down, middle + up
