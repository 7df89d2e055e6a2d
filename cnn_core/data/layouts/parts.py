"""The parts of a data set by the names that publishers give them: train, val, test and unlabelled."""

from __future__ import annotations

import re

TRAIN, VAL, TEST, UNLABELLED = PARTS = ("train", "val", "test", "unlabelled")
_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), VAL),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "t10k"), TEST),
    **dict.fromkeys(("pred", "predict", "prediction", "unlabelled", "unlabeled", "unlabel"), UNLABELLED),
}
# What stands beside the word in a folder's name without a meaning of its own: seg_train, training_set, test_images.
_BESIDE = frozenset(
    "seg set sets data dataset datasets image images img imgs split folder raw part public private".split()  # noqa: SIM905
)


def part_of_folder(name: str) -> str | None:
    """The part that a folder's name means as a whole (``seg_train``, ``Testing``, ``valid``, ``test1``), or None."""
    tokens = [token for token in _tokens(name) if token not in _BESIDE and not token.isdigit()]
    return _WORDS.get(tokens[0]) if len(tokens) == 1 else None


def part_in_name(name: str) -> str | None:
    """The last part that a file's name mentions (``mnist_train``, ``train-00000-of-00001``), or None."""
    parts = [_WORDS[token] for token in _tokens(name) if token in _WORDS]
    return parts[-1] if parts else None


def _tokens(name: str) -> list[str]:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return re.findall(r"t10k|[^\W\d_]+|\d+", separated)
