"""Crash the runs whose process died with its worker or its machine, so that they hold no slot.

An automation of the server crashes a run of this project's deployments that has missed some
heartbeats. ``make ui`` sets it up, or ``python -m flows.ui.keeper``, which sees what it misses.
"""

from __future__ import annotations

import argparse
import os
from datetime import timedelta

NAME = "Gridflow: runs without a heartbeat have crashed"
TAG = "gridflow"  # of every deployment
EVERY_S = 30  # the least that Prefect allows
MISSED = 3  # a busy machine may be late with one
MESSAGE = "The run's process sends no heartbeat: it or its machine is gone. The next run goes on from there."
# States in which a run has no process that could send heartbeats.
SILENT_STATES = ("Completed", "Failed", "Cancelled", "Crashed", "NotShared", "Suspended", "Scheduled", "AwaitingRetry")
SUSPENDED = "gridflow.flow-run.suspended"  # sent by a suspended run after its last heartbeat
VARIABLE = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"


def send_heartbeats() -> None:
    """Let this process and its children send heartbeats; call it before Prefect is imported."""
    os.environ[VARIABLE] = str(EVERY_S)  # as the automation expects


def crash_silent_runs() -> None:
    """Create the automation. One of its name stays as a person has changed it, but learns of states it lacks."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    expected = {"prefect.flow-run.heartbeat", SUSPENDED, *(f"prefect.flow-run.{state}" for state in SILENT_STATES)}
    with get_client(sync_client=True) as client:
        if existing := client.read_automations_by_name(NAME):
            for automation in existing:
                if isinstance(automation.trigger, EventTrigger) and not expected <= automation.trigger.expect:
                    automation.trigger.expect |= expected
                    client.update_automation(automation.id, AutomationCore(**automation.model_dump(exclude={"id"})))
            return
        trigger = EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect=expected,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{TAG}"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=MISSED * EVERY_S),
        )
        action = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=MESSAGE, force=False)
        client.create_automation(AutomationCore(name=NAME, description=MESSAGE, trigger=trigger, actions=[action]))


def main() -> None:
    """Set the automation up on the server that PREFECT_API_URL names."""
    text = f"Set up the automation {NAME!r} on the Prefect server that PREFECT_API_URL names."
    parser = argparse.ArgumentParser(prog="python -m flows.ui.heartbeats", description=text)
    parser.parse_args()

    from prefect.settings import get_current_settings

    from flows.ui.server import check_server

    if get_current_settings().api.url is None:
        parser.error("no server is named: set PREFECT_API_URL, such as http://127.0.0.1:4200/api")
    try:
        check_server()
    except ValueError as error:
        parser.error(str(error))
    crash_silent_runs()


if __name__ == "__main__":
    main()
