"""Serve the deployments of prefect.yaml (``gridflow ui``): runs are child processes, without a work pool.

A server that already runs (``PREFECT_API_URL``) is used. Otherwise one is started on 127.0.0.1; it is restarted when it
dies, and ended with this process.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows.repository.graph import find_root
from flows.ui.heartbeats import crash_silent_runs, send_heartbeats
from flows.ui.keeper import Keeper, keep
from flows.ui.schedules import register
from flows.ui.server import HOST, PORT, Server, answers

if TYPE_CHECKING:
    from prefect.client.types.flexible_schedule_list import FlexibleScheduleList
    from prefect.deployments.runner import RunnerDeployment

DEFINITION = Path(__file__).resolve().parent.parent / "prefect.yaml"


def read_definition(path: Path = DEFINITION) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text())["deployments"]


def without_work_pool(definition: dict[str, Any], schedules: FlexibleScheduleList) -> RunnerDeployment:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.flows import EntrypointType

    module, _, name = definition["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name).to_deployment(
        definition["name"],
        description=definition["description"],
        tags=definition["tags"],
        parameters=definition["parameters"],
        schedules=schedules,
        concurrency_limit=ConcurrencyLimitConfig(**definition["concurrency_limit"]),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def serve_deployments(port: int = PORT) -> None:
    """Start a server at ``port`` where none answers, and serve the deployments until interrupted.

    Raises:
        RuntimeError: the server did not start.
        ValueError: the current folder is not inside a checkout.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it, so that the process outlives its terminal
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGINT))
    send_heartbeats()
    url = os.environ.setdefault("PREFECT_API_URL", f"http://{HOST}:{port}/api")
    root = find_root()
    os.chdir(root)
    server = None
    try:
        if not answers(url):
            print("Starting the Prefect server ...", flush=True)
            server = Server(port=port)
        from prefect import get_client, serve  # after the address is known: Prefect reads it when it is imported

        crash_silent_runs()
        with get_client(sync_client=True) as client:
            Keeper(client).sweep(patient=server is None)
        threading.Thread(target=keep, daemon=True, name="keeper").start()
        deployments = [
            without_work_pool(definition, register(root, definition["name"], definition["schedules"]))
            for definition in read_definition()
        ]
        print(f"\nPrefect UI: {url.removesuffix('/api')}/deployments   (Ctrl-C ends it)\n", flush=True)
        serve(*deployments, pause_on_shutdown=False)
    except KeyboardInterrupt:
        pass
    finally:
        if server is not None:
            server.end()
