"""Twenty faults on the quickest doors and stages of the tiny pipeline; `make chaos` has 200 on all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.chaos import Campaign
from bench.chaos_checkout import copy_of
from bench.chaos_rounds import Round, append_round, read_rounds, report

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.nightly, pytest.mark.timeout(1800)]

STAGES = ("sample@scenes", "sample@digits", "ingest@scenes", "ingest@digits")
DOORS = ("repro", "repro", "promote")  # the doors of the flow have their own faults in test_faults
FAULTS = 20


def test_twenty_faults(checkout: Path, tmp_path: Path, run: Callable, server: str) -> None:
    root = copy_of(checkout, tmp_path / "disk", run)
    campaign, rounds = Campaign(root, tmp_path, server, seed=1, stages=STAGES, doors=DOORS), list[Round]()
    while sum(one.injected for one in rounds) < FAULTS and len(rounds) < 2 * FAULTS:
        rounds.append(campaign.play())
        append_round(tmp_path / "rounds.jsonl", rounds[-1])
        print(rounds[-1], flush=True)
    print(report(rounds))
    assert [str(one) for one in rounds if one.is_bad] == []
    assert sum(one.injected for one in rounds) == FAULTS
    assert read_rounds(tmp_path / "rounds.jsonl") == rounds
