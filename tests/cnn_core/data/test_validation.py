"""The fate of duplicates, and when badness is too much."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_core.data.validation import Refusal, check_pixels, find_duplicates, refuse_too_many


def find(*rows: tuple[str, int, bool]):
    """Rows of (pixels, label, whether in the publisher's test part), called a, b, c, …"""
    hashes, labels, published = zip(*rows, strict=True)
    found = find_duplicates("abcdefgh"[: len(rows)], hashes, labels, published, "0123456789")
    return {entry.id: (entry.reason, entry.detail) for entry in found.left_out}, found


def test_same_label_keeps_the_first_copy():
    left_out, found = find(("x", 1, False), ("y", 1, False), ("x", 1, False), ("x", 1, False))
    assert left_out == {"c": ("duplicate", "same pixels as a, kept"), "d": ("duplicate", "same pixels as a, kept")}
    assert found.counts["same_label"] == 2


def test_the_publishers_test_copy_stays_and_train_loses_its_own():
    left_out, found = find(("x", 1, False), ("x", 1, True), ("x", 1, False), ("x", 1, True))
    assert set(left_out) == {"a", "c"}, "the test part is kept as it was published"
    assert found.counts["train_in_test"] == 2


def test_conflicting_labels_refuse_every_copy():
    left_out, found = find(("x", 1, False), ("x", 7, False), ("x", 1, True), ("x", -1, False))
    fault = ("conflicting labels", "a says 1, b says 7, c says 1")
    assert left_out == {"a": fault, "b": fault, "c": fault}
    assert found.counts["conflicting_labels"] == 3


def test_unlabelled_copies_stay_and_are_told():
    left_out, found = find(("x", 4, False), ("x", -1, False), ("y", -1, False), ("y", -1, False))
    assert left_out == {}
    assert found.labelled_and_unlabelled == [("a", "b")]
    assert found.counts["labelled_and_unlabelled"] == 1


def test_check_pixels_names_the_first_fault():
    pixels = np.zeros((4, 784), np.int64)
    pixels[1, 700], pixels[1, 702], pixels[2, 3] = 300, -1, -1
    refused = check_pixels("abcd", pixels, [f"pixel{number}" for number in range(784)])
    assert {row: (entry.reason, entry.detail) for row, entry in refused.items()} == {
        1: ("pixel outside 0-255", "pixel700 is 300"),
        2: ("pixel outside 0-255", "pixel3 is -1"),
    }


def test_too_many_gives_counts_examples_and_what_to_do():
    refused = [Refusal(id=f"train/{row}", reason="label not a number", detail=f"label is {row}") for row in range(12)]
    refused.append(Refusal(id="train/99", reason="pixel missing", detail="pixel4 is nan"))
    with pytest.raises(ValueError, match="13 of the 1,000 images of here are bad") as caught:
        refuse_too_many(refused, 1000, 0.012, "here")
    for words in ("1.3%", "1.2%", "label not a number: 12 (train/0: label is 0", ", …)", "pixel missing: 1 (train/99"):
        assert words in str(caught.value)
    assert "Repair the source, or raise max_bad_fraction" in str(caught.value)
    assert "nothing was written" in str(caught.value)
    refuse_too_many(refused, 1000, 0.013, "here")


def test_details_are_kept_short():
    assert len(Refusal(id="a", reason="b", detail="x" * 10_000).detail) == 200
