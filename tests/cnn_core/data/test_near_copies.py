"""What becomes of near-duplicates: groups, split keys, what is left out of train, and when it is too much."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_core.data.near_copies import NearCopies, find_near_copies, near_warnings, refuse_gutted_classes, smallest_keys

CLASSES = ("cat", "dog")


def find(labels: list[int], tested: list[int], *pairs: tuple[int, int]) -> NearCopies:
    """Rows a, b, c, …; ``tested`` are those of the publisher's test part. The pairs come in two blocks."""
    ids = [chr(97 + row) for row in range(len(labels))]
    blocks = [np.array(part, int).reshape(-1, 2).T for part in (pairs[:1], pairs[1:])]
    published = [row in tested for row in range(len(labels))]
    classes = [(name,) for name in CLASSES]
    return find_near_copies(ids, labels, published, classes, [tuple(block) for block in blocks], refuse_near_test=True)


def test_what_itself_shows_a_test_image_is_left_out_and_what_a_chain_ties_to_it_is_not():
    near = find([0] * 5, [0], (0, 1), (1, 2), (2, 3))
    assert {entry.id: entry.detail for entry in near.left_out} == {"b": "shows what a shows, which is kept"}
    assert near.left_out_of_class == {"cat": 1}
    assert near.groups[:4] == [near.groups[0]] * 4
    assert near.counts == {"near": 3, "near_train_in_test": 3, "near_across_classes": 0}


def test_a_group_across_classes_costs_no_image_and_is_told():
    near = find([0, 0, 1, 1], [0], (0, 1), (1, 2))
    assert near.left_out == []
    assert near.across_classes == [["a", "b", "c"]]
    (warning,) = near_warnings(near, {"cat": 10, "dog": 10})
    assert "3 images look like near-duplicates of images with another label; all stay" in warning


def test_keys_are_the_smallest_of_the_group():
    assert smallest_keys(["c", "a", "b", "0"], [7, 7, 1, 2]) == ["a", "a", "b", "0"]


def test_a_gutted_class_stops_the_stage_with_counts_and_what_to_do():
    near = find([0] * 6 + [1] * 3, [0], *[(0, row) for row in range(1, 5)])
    available, train = {"cat": 5, "dog": 3}, {"cat": 1, "dog": 3}
    with pytest.raises(ValueError, match="of 5 images of cat, 4 are left out of train as near-duplicates") as caught:
        refuse_gutted_classes(near, available, train, train_fraction=0.9, name="pets")
    assert "b shows what a shows, which is kept" in str(caught.value)
    assert "set ingest.pets.near_duplicates to false" in str(caught.value)
    assert "dog" not in str(caught.value)


def test_a_class_that_one_group_takes_out_of_train_stops_the_stage_too():
    near = find([0] * 10 + [1] * 3, [], *[(row, row + 1) for row in range(7)])
    available = {"cat": 10, "dog": 3}
    with pytest.raises(ValueError, match="one group of near-duplicates holds 8"):
        refuse_gutted_classes(near, available, {"cat": 2, "dog": 3}, train_fraction=0.8, name="pets")
    refuse_gutted_classes(near, available, {"cat": 8, "dog": 1}, train_fraction=0.8, name="pets")  # chance alone
    assert near_warnings(near, available) == [
        "one group of near-duplicates holds 8 of the 10 images of cat, so they share a split"
    ]
