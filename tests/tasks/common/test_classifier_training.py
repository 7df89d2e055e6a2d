"""The images that `train` and `pretrain` were pointed at are counted in full, each once."""

from __future__ import annotations

import pytest

from tasks.common.classifier_training import account_for
from tasks.pretrain import MOST_VALIDATED

PARTS = {"train": 6000, "val": 610, "test": 500}


@pytest.mark.parametrize(
    ("refit", "most_validated", "used", "unused", "words"),
    [
        (False, None, 6610, 500, "6,000 are learned from and 610 validate; 500 held out for the test"),
        (True, None, 7110, 0, "6,500 are learned from and 610 validate"),
        (False, MOST_VALIDATED, 6500, 610, "500 validate; 500 held out for the test; 110 not needed to validate"),
        (False, 10_000, 6610, 500, "6,000 are learned from and 610 validate; 500 held out for the test"),
    ],
    ids=["train", "refit", "pretrain", "few to validate"],
)
def test_what_is_used_and_what_is_not_add_up_to_what_is_listed(refit, most_validated, used, unused, words, capsys):
    counts = account_for(PARTS, refit=refit, most_validated=most_validated)
    assert counts == {"listed": 7110, "images": used, "left_out": 0, "unused": unused}
    assert counts["listed"] == counts["images"] + counts["left_out"] + counts["unused"]
    assert capsys.readouterr().out.strip().endswith(words)
