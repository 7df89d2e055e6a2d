"""Stages of one flow run, side by side."""

from __future__ import annotations

from collections.abc import ItemsView
from pathlib import Path

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.execution.stage import PipelineRun, StageOutcome
from flows.execution.stages import run_nodes, stage_threads
from flows.repository.graph import read_graph

pytestmark = pytest.mark.xdist_group("pipeline")


class Outcomes(dict[str, StageOutcome]):
    """Outcomes that another stage is always writing to while somebody goes through them."""

    def items(self) -> ItemsView[str, StageOutcome]:
        raise RuntimeError("dictionary changed size during iteration")


def test_a_stage_starts_while_another_one_ends(small: Path, server: str) -> None:
    run = PipelineRun(root=small, folder=small / ".gridflow/runs/one", outcomes=Outcomes())
    with temporary_settings({PREFECT_API_URL: server}):
        flow(task_runner=stage_threads())(lambda: run_nodes(read_graph(small), run))()
    assert [run.outcomes[name].kind for name in ("first", "left", "right", "last")] == [None] * 4
