"""Serve the deployments of prefect.yaml (``gridflow ui``): runs are child processes, without a work pool.

A server that already runs (``PREFECT_API_URL``) is used. Otherwise one is started on 127.0.0.1; it is restarted when it
dies, and ended with this process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flows.repository.graph import find_root
from flows.ui.heartbeats import crash_silent_runs, send_heartbeats

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

DEFINITION = Path(__file__).resolve().parent.parent / "prefect.yaml"
HOST, PORT = "127.0.0.1", 4200
START_S = 90.0  # the longest wait for a server's start


def is_healthy(api_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def start_server(host: str = HOST, port: int = PORT, *, session: bool = False) -> subprocess.Popen[bytes]:
    """Start a Prefect server, in a ``session`` of its own or not, and wait until it answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=session)
    deadline = time.monotonic() + START_S
    while not is_healthy(f"http://{host}:{port}/api"):
        if server.poll() is not None or time.monotonic() > deadline:
            server.terminate()
            raise RuntimeError(f"the Prefect server did not start on {host}:{port}; is the port in use?")
        time.sleep(0.5)
    return server


class Server:
    """A Prefect server that is restarted on its database whenever it dies, until `end` is called.

    It runs in a session of its own, because a terminal's Ctrl-C is for `serve_deployments`, which ends the runs while
    the server still listens.
    """

    def __init__(self, host: str = HOST, port: int = PORT) -> None:
        self._address, self._ended, self._lock = (host, port), threading.Event(), threading.Lock()
        self._process = start_server(host, port, session=True)
        threading.Thread(target=self._watch, daemon=True, name="server").start()

    def end(self) -> None:
        self._ended.set()
        with self._lock:
            self._process.terminate()
            self._process.wait(timeout=20)

    def _watch(self) -> None:
        while True:
            self._process.wait()
            with self._lock, contextlib.suppress(RuntimeError):  # it did not start; the loop tries again
                if self._ended.wait(timeout=1.0):
                    return
                print("The Prefect server died; it is started again.", flush=True)
                self._process = start_server(*self._address, session=True)


def read_definition(path: Path = DEFINITION) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text())["deployments"]


def without_work_pool(definition: dict[str, Any]) -> RunnerDeployment:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.flows import EntrypointType
    from prefect.schedules import Cron

    module, _, name = definition["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name).to_deployment(
        definition["name"],
        description=definition["description"],
        tags=definition["tags"],
        parameters=definition["parameters"],
        schedules=[Cron(schedule.pop("cron"), **schedule) for schedule in map(dict, definition["schedules"])],
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
    os.chdir(find_root())
    server = None
    try:
        if not is_healthy(url):
            print("Starting the Prefect server ...", flush=True)
            server = Server(port=port)
        from prefect import serve  # after the address is known: Prefect reads it when it is imported

        crash_silent_runs()
        deployments = [without_work_pool(definition) for definition in read_definition()]
        print(f"\nPrefect UI: {url.removesuffix('/api')}/deployments   (Ctrl-C ends it)\n", flush=True)
        serve(*deployments, pause_on_shutdown=False)
    except KeyboardInterrupt:
        pass
    finally:
        if server is not None:
            server.end()
