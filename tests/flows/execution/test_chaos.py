"""A seeded campaign of a dozen faults on the quick stages of the tiny pipeline; `make chaos` has 200 on all stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.chaos import Campaign
from bench.chaos_checkout import copy_of
from bench.chaos_rounds import Round, report

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.nightly]

STAGES = (
    "sample@scenes",
    "ingest@scenes",
    "ingest@digits",
    "compose@numbers",
    "predict@digits",
    "evaluate@digits",
    "detect@detector",
)
FAULTS = 12  # each kind once or twice


def test_a_dozen_faults(checkout: Path, tmp_path: Path, run: Callable, server: str) -> None:
    root = copy_of(checkout, tmp_path / "disk", run)
    campaign, rounds = Campaign(root, tmp_path, server, seed=1, stages=STAGES), list[Round]()
    while sum(one.injected for one in rounds) < FAULTS and len(rounds) < 2 * FAULTS:
        rounds.append(campaign.play())
        print(rounds[-1], flush=True)
    print(report(rounds))
    assert [str(one) for one in rounds if one.is_bad] == []
    assert sum(one.injected for one in rounds) == FAULTS
