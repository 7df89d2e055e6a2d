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
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, FlowRun, State, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running, Scheduled

from flows.ui import keeper as keeper_module
from flows.ui.heartbeats import TAG
from flows.ui.keeper import SKIPPED, Keeper, missed
from tests.helpers.served import ask

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
    """With two schedules, of which Prefect plans more runs ahead than it lists at a time."""
    now = datetime.datetime.now(datetime.UTC)
    nights = {"start_time": (now - datetime.timedelta(days=3)).isoformat(), "end_time": now.isoformat(), "max_runs": 9}
    for model in ("digits", "scenes"):
        schedule = IntervalSchedule(
            interval=datetime.timedelta(days=1), anchor_date=now - datetime.timedelta(days=9, hours=1)
        )
        client.create_deployment_schedules(
            deployment, [DeploymentScheduleCreate(schedule=schedule, parameters={"model": model})]
        )
    plan = {"start_time": now.isoformat(), "min_runs": 110, "max_runs": 110}
    for times in (plan, nights):
        ask(f"{client.api_url}deployments/{deployment}/schedule", times)
    two_days_ago = Scheduled(scheduled_time=now - datetime.timedelta(days=2))
    by_hand = client.create_flow_run_from_deployment(deployment, state=two_days_ago).id
    late = due(client, deployment, now)
    assert len(late) == 7
    resumed = late[0]  # it was suspended on that night
    for former in (Pending(), Running()):
        client.set_flow_run_state(resumed.id, former, force=True)
    client.set_flow_run_state(resumed.id, Scheduled(name="Resuming"), force=True)
    Keeper(client).sweep()
    left = due(client, deployment, now)
    assert {by_hand, resumed.id} <= {run.id for run in left}
    ahead = [run for run in left if run.auto_scheduled and run.id != resumed.id]
    assert sorted(run.parameters["model"] for run in ahead) == ["digits", "scenes"]
    assert len({run.expected_start_time for run in ahead}) == 1
    assert now - ahead[0].expected_start_time < datetime.timedelta(hours=2)
    skipped = state(client, late[1].id)
    assert (skipped.name, skipped.message) == ("Skipped", SKIPPED)


def due(client: SyncPrefectClient, deployment: uuid.UUID, now: datetime.datetime) -> list[FlowRun]:
    """The scheduled runs whose time has come, the earliest first."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=now),
        ),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )


def test_a_run_just_late_is_not_skipped() -> None:
    now = datetime.datetime.now(datetime.UTC)
    runs = [
        FlowRun(flow_id=uuid.uuid4(), auto_scheduled=True, expected_start_time=now - datetime.timedelta(seconds=late))
        for late in (5, 35)
    ]
    assert not list(missed(runs, now))
