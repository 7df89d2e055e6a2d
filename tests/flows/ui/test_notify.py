"""Notifications of failures and promotions, taken by a real receiver over HTTP."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.ui import notify

pytestmark = pytest.mark.xdist_group("notify")


class Receiver(http.server.ThreadingHTTPServer):
    """A receiver that keeps the bodies it is sent."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.code = 200
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?token=secret"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_promotion_is_posted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    notify.promoted("digits", "v2.0.0", "abc", "It is better.")  # off unless an address is given
    monkeypatch.setenv("GRIDFLOW_WEBHOOK", receiver.address)
    notify.promoted("digits", "v3.0.0", "def", "It is better.")
    assert receiver.bodies == [
        {
            "text": "digits v3.0.0 is the champion. It is better.",
            "event": "gridflow.champion.promoted",
            "model": "digits",
            "version": "v3.0.0",
            "commit": "def",
            "reason": "It is better.",
        }
    ]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/secret", "file:///etc/secret", "secret", None])
def test_a_notification_that_nobody_takes_breaks_nothing_and_logs_no_address(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str | None
) -> None:
    receiver.code = 500
    monkeypatch.setenv("GRIDFLOW_WEBHOOK", address or receiver.address)
    assert not notify.post("gridflow.run.failed", "text")
    assert "secret" not in caplog.text


def test_a_failed_run_is_posted_with_its_sentence(
    receiver: Receiver, small: Path, run: Callable, repository: Path, server: str
) -> None:
    (small / "append.py").write_text("raise SystemExit(3)")
    env = {"PYTHONPATH": str(repository), "PREFECT_API_URL": server, "GRIDFLOW_WEBHOOK": receiver.address}
    done = run("gridflow", "run", "left", cwd=small, code=1, **env)
    assert [(body["event"], body["flow"]) for body in receiver.bodies] == [("gridflow.run.failed", "pipeline")]
    assert f"pipeline {receiver.bodies[0]['run']}: failed. first failed (" in receiver.bodies[0]["text"]
    assert "token=secret" not in done.stdout + done.stderr
    (small / "append.py").write_text("import sys; open(sys.argv[2], 'w').close()")
    run("gridflow", "run", "left", cwd=small, **env)
    assert len(receiver.bodies) == 1
