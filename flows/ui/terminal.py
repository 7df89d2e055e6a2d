"""Run a flow for a person at a terminal: with a server of its own where none is named, and with a clear end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from prefect import tags
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows.ui.server import answers, check_server, wait_for_start

INTERRUPTED = "interrupted: every process was ended. Run the same command again to go on."
END_S = 8.0  # from Ctrl-C to the end in any case: stages and the temporary server notice by themselves
TERMINAL_TAG = "gridflow-terminal"  # of each run; with the tag of the deployments heartbeats would be expected
SCRIPT = Path(__file__).with_name("temporary_server.py")


def run_flow(flow: Callable[[], State[Any]]) -> State[Any]:
    """Run a flow; its last state.

    Ctrl-C and SIGTERM end the process with exit code 130 and one sentence.

    Raises:
        ValueError: the Prefect server that the settings name does not answer.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _quick_end(), server(), tags(TERMINAL_TAG):
            return flow()
    except (KeyboardInterrupt, TerminationSignal):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _end()


def end_without_server(code: int) -> None:
    """End this process soon if the server is away: everything is done, and nobody takes the flow's last state."""
    address = get_current_settings().api.url
    if address is None or answers(address):
        return
    print("the Prefect server does not answer: it does not know how this run ended", file=sys.stderr, flush=True)

    def end() -> None:
        time.sleep(END_S)
        _leave(code)

    threading.Thread(target=end, daemon=True).start()


def _end() -> NoReturn:
    print(f"\n{INTERRUPTED}", file=sys.stderr, flush=True)
    _leave(130)


def _leave(code: int) -> NoReturn:
    """End now: a program that does nothing takes the place of this one, whose threads would go on sending logs."""
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", f"raise SystemExit({code})"])


@contextlib.contextmanager
def _quick_end() -> Iterator[None]:
    """From Ctrl-C or SIGTERM on, log nothing more, and end the process in `END_S` seconds if the flow has not ended.

    The interpreter tells of signals by a pipe, because Prefect puts signal handlers of its own in place of ours.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                logging.disable()
                time.sleep(END_S)
                _end()

    threading.Thread(target=watch, daemon=True, name="interruption").start()
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        os.close(writer)


@contextlib.contextmanager
def server() -> Iterator[None]:
    """Use the server that the settings name, or else a temporary one.

    The temporary one has a session of its own, so a terminal's Ctrl-C does not reach it and the run can still tell it
    how it ended. It ends with this process, not with the block, because Prefect sends its last logs at exit.
    """
    if get_current_settings().api.url is not None:
        check_server()
        yield
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    print(f"Starting a temporary server at {address}; `make ui` starts one that stays", flush=True)
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    reader, _ = os.pipe()  # the other end is closed by the end of this process
    process = subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), str(port)],
        stdin=reader,
        start_new_session=True,
        env={**os.environ, **settings, "PREFECT_UI_ENABLED": "0"},
    )
    os.close(reader)
    try:
        wait_for_start(process, address)
    except RuntimeError as error:
        raise ValueError(f"{error}. `make ui` starts a server that stays; nothing was run") from None
    with temporary_settings({PREFECT_API_URL: address}):
        yield
