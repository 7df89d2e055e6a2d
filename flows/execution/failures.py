"""Classify the failure of a stage: its kind, whether another attempt may succeed, and with which micro-batch."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.tasks import exponential_backoff

from cnn_core.params import read_yaml
from flows.repository.graph import StageNode
from tasks.engine.events import FULL, MORE_SHM, full
from tasks.engine.runtime import load_runtime

BACK_OFF = exponential_backoff(2.0)  # seconds before another attempt: 2, 4, 8 …
BATCH_KEYS = ("batch_size", "batch")  # the names of the batch size in the sections of params.yaml
DEFAULT_BATCH = 16  # of a stage whose section names none
# DVC's words for a command that a signal ended: the negative number of the signal, or the shell's 128 + number.
SIGNALLED = re.compile(r"exited with (?:-(\d+)|1(29|3\d|4\d))$")
FULL_WORDS = ("disk is full", "No space left on device")  # SQLite's and the system's
NOT_UTF8 = "surrogates not allowed"  # Python's words
BUSY = "it is being blocked by"  # DVC's words when another DVC process works on the same outputs


@contextlib.contextmanager
def full_disk_is_said() -> Iterator[None]:
    """Turn the many errors of a full disk into one sentence.

    Raises:
        ValueError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ValueError(full(error)) from error
    except Exception as error:  # SQLite's, in which DVC keeps its notes, and git's
        if not any(words in str(error) for words in FULL_WORDS):
            raise
        raise ValueError(f"the disk is full: {error}. Free some space and run the same command again") from error


def can_heal(_task: Any, _run: Any, state: State) -> bool:
    """Whether another attempt may succeed. It may not after a failure that a person or a programmer has to mend."""
    return state.name == "Failed" and (state.message or "").startswith(("transient: ", "oom: "))


def kind_of_failure(folder: Path, returncode: int, last_lines: Sequence[str]) -> tuple[str, str]:
    """The kind of a stage's failure (user, transient, oom or bug), and a sentence for a person.

    Args:
        folder: where the stage left ``failure.json``, if it could.
        returncode: of DVC, not of the stage; negative when a signal ended DVC.
        last_lines: printed by DVC and the stage.
    """
    try:
        failure = json.loads((folder / "failure.json").read_text())
        return failure["kind"], failure["message"]
    except (FileNotFoundError, json.JSONDecodeError):  # the stage was killed, perhaps while it wrote
        pass
    if returncode < 0:
        return "transient", f"DVC was ended by {signal.Signals(-returncode).name}"
    if any(NOT_UTF8 in line for line in last_lines):
        return "user", "DVC cannot keep a file whose name is not UTF-8; `find . | grep -axv '.*'` lists such names"
    number = next((_signal_number(line) for line in reversed(last_lines) if _signal_number(line)), 0)
    if number == signal.SIGKILL:
        return "oom", "the process was killed, most likely because memory ran out"
    if number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        return "transient", f"the process was ended by {signal.Signals(number).name}"
    if any(words in line for words in FULL_WORDS for line in last_lines):
        return "user", "the disk is full. Free some space and run the same command again"
    if number == signal.SIGBUS:
        return "user", f"it could not write to a file in memory (SIGBUS): the disk or /dev/shm is full. {MORE_SHM}"
    if _ray_was_running(folder):
        return "transient", "a process of Ray was lost, and the stage with it"
    if any(BUSY in line for line in last_lines):
        return "transient", "another DVC process works on the same outputs; run again when it is done"
    errors = [line.removeprefix("ERROR: ") for line in last_lines if line.startswith("ERROR")] or list(last_lines[-1:])
    return "bug", ": ".join(errors) or f"DVC exited with {returncode}"


def smaller_batch(root: Path, node: StageNode, last: int | None) -> int | None:
    """Half the micro-batch of a stage that ran out of memory, or half of ``last``, which this function chose before.

    None where runtime.yaml forbids a smaller batch, or where the batch is 1 already.
    """
    try:
        runtime = load_runtime(root / "runtime.yaml")
    except ValueError:  # people have to see the stage's failure, not this one
        return None
    if not runtime.oom_smaller_batch:
        return None
    batch = last or runtime.micro_batch or _batch_of_params(root, node)
    return batch // 2 if batch > 1 else None


def _signal_number(line: str) -> int:
    match = SIGNALLED.search(line)
    return int(match[1] or int(f"1{match[2]}") - 128) if match else 0


def _ray_was_running(folder: Path) -> bool:
    """Whether the stage had a Ray when it ended. Ray ends the stage's process when its own processes are gone."""
    try:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    except (OSError, json.JSONDecodeError):
        return False
    return next((event["running"] for event in reversed(events) if event["event"] == "ray"), False)


def _batch_of_params(root: Path, node: StageNode) -> int:
    stage, _, key = node.name.partition("@")
    section = read_yaml(root / "params.yaml").get(stage) or {}
    section = section.get(key, {}) if key else section
    return next((section[name] for name in BATCH_KEYS if name in section), DEFAULT_BATCH)
