"""The verdict on a run: its figures against what is expected of them, and what a person ought to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from markupsafe import Markup

from cnn_core.params import Params, bounded
from cnn_core.reporting.former import former_stages
from cnn_core.reporting.headlines import MEASURES, Headline, made_at
from cnn_core.reporting.numbers import Numbers, parameter

Level = Literal["good", "look", "missing", "open"]
TITLES: dict[Level, str] = {
    "good": "Good",
    "look": "Look here",
    "missing": "Parts are missing",
    "open": "Not judged",
}
SECTIONS = (  # of params.yaml; each of their entries is a stage that writes a metrics file
    *("ingest", "augment", "compose"),
    *("pretrain", "train", "evaluate", "predict"),
    *("train_detector", "evaluate_detector", "detect"),
    *("train_segmenter", "evaluate_segmenter", "segment"),
    *("read", "anatomy", "baselines"),
)


class LeftOut(NamedTuple):
    """What the stages of a section leave out of their input: a description, and the keys of its count and of the total.

    Where there is no total, the count is listed and raises no doubt.
    """

    stage: str
    words: str
    key: str
    total: str


SHARED_MASKS = "masks that are no separate digit"
LEFT_OUT = (
    LeftOut("ingest", "rows that cannot be used", "refused", "rows_read"),
    LeftOut("ingest", "copies with the same label", "duplicates/same_label", "rows_read"),
    LeftOut("ingest", "copies with different labels", "duplicates/conflicting_labels", "rows_read"),
    LeftOut("ingest", "training images that are also in the test part", "duplicates/train_in_test", "rows_read"),
    LeftOut("ingest", "training images that nearly equal a test image", "duplicates/near_train_in_test", "rows_read"),
    LeftOut("ingest", "files that are no images of the set", "left_out", ""),
    LeftOut("ingest", "annotations that cannot be used", "annotations/refused", "annotations/listed"),
    LeftOut("ingest", "annotations that repeat another, or whose image does", "annotations/left_out", ""),
    LeftOut("predict", "images that could not be read", "refused", "n"),
    LeftOut("predict", "files that are no images", "left_out", ""),
    LeftOut("train_detector", "images without a usable label", "left_out", "images"),
    LeftOut("train_detector", "annotations that cannot be used", "left_out_annotations", ""),
    LeftOut("train_segmenter", "images without a usable mask", "left_out", ""),
    LeftOut("train_segmenter", "annotations that cannot be used", "left_out_annotations", ""),
    LeftOut("evaluate_detector", "images whose truth cannot be used", "left_out", "images"),
    LeftOut("evaluate_detector", "annotations that cannot be used", "left_out_annotations", "objects"),
    LeftOut("evaluate_segmenter", "images whose truth cannot be used", "left_out", "images"),
    LeftOut("evaluate_segmenter", "annotations that cannot be used", "left_out_annotations", "objects"),
    LeftOut("detect", "files that could not be read", "bad", "images"),
    LeftOut("detect", "files that are no images", "left_out", ""),
    LeftOut("segment", "files that could not be read", "bad", "images"),
    LeftOut("segment", "files that are no images", "left_out", ""),
    LeftOut("segment", "prompts that gave no mask", "dropped", "objects"),
    LeftOut("read", SHARED_MASKS, "dropped", "digits"),
    LeftOut("read", "files that could not be read", "bad", "listed"),
    LeftOut("read", "files that are no images", "left_out", ""),
    LeftOut("read", "images that the segmenter has not seen", "unsegmented", "listed"),
)

# Copies are part of every collection of images, and `read` takes one digit from several masks.
EXPECTED_TO_BE_LEFT_OUT = {row.words for row in LEFT_OUT if "duplicates/" in row.key} | {SHARED_MASKS}


def left_out(numbers: Numbers, values: Mapping[str, Any]) -> list[LeftOut]:
    """The entries of `LEFT_OUT` that the run has counts of, with the stage's name and the keys in full."""
    rows = []
    for section, words, key, total in LEFT_OUT:
        for name in values.get(section) or {}:
            metrics = f"{section}-{name}"
            if numbers.value(f"{metrics}:{key}") is not None:
                keys = f"{metrics}:{key}", f"{metrics}:{total}" if total else ""
                rows.append(LeftOut(f"{section}@{name}", words, *keys))
    return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits(Params):
    """The section ``report.limits``: beyond them the verdict is "look here"."""

    refused: float = bounded(0, 1)  # share of its input that a stage refuses or leaves out
    calibration: float = bounded(0, 1)  # calibration error of a classifier


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reason:
    """One line under the verdict; ``level`` is the verdict that it would give alone."""

    level: Level
    text: Markup


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The head of the page: the level of the worst reason, and all reasons, the worst first."""

    level: Level
    title: str
    reasons: list[Reason]


def judge(headlines: Sequence[Headline], numbers: Numbers, values: Mapping[str, Any], limits: Limits) -> Verdict:
    """Judge a run: a missing part outweighs a low figure, which outweighs all that is as expected."""
    missing, warnings = (
        list(_missing(numbers, values)),
        [*_unknown(values), *_former(numbers, values), *_warnings(numbers, values, limits)],
    )
    judged = [_compare(headline, numbers) for headline in headlines if headline.expected is not None]
    low, good = ([reason for reason in judged if reason.level == level] for level in ("look", "good"))
    reasons = [*missing, *low, *warnings, *good]
    level: Level = reasons[0].level if reasons else "open"
    if not judged and level != "missing":
        reasons.append(Reason(level="open", text=Markup("No expectation is set in <code>report.expected</code>.")))
        level = "look" if warnings else "open"
    return Verdict(level=level, title=TITLES[level], reasons=reasons)


def _missing(numbers: Numbers, values: Mapping[str, Any]) -> Iterator[Reason]:
    """Name the stages that have a section in ``params.yaml`` and no metrics."""
    parts = []
    for section in SECTIONS:
        names = [name for name in values.get(section) or {} if numbers.metrics(f"{section}-{name}") is None]
        parts += [Markup("<code>{}@{}</code>").format(section, name) for name in names]
    if parts:
        yield Reason(level="missing", text=Markup("Failed, or not run: {}.").format(Markup(", ").join(parts)))


def _unknown(values: Mapping[str, Any]) -> Iterator[Reason]:
    """Name the models that something is expected of and that are not there."""
    expected = (values.get("report") or {}).get("expected") or {}
    models = {name for measure in MEASURES for name in values.get(measure.section) or {}}
    if unknown := [Markup("<code>report.expected.{}</code>").format(name) for name in expected if name not in models]:
        text = Markup("There is no model of the name of {}, so nothing is held against it.")
        yield Reason(level="look", text=text.format(Markup(", ").join(unknown)))


def _former(numbers: Numbers, values: Mapping[str, Any]) -> Iterator[Reason]:
    """Name the stages whose results are of an earlier run, since when they stand there, and why."""
    stages = []
    for name, why in former_stages(numbers.root, values).items():
        since = made_at(numbers.root, name)
        stages.append(Markup("<code>{}</code> ({})").format(name, "; ".join(filter(None, [since, why]))))
    if stages:
        text = Markup(
            "<strong>Results of an earlier run</strong>, which say nothing of now: <span data-text>{}</span>."
        )
        yield Reason(level="look", text=text.format(Markup(", ").join(stages)))


def _compare(headline: Headline, numbers: Numbers) -> Reason:
    figure = numbers(headline.key, headline.style)
    expected = parameter(headline.spec.parameter, headline.expected, headline.style)
    name = headline.label[:1].upper() + headline.label[1:]
    if headline.value >= (headline.expected or 0.0):
        return Reason(level="good", text=Markup("{}: {}, at least {} is expected.").format(name, figure, expected))
    text = Markup("<strong>{}: {}</strong>, at least {} is expected").format(name, figure, expected)
    if headline.high is None:
        return Reason(level="look", text=text + ".")
    reaches = headline.high >= (headline.expected or 0.0)
    why = "; its interval still reaches that." if reaches else ", and its whole interval lies below."
    return Reason(level="look", text=text + why)


def _warnings(numbers: Numbers, values: Mapping[str, Any], limits: Limits) -> Iterator[Reason]:
    """Name what makes a good figure doubtful."""
    for stage, words, key, total in left_out(numbers, values):
        number, of = numbers.value(key), numbers.value(total)
        if words in EXPECTED_TO_BE_LEFT_OUT or not total or not number or (of and number / of <= limits.refused):
            continue
        text = Markup("<code>{}</code> left out {} {}").format(stage, numbers(key, "count"), words)
        yield Reason(level="look", text=text + (Markup(" (of {}).").format(numbers(total, "count")) if of else "."))
    for name in values.get("evaluate") or {}:
        error = numbers.value(f"evaluate-{name}:ece")
        if error is not None and error > limits.calibration:
            text = Markup("The classifier of {} is more or less sure than it is right: its calibration error is {}.")
            yield Reason(level="look", text=text.format(name, numbers(f"evaluate-{name}:ece")))
    for name in values.get("baselines") or {}:
        yield from _lead(name, numbers)


def _lead(entry: str, numbers: Numbers) -> Iterator[Reason]:
    """Warn when the CNN is behind a classifier that knows nothing of images, or its lead may be chance."""
    models = numbers.value(f"baselines-{entry}:models") or {}
    cnn = next((name for name in models if name.startswith("CNN")), None)
    others = [name for name in models if name != cnn]
    if cnn is None or not others:
        return
    best = max(others, key=lambda name: models[name]["accuracy"])
    if models[cnn]["accuracy_low"] > models[best]["accuracy_high"]:
        return
    overlap = models[cnn]["accuracy_high"] >= models[best]["accuracy_low"]
    ahead = models[cnn]["accuracy"] - models[best]["accuracy"]
    if ahead > 0:
        sentence = "The CNN's lead over the best baseline is not certain"
    else:
        sentence = "The CNN is behind the best baseline" if ahead < 0 else "The CNN is no better than the best baseline"
    text = Markup("{}: {} against {} of the {}; the intervals {}overlap.")
    figures = [numbers(f"baselines-{entry}:models/{name}/accuracy") for name in (cnn, best)]
    yield Reason(level="look", text=text.format(sentence, *figures, best, "" if overlap else "do not "))
