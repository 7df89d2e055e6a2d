"""The rule by which a challenger replaces the champion. It applies to every kind of model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from cnn_core.params import Params, bounded

# Differences of shares carry rounding errors: 0.92 - 0.90 is a hair more than 0.02.
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromotionRule(Params):
    """What a challenger has to show.

    The measure is the share of right answers of a classifier, mAP50 of a detector and the mean IoU
    of a segmenter; all lie in 0..1.
    """

    margin: float = bounded(0.0, 1.0)  # by which the challenger has to be better
    alpha: float = bounded(0.0, 1.0, above=0.0)  # the highest p-value that counts as more than luck
    class_bound: float = bounded(0.0, 1.0)  # by which the challenger may be worse in a class


class ClassScores(NamedTuple):
    """The measure of both models for one class."""

    n: int  # its images or objects
    champion: float
    challenger: float


class Decision(NamedTuple):
    promoted: bool
    reason: str  # one sentence with the figures


def decide(
    rule: PromotionRule,
    difference: float,
    p_value: float,
    classes: Mapping[str, ClassScores],
    *,
    figures: str,
    number_format: str,
    unit: str,
) -> Decision:
    """Apply the rule to a paired comparison.

    Args:
        difference: the challenger's measure less the champion's.
        p_value: one-sided, of a challenger that is no better.
        figures: what the sentence says of all classes together.
        number_format: of the measure, such as ``.2%``.
        unit: what the classes count: images or objects.
    """
    if difference < rule.margin - ROUNDING or difference <= 0:
        margin = f"by at least {rule.margin:{number_format}}" if rule.margin else "at all"
        return Decision(False, f"The challenger is not better {margin}: {figures}.")
    if p_value > rule.alpha:
        return Decision(False, f"The challenger may be better by luck (p is above {rule.alpha:g}): {figures}.")
    bound = f"{rule.class_bound:{number_format}}"
    worst = min(classes, key=lambda name: classes[name].challenger - classes[name].champion)
    n, champion, challenger = classes[worst]
    if champion - challenger > rule.class_bound + ROUNDING:
        return Decision(
            False,
            f"The challenger is better over all but worse by more than {bound} in the class {worst} "
            f"({challenger:{number_format}} against {champion:{number_format}} of {n:,} {unit}): {figures}.",
        )
    return Decision(True, f"The challenger is better: {figures}; in no class is it worse by more than {bound}.")
