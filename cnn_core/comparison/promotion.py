"""The rule by which a challenger replaces the champion. It applies to every kind of model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
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


class NewClassScores(NamedTuple):
    """The challenger's measure for a class that the champion does not know."""

    n: int  # its images or objects
    score: float | None  # None where there are none
    called: int | None = None  # images of classes that both know which the challenger calls so
    known: int | None = None  # images of classes that both know


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownClasses:
    """Which of today's classes a champion knows, by the names that they have today."""

    both: Sequence[str]
    new: Sequence[str] = ()
    gone: Sequence[str] = ()  # classes of the champion that the set no longer has
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)  # the champion's name -> today's

    @property
    def differ(self) -> bool:
        return bool(self.new or self.gone or self.renamed)

    def sentences(
        self, scores: Mapping[str, NewClassScores], *, measure: str, number_format: str, unit: str
    ) -> Iterator[str]:
        """Say which classes count, and the challenger's ``scores`` of the new ones, which decide nothing."""
        if self.new or self.gone:
            yield f"Compared are the {len(self.both)} classes that both know."
        for name, now in self.renamed.items():
            yield f"The champion's class {name} is called {now} now: most of its images are the same."
        if self.gone:
            mistakes = ": where the champion answers so, it is a mistake" if unit == "images" else ""
            yield f"The set no longer has {', '.join(self.gone)}{mistakes}."
        for name in self.new:
            n, score, called, known = scores[name]
            figure = (
                f"no held-out {unit}"
                if score is None
                else f"{measure} {score:{number_format}} on {n:,} held-out {unit}"
            )
            others = "" if called is None else f"; {called:,} of {known:,} images of the other classes are called so"
            yield f"The class {name} is new to the champion; the challenger has {figure}{others}."
