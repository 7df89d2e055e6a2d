"""Runs whose process is gone are ended, whatever their state; a real server with a deployment of one place."""

from __future__ import annotations

import datetime
import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running, Scheduled

from flows.ui import keeper as keeper_module
from flows.ui.heartbeats import TAG
from flows.ui.keeper import SKIPPED, Keeper, missed

pytestmark = [pytest.mark.xdist_group("keeper"), pytest.mark.slow]


@pytest.fixture
def client(server: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as connected:
        yield connected


@pytest.fixture
def deployment(client: SyncPrefectClient) -> Iterator[uuid.UUID]:
    """One with a single place."""

    @flow(name=f"nothing-{uuid.uuid4().hex[:8]}")
    def nothing(model: str = "digits") -> None:
        del model

    one = ConcurrencyLimitConfig(limit=1)
    deployment_id = nothing.to_deployment("nothing", tags=[TAG], concurrency_limit=one).apply()
    yield deployment_id
    client.delete_deployment(deployment_id)


def start(client: SyncPrefectClient, deployment: uuid.UUID, *states: State) -> uuid.UUID:
    run = client.create_flow_run_from_deployment(deployment).id
    for state in states:
        client.set_flow_run_state(run, state)
    return run


def state(client: SyncPrefectClient, run: uuid.UUID) -> State:
    state = client.read_flow_run(run).state
    assert state is not None
    return state


@pytest.mark.parametrize("last", [[], [Running()], [Running(), State(type=StateType.CANCELLING)]])
def test_a_dead_run_leaves_its_place_to_the_next(
    client: SyncPrefectClient, deployment: uuid.UUID, last: list[State]
) -> None:
    dead = start(client, deployment, Pending(), *last)
    waiting = start(client, deployment, Pending())
    assert state(client, waiting).name == "AwaitingConcurrencySlot"
    Keeper(client).sweep(patient=False)
    assert state(client, dead).type == (StateType.CANCELLED if len(last) == 2 else StateType.CRASHED)
    client.set_flow_run_state(waiting, Pending(), force=False)
    assert state(client, waiting).type == StateType.PENDING


def test_a_living_run_and_one_that_may_still_show_life_stay(
    client: SyncPrefectClient, deployment: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(client, deployment, Pending(), Running())
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, "PREFECT__FLOW_RUN_ID": str(run)})
    watching = Keeper(client)
    try:
        watching.sweep(patient=False)
        assert state(client, run).type == StateType.RUNNING
    finally:
        process.kill()
        process.wait()
    watching.sweep()
    watching.sweep()
    assert state(client, run).type == StateType.RUNNING  # the first sign of life has to fail to come
    monkeypatch.setattr(keeper_module, "SILENT_S", 0.0)
    watching.sweep()
    assert state(client, run).type == StateType.CRASHED


def test_of_the_nights_that_were_missed_the_last_one_runs(client: SyncPrefectClient, deployment: uuid.UUID) -> None:
    now = datetime.datetime.now(datetime.UTC)
    nights = [
        start(client, deployment, Scheduled(scheduled_time=now - datetime.timedelta(days=days))) for days in (1, 2, 3)
    ]
    runs = [client.read_flow_run(run) for run in nights]
    for run, days in zip(runs, (1, 2, 3), strict=True):
        run.auto_scheduled, run.expected_start_time = True, now - datetime.timedelta(days=days)
    assert [run.id for run in missed(runs, now)] == [nights[2], nights[1]]
    runs[0].parameters = {"model": "scenes"}  # another schedule's
    assert [run.id for run in missed(runs, now)] == [nights[2]]
    for run in runs:
        run.auto_scheduled = False  # a person asked for it
    assert not list(missed(runs, now))
    assert SKIPPED.endswith(".")


def test_a_run_just_late_is_not_skipped() -> None:
    now = datetime.datetime.now(datetime.UTC)
    runs = [
        FlowRun(flow_id=uuid.uuid4(), auto_scheduled=True, expected_start_time=now - datetime.timedelta(seconds=late))
        for late in (5, 35)
    ]
    assert not list(missed(runs, now))
