"""Prefect's server: start one, keep it alive, ask whether it answers.

Prefect is imported late, because it reads the server's address when it is imported.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request

from flows.repository.git import USER_OF_URL

HOST, PORT = "127.0.0.1", 4200
START_S = 90.0  # the longest wait for a server's start
ANSWER_S = 2.0
DENIED = (401, 403)
SETTINGS = {
    # By default the server keeps in memory which runs hold a place, and after a restart it ends each of them when it
    # next renews its claim, every 225 s.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # By default it takes back a claim that was not renewed for 300 s, and so ends the runs of a server that was away.
    # The keeper frees the places of dead runs.
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_ENABLED": "false",
    # By default it deletes old events only; runs, their logs and their artifacts go 90 days after their end.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
}


def answers(api_url: str) -> bool:
    """Whether a Prefect server answers at this API address."""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=ANSWER_S) as answer:
            return answer.status == 200
    except OSError:
        return False


def start_server(host: str = HOST, port: int = PORT, *, session: bool = False) -> subprocess.Popen[bytes]:
    """Start a Prefect server, in a ``session`` of its own or not, and wait until it answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=session, env={**SETTINGS, **os.environ}
    )
    wait_for_start(process, f"http://{host}:{port}/api")
    return process


def wait_for_start(process: subprocess.Popen[bytes], api_url: str) -> None:
    """Wait until a server that has just been started answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_S
    while not answers(api_url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise RuntimeError(f"the Prefect server did not start at {api_url}; is the port in use?")
        time.sleep(0.2)


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


def check_server() -> None:
    """Ask the server that the settings name. Where none is named, Prefect starts one for the run.

    Raises:
        ValueError: the server does not answer, or refuses the client.
    """
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    if address is None:
        return
    public_address = USER_OF_URL.sub("***@", address)
    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch()
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        if code not in DENIED:
            raise ValueError(
                f"the Prefect server at {public_address} answers with HTTP status {code}; nothing was run"
            ) from error
        raise ValueError(
            f"the Prefect server at {public_address} refuses the client (HTTP status {code}): set "
            "PREFECT_API_AUTH_STRING=user:password to what it was started with (PREFECT_API_KEY for Prefect Cloud). "
            "Nothing was run"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"no Prefect server answers at {public_address}: start it (`make ui`), or unset PREFECT_API_URL "
            f"(`prefect config unset PREFECT_API_URL`) to run without one. Nothing was run ({error})"
        ) from error
