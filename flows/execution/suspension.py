"""End the stages of a run that a person suspends in the UI, so that its place and its machine are free at once.

Prefect looks for a suspension between two tasks, and a stage may take hours. *Resume* starts another process, which
finds the finished stages in DVC's cache and the unfinished one where it was.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import threading
from collections.abc import Iterator
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.events import Event, RelatedResource, Resource
from prefect.exceptions import Pause
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.execution.processes import ProcessGroups
from flows.ui.heartbeats import SUSPENDED, TAG

LOOK_S = 5.0


@contextlib.contextmanager
def ended_by_suspension(groups: ProcessGroups) -> Iterator[None]:
    """End ``groups`` when the run is suspended while the block runs. Only runs of a deployment can be.

    Raises:
        Pause: the run is suspended, or was and waits for its next process. Prefect ends this process by it.
    """
    this_run = flow_run.get_id()
    if this_run is None or not deployment.get_id():
        yield
        return
    run_id, logger, over = UUID(this_run), get_run_logger(), threading.Event()
    _at_exit(run_id)

    def watch() -> None:
        while not over.wait(LOOK_S):
            if _suspension(run_id):
                logger.info("the run is suspended: its stages are ended. Resume goes on where they are")
                groups.end_all()
                return

    watcher = threading.Thread(target=contextvars.copy_context().run, args=(watch,), daemon=True, name="suspension")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    if state := _suspension(run_id):
        raise Pause(state=state)


@functools.cache  # a retraining runs stages more than once
def _at_exit(run_id: UUID) -> None:
    atexit.register(_end_heartbeats, run_id)  # after the last one


def _end_heartbeats(run_id: UUID) -> None:
    """Let the automation of `flows.ui.heartbeats` expect no more heartbeats of a suspended run.

    Prefect's own sender of events no longer works at the exit of the interpreter.
    """
    if not _suspension(run_id):
        return
    event = Event(
        event=SUSPENDED,
        resource=Resource({"prefect.resource.id": f"prefect.flow-run.{run_id}"}),
        related=[RelatedResource({"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"})],
    )
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")])


def _suspension(run_id: UUID) -> State | None:
    """The state of a run that this process should no longer work for; None also while the server is away."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
    except Exception:
        return None
    return state if state and (state.state_details.pause_reschedule or state.is_scheduled()) else None
