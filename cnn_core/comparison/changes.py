"""One figure in two runs: how it changed, and whether the change is statistically significant.

Two classifiers that answered the same test images are compared image by image (McNemar). Other
figures that have a 95 % interval are compared by the interval of their difference. For all others
it is not known how much chance does.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from cnn_core.comparison.classifiers import ClassifierComparison, mcnemar
from cnn_core.reporting.headlines import Headline

ALPHA = 0.05
Interval = tuple[float, float]
Figure = tuple[float, Interval | None]  # a value and its 95 % interval, where the metrics hold one
Method = Literal["images", "intervals", "none"]
Meaning = Literal["same", "better", "worse", "clear", "not clear", "not known"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a change is significant."""

    method: Method  # "images" is a paired test
    meaning: Meaning  # "clear" and "not clear" say nothing of better and worse
    why: str = ""  # the numbers behind it, for a person
    p_value: float | None = None  # of the paired test, two-sided
    shared: int | None = None  # images that both answered
    gained: int | None = None  # images that are right in the second run alone
    lost: int | None = None
    low: float | None = None  # the 95 % interval of the difference
    high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change(Judgement):
    """One figure in both runs, with its 95 % intervals where the metrics hold them."""

    key: str  # "evaluate-digits:accuracy", the metrics file and the key in it (nested keys with slashes)
    label: str
    headline: bool  # of the report, for which it is known whether more is better
    unit: str
    before: float
    after: float
    before_interval: Interval | None
    after_interval: Interval | None


def _label(key: str) -> str:
    """A key as tables show it; what stands behind the first slash may be the name of a class, and stays as it is."""
    figure, slash, part = key.partition("/")
    return figure.replace("_", " ").replace(":", ": ") + slash + part


def measure_change(
    key: str,
    before: Figure,
    after: Figure,
    *,
    headline: Headline | None = None,
    comparison: ClassifierComparison | None = None,
) -> Change:
    """Judge the change of one figure, and of an accuracy by both classifiers' answers to the same images."""
    judgement = judge_images(before[0], after[0], comparison) if comparison else judge_intervals(before, after)
    if headline and judgement.meaning == "clear":
        gain = comparison.gained - comparison.lost if comparison else after[0] - before[0]
        meaning: Meaning = "better" if gain > 0 else "worse"
        judgement = dataclasses.replace(judgement, meaning=meaning)
    return Change(
        key=key,
        label=headline.label if headline else _label(key),
        headline=headline is not None,
        unit=headline.unit if headline else "",
        before=before[0],
        after=after[0],
        before_interval=before[1],
        after_interval=after[1],
        **dataclasses.asdict(judgement),
    )


def judge_images(before: float, after: float, comparison: ClassifierComparison) -> Judgement:
    gained, lost = comparison.gained, comparison.lost
    p_value = two_sided(gained, lost)
    meaning: Meaning = "clear" if p_value <= ALPHA else "not clear"
    why = f"{gained} gained, {lost} lost of {comparison.n:,} images, p = {p_value:.2g}"
    if gained == lost == 0 and before == after:
        meaning, why = "same", f"the same {comparison.n:,} answers are right"
    return Judgement(
        method="images",
        meaning=meaning,
        why=why,
        p_value=p_value,
        shared=comparison.n,
        gained=gained,
        lost=lost,
    )


def judge_intervals(before: Figure, after: Figure) -> Judgement:
    if before[0] == after[0]:
        return Judgement(method="none", meaning="same")
    if before[1] is None or after[1] is None:
        return Judgement(method="none", meaning="not known")
    low, high = difference_interval(before[0], before[1], after[0], after[1])
    meaning: Meaning = "not clear" if low <= 0 <= high else "clear"
    return Judgement(method="intervals", meaning=meaning, why=f"95 %: {low:+.4f} to {high:+.4f}", low=low, high=high)


def two_sided(gained: int, lost: int) -> float:
    return min(1.0, 2 * min(mcnemar(gained, lost), mcnemar(lost, gained)))


def difference_interval(before: float, bounds: Interval, after: float, bounds_after: Interval) -> Interval:
    """Compute the 95 % interval of ``after - before`` from the intervals of both.

    The two count as measured on different images (Newcombe, 1998, method 10; MOVER). On the same
    images the interval is wider than need be, so it never claims too much.
    """
    middle = after - before
    down = math.hypot(after - bounds_after[0], bounds[1] - before)
    up = math.hypot(bounds_after[1] - after, before - bounds[0])
    return middle - down, middle + up
