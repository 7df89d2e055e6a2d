"""A schedule that fires: `retrain`, switched on with a short interval in what `make ui` serves."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.registry.models import champion
from tests.helpers import served as serving
from tests.helpers.champion_repository import make, set_skill
from tests.helpers.served import ENDED, Served, wait_until

pytestmark = [pytest.mark.xdist_group("schedule"), pytest.mark.slow, pytest.mark.timeout(3000)]
EVERY_S = 30.0  # about what a retraining takes here: runs that wait for a place keep a small machine busy
QUICK = {"PREFECT_RUNNER_POLL_FREQUENCY": "2", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}


def test_a_schedule_trains_once_and_then_finds_nothing_new(
    tmp_path: Path, run: Callable, repository: Path, environment: dict[str, str]
) -> None:
    root = make(tmp_path / "small", run, repository)
    set_skill(root, 0.8)
    run("git", "commit", "-qam", "skill", cwd=root)
    with serving.serve(root, {**environment, **QUICK}, repository, 4295) as served:
        deployment = served.deployments()["retrain"]
        digits = next(one for one in deployment["schedules"] if one["slug"] == "digits")
        assert not digits["active"]
        path = f"deployments/{deployment['id']}/schedules/{digits['id']}"
        soon = datetime.datetime.now(datetime.UTC)
        start = soon + datetime.timedelta(seconds=3)
        often = {"interval": EVERY_S, "anchor_date": start.isoformat()}
        served.ask(path, {"active": True, "schedule": often, "parameters": digits["parameters"]}, method="PATCH")
        try:
            wait_until(lambda: len(ended(served, soon)) >= 2, 500)
        finally:
            served.ask(path, {"active": False}, method="PATCH")
        first, second = ended(served, soon)[:2]
    for one in (first, second):
        assert one["auto_scheduled"], one
        assert one["state"]["type"] == "COMPLETED", one["state"]
    assert first["state"]["message"].startswith("promoted: digits v1.0.0. There was no champion of digits yet.")
    assert second["state"]["message"] == "nothing new; the last time: v1.0.0 was promoted"
    assert champion(root, "digits").name == "v1.0.0"
    print(f"fired twice: {first['total_run_time']:.1f} s, and with nothing new {second['total_run_time']:.1f} s")


def ended(served: Served, since: datetime.datetime) -> list[dict]:
    """The runs that have ended, the first first; other tests have had some on the same database."""
    chosen = {"state": {"type": {"any_": list(ENDED)}}, "expected_start_time": {"after_": since.isoformat()}}
    return served.ask("flow_runs/filter", {"sort": "START_TIME_ASC", "flow_runs": chosen})
