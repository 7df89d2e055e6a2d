"""End runs of this project's deployments whose process is gone, and skip what their schedules missed.

``gridflow ui`` does it while it runs. Beside a server of your own, ``python -m flows.ui.keeper`` does (with
``PREFECT_API_URL``). A run may have died in any state: of a power cut while it was Pending nothing else tells, and it
would hold its deployment's place for ever.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import psutil

from flows.repository.graph import find_root
from flows.ui.heartbeats import EVERY_S, MESSAGE, TAG, crash_silent_runs
from flows.ui.schedules import restore_parameters

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, StateType

# A run is dead when its state and its newest heartbeat stay the same for so long and no process here works for it.
# Seconds are counted here, because the clocks of machines differ.
SILENT_S = 150.0
STARTING_S = 3600.0  # of a work pool's run that has not begun: its machine or its image may take long to come
MISSED_S = 600.0  # a scheduled run so late is skipped when a later one of the same parameters is due too
SKIPPED = "Its time passed while nothing could run it; a later one of the same schedule takes its place."


class Keeper:
    """Looks at the runs of this project's deployments, again and again."""

    def __init__(self, client: SyncPrefectClient, say: Callable[[str], None] = print) -> None:
        self._client, self._say = client, say
        self._signs: dict[UUID, tuple[Hashable, float]] = {}  # of each run: signs of life, and since when

    def sweep(self, *, patient: bool = True) -> None:
        """Look once.

        Args:
            patient: whether runs get time to show a sign of life. False where every run's process would be on this
                machine: then those without one are dead.
        """
        from prefect.client.schemas.objects import StateType

        runs = self._runs(StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
        self._signs = {run.id: self._signs[run.id] for run in runs if run.id in self._signs}
        for run in runs:
            if has_process(run.id):
                self._signs.pop(run.id, None)
            elif self._is_dead(run, patient):
                self._end(run)
        now = datetime.now(UTC)
        for run in missed(self._runs(StateType.SCHEDULED, due=now), now):
            self._set(run, StateType.CANCELLED, "Skipped", SKIPPED)

    def _runs(self, *states: StateType, due: datetime | None = None) -> list[FlowRun]:
        """The runs in these states, the earliest first; with ``due`` those that should have begun by then.

        Of each schedule Prefect plans up to 100 runs ahead, and it gives 200 at a time.
        """
        from prefect.client.schemas.filters import (
            DeploymentFilter,
            DeploymentFilterTags,
            FlowRunFilter,
            FlowRunFilterExpectedStartTime,
            FlowRunFilterState,
            FlowRunFilterStateType,
        )
        from prefect.client.schemas.sorting import FlowRunSort

        return self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
                expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": due}) if due else None,
            ),
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=200,
        )

    def _is_dead(self, run: FlowRun, patient: bool) -> bool:
        if not patient and run.work_pool_name is None:
            return True
        sign, now = (run.state_id, self._newest_heartbeat(run)), time.monotonic()
        former, since = self._signs.get(run.id, (None, now))
        self._signs[run.id] = (sign, since if sign == former else now)
        starting = run.work_pool_name is not None and run.state is not None and run.state.is_pending()
        return sign == former and now - since >= (STARTING_S if starting else SILENT_S)

    def _newest_heartbeat(self, run: FlowRun) -> UUID | None:
        from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

        heartbeats = EventFilter(
            event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
        )
        events = self._client.read_events(heartbeats, limit=1).events
        return events[0].id if events else None

    def _end(self, run: FlowRun) -> None:
        from prefect.client.schemas.objects import StateType

        if run.state is not None and run.state.is_cancelling():
            self._set(run, StateType.CANCELLED, None, MESSAGE)
        else:
            self._set(run, StateType.CRASHED, None, MESSAGE)

    def _set(self, run: FlowRun, state: StateType, name: str | None, message: str) -> None:
        from prefect.client.schemas.objects import State

        former = run.state.name if run.state else "no state"
        self._client.set_flow_run_state(run.id, State(type=state, name=name, message=message), force=True)
        self._say(f"{run.name} was {former} and is {name or state.value.capitalize()} now. {message}")


def missed(runs: list[FlowRun], now: datetime) -> Iterator[FlowRun]:
    """The scheduled runs that are late and have a later one that is due too, of the same deployment and parameters."""
    due = defaultdict(list)
    for run in runs:
        began = run.run_count > 0  # as one that was suspended and waits for its next process
        if run.auto_scheduled and not began and run.expected_start_time and run.expected_start_time <= now:
            parameters = json.dumps(run.parameters, sort_keys=True, default=str)
            due[run.deployment_id, parameters].append((run.expected_start_time, run.id, run))
    for alike in due.values():
        for expected, _, run in sorted(alike)[:-1]:
            if (now - expected).total_seconds() > MISSED_S:
                yield run


def has_process(run: UUID) -> bool:
    """Whether a process on this machine works for a flow run, other than a stage's, which ends when its flow does."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            env = process.environ()
            if env.get("PREFECT__FLOW_RUN_ID") == str(run) and "GRIDFLOW_RUN_DIR" not in env:
                return process.status() != psutil.STATUS_ZOMBIE
    return False


def keep(say: Callable[[str], None] = print) -> None:
    """Look for ever, every half minute, also after the schedules' parameters; a server that is away is asked again."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        keeper = Keeper(client, say)
        while True:
            time.sleep(EVERY_S)
            try:
                keeper.sweep()
                with contextlib.suppress(ValueError):  # beside a server, outside a checkout
                    restore_parameters(client, find_root(), say)
            except Exception as error:  # the server is away, or busy
                say(f"the runs could not be looked at: {error or type(error).__name__}")


def main() -> None:
    text = (
        "End runs of the deployments whose process is gone, on the server that PREFECT_API_URL names, again and again."
    )
    argparse.ArgumentParser(prog="python -m flows.ui.keeper", description=text).parse_args()
    from prefect.client.orchestration import get_client

    while True:  # the server may still be starting
        try:
            crash_silent_runs()
            with get_client(sync_client=True) as client:
                Keeper(client).sweep()
            break
        except Exception as error:
            print(f"the Prefect server does not answer yet: {error or type(error).__name__}", flush=True)
            time.sleep(EVERY_S)
    keep(lambda sentence: print(sentence, flush=True))


if __name__ == "__main__":
    main()
    sys.exit(0)
