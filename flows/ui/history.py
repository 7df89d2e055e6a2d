"""Delete what Prefect's database keeps of old runs of this project: the runs, their logs and their artifacts.

A server that `make ui` or deploy/ starts deletes by itself what ended 90 days ago, of every project. Runs without a
server write to the database of a temporary one, which is never up when that is due.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flows.ui.heartbeats import TAG
from flows.ui.terminal import TERMINAL_TAG, server

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

PAGE = 100  # runs or artifacts that are asked for at a time
LOGS_S = 120.0  # the longest wait for the server, which deletes logs after its answer
BUSY_S = 30.0  # the longest wait for a server that writes
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What was deleted, or with a dry run would be."""

    runs: int
    artifacts: int


def delete_runs(before: datetime, *, dry_run: bool) -> Deleted:
    """Delete the runs of this project that ended before a time, on the server that the settings name, or here.

    Raises:
        ValueError: the server does not answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    file = database_file()
    if get_current_settings().api.url is None and file is not None and not file.exists():
        return Deleted(runs=0, artifacts=0)
    with server(), get_client(sync_client=True) as client:
        runs = list(_old_runs(client, before))
        artifacts = 0
        for start in range(0, len(runs), PAGE):
            artifacts += _delete(client, runs[start : start + PAGE], dry_run)
    return Deleted(runs=len(runs), artifacts=artifacts)


def database_file() -> Path | None:
    """The SQLite file of Prefect's server on this machine; None where it is elsewhere, or another kind of database."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    url = settings.server.database.connection_url
    if (settings.api.url and urlsplit(settings.api.url).hostname not in LOCAL) or url is None:
        return None
    kind, _, path = url.get_secret_value().partition(":///")
    return Path(path.partition("?")[0]) if kind.startswith("sqlite") else None


def database_bytes(file: Path) -> int:
    """The size of a database, with what SQLite has not yet written back to it."""
    return sum(path.stat().st_size for path in (file, Path(f"{file}-wal")) if path.exists())


def compact(file: Path) -> bool:
    """Give the space of deleted rows back to the file system; False where a server holds the database for too long."""
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=BUSY_S, isolation_level=None)) as database:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return True
    except sqlite3.OperationalError:
        return False


def _old_runs(client: SyncPrefectClient, before: datetime) -> Iterator[FlowRun]:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterEndTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
        FlowRunFilterTags,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES

    chosen = FlowRunFilter(
        tags=FlowRunFilterTags(any_=[TAG, TERMINAL_TAG]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
        end_time=FlowRunFilterEndTime.model_validate({"before_": before}),
    )
    offset = 0
    while page := client.read_flow_runs(flow_run_filter=chosen, limit=PAGE, offset=offset):
        yield from page
        offset += len(page)


def _delete(client: SyncPrefectClient, runs: Sequence[FlowRun], dry_run: bool) -> int:
    """Delete runs, with their artifacts and logs; the number of artifacts."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, LogFilter, LogFilterFlowRunId

    ids = [run.id for run in runs]
    of_runs = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids))
    count = 0
    while page := client.read_artifacts(artifact_filter=of_runs, limit=PAGE, offset=count if dry_run else 0):
        count += len(page)
        if not dry_run:
            for artifact in page:
                client.delete_artifact(artifact.id)
    if dry_run:
        return count
    for run in ids:
        client.delete_flow_run(run)
    logs, deadline = LogFilter(flow_run_id=LogFilterFlowRunId(any_=ids)), time.monotonic() + LOGS_S
    while client.read_logs(logs, limit=1) and time.monotonic() < deadline:
        time.sleep(0.2)
    return count
