"""Serve the deployments as ``gridflow ui`` does, and ask their server."""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Served:
    """The server of a repository's deployments, which is asked through its API."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.ui, self.api = root, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/api"

    def start_serving(self, environment: dict[str, str], repository: Path) -> None:
        """Start serving, and wait until the deployments can be run."""
        env = {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": self.api}
        port = self.ui.rpartition(":")[2]
        command = ["gridflow", "ui", "--port", port]
        started = time.time()
        self.process = subprocess.Popen(command, cwd=self.root, env=env)
        wait_until(lambda: self._ready(started) or self.process.poll() is not None, 400)
        assert self.process.poll() is None

    def _ready(self, since: float) -> bool:
        """Whether the three deployments have been registered since then."""
        updated = [datetime.datetime.fromisoformat(entry["updated"]) for entry in self.deployments().values()]
        return len(updated) == 3 and min(updated).timestamp() >= since

    def deployments(self) -> dict[str, dict]:
        """The deployments by name."""
        try:
            return {entry["name"]: entry for entry in self.ask("deployments/filter", {})}
        except OSError:
            return {}

    def start(self, name: str, parameters: dict) -> str:
        """Start a run of a deployment; the id of the flow run."""
        deployment = self.deployments()[name]["id"]
        return self.ask(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, flow_run: str) -> dict:
        """The present state of a flow run."""
        return self.ask(f"flow_runs/{flow_run}")["state"]

    def end(self, flow_run: str, seconds: float = 500) -> dict:
        """Wait for the end of a flow run; its last state."""
        wait_until(lambda: self.state(flow_run)["type"] in ENDED, seconds)
        return self.state(flow_run)

    def cancel(self, flow_run: str) -> None:
        self.ask(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})

    def artifacts(self, flow_run: str) -> dict[str, dict]:
        """The artifacts of a flow run by key."""
        query = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}}
        return {entry["key"]: entry for entry in self.ask("artifacts/filter", query)}

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        return ask(f"{self.api}/{path}", body, method)


def ask(url: str, body: Any = None, method: str | None = None) -> Any:
    """What a Prefect server answers, asked again as long as its database is locked by another process."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:  # SQLite is busy on a busy machine
            if error.code != 503:
                raise
            time.sleep(1)
    raise AssertionError(f"{url}: the server stays unavailable")


@contextlib.contextmanager
def serve(root: Path, environment: dict[str, str], repository: Path, port: int) -> Iterator[Served]:
    """Run ``gridflow ui`` in a repository, and end it as a person does, by Ctrl-C."""
    served = Served(root, port)
    served.start_serving(environment, repository)
    try:
        yield served
    finally:
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(timeout=120) == 0


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)
