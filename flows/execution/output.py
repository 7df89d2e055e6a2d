"""Follow a stage's process: lines go to the log, events to the log and to a progress artifact."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.repository.graph import StageNode
from flows.ui.artifacts import if_it_can_be_shown
from tasks.engine.events import progress_line

LOG_EVERY_S = 5.0
LAST_LINES = 20  # so many are kept to explain a failure
# Lines of DVC that help a person at a terminal, and nobody in a log.
NOISE = re.compile(
    r"^(> python|Generating lock file|Updating lock file|To track the changes|\s*git add|To enable auto staging|"
    r"\s*dvc config core|Use `dvc push`)"
)
# DVC's words for a stage that it did not run: its outputs were up to date, or came from the cache.
UNCHANGED, RESTORED = "didn't change, skipping", "is cached - skipping run"


def follow(process: Popen[str], node: StageNode, folder: Path) -> tuple[list[str], str]:
    """Log the process's lines and the stage's progress until it ends.

    Returns:
        The last lines; and ``UNCHANGED`` or ``RESTORED`` when DVC did not run the stage, else an empty text.
    """
    logger, progress = get_run_logger(), _Progress(folder / "events.jsonl", node)
    last_lines: list[str] = []
    skipped = ""
    for line in _lines(process):
        if line is not None:
            skipped = next((words for words in (UNCHANGED, RESTORED) if words in line), skipped)
            if line and not NOISE.match(line):
                logger.info(line)
                last_lines = [*last_lines, line][-LAST_LINES:]
        progress.update()
    progress.update(last=True)
    process.wait()
    return last_lines, skipped


def _lines(process: Popen[str]) -> Iterator[str | None]:
    """The process's lines as they come, and None at least twice a second."""
    waiting: queue.Queue[str] = queue.Queue()
    stdout = process.stdout
    assert stdout is not None

    def read() -> None:
        for line in stdout:
            waiting.put(line.rstrip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while reader.is_alive() or not waiting.empty():
        # A grandchild that outlives the stage may keep the pipe open. The stage's own end is what counts.
        if process.poll() is not None and waiting.empty():
            reader.join(timeout=1.0)
            if waiting.empty():
                return
        try:
            yield waiting.get(timeout=0.5)
        except queue.Empty:
            yield None


class _Progress:
    def __init__(self, path: Path, node: StageNode) -> None:
        self._path, self._node = path, node
        self._position = 0  # in the file of events, in bytes
        self._logged_at = 0.0
        self._artifact: UUID | None = None

    def update(self, *, last: bool = False) -> None:
        """Show the newest progress, if the last was shown some seconds ago, or if it is the last."""
        steps = [event for event in self._new_events() if event["event"] == "progress"]
        if not steps:
            return
        done = steps[-1]["done"] == steps[-1]["total"]
        if last or done or time.monotonic() - self._logged_at >= LOG_EVERY_S:
            self._logged_at = time.monotonic()
            self._show(steps[-1])

    def _new_events(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        self._position += len(complete)
        return list(map(json.loads, complete.splitlines()))

    def _show(self, step: dict[str, Any]) -> None:
        keys = ("label", "done", "total", "unit", "eta_s", "numbers")
        line = progress_line(**{key: step[key] for key in keys})
        get_run_logger().info(line)
        if not step["total"]:
            return
        percent = 100.0 * step["done"] / step["total"]
        with if_it_can_be_shown(f"the progress of {self._node.name}"):
            if self._artifact is None:
                key = f"{self._node.slug}-progress"
                artifact = create_progress_artifact(percent, key=key, description=line)
                assert isinstance(artifact, UUID)  # and no coroutine: this is no asynchronous code
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, percent, description=line)
