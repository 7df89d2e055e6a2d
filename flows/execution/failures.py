"""What kind of failure the end of a stage was, whether a second attempt may go better, and what it changes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.tasks import exponential_backoff

from cnn_core.params import read_yaml
from flows.repository.graph import StageNode
from tasks.engine.runtime import load_runtime

BACK_OFF = exponential_backoff(2.0)  # seconds before an attempt: 2, 4, 8 ...
BATCHES = ("batch_size", "batch")  # how sections of params.yaml name the images of a step
USUAL_BATCH = 16  # where a stage's section names none
# What DVC says of a command that a signal ended: the signal's number by itself, or the shell's 128 + number.
SIGNALLED = re.compile(r"exited with (?:-(\d+)|1(29|3\d|4\d))$")
BUSY = "it is being blocked by"  # another DVC process works on the same outputs


def can_heal(_task: Any, _run: Any, state: State) -> bool:
    """Whether a second attempt may go better: not after what a person or a programmer has to mend."""
    return state.name == "Failed" and (state.message or "").startswith(("transient: ", "oom: "))


def kind_of_failure(folder: Path, returncode: int, tail: Sequence[str]) -> tuple[str, str]:
    """The kind and the sentence of a stage's failure.

    Args:
        folder: where the stage left ``failure.json``, if it could.
        returncode: of DVC, not of the stage; negative when a signal ended it.
        tail: the last lines that the two printed.
    """
    try:
        told = json.loads((folder / "failure.json").read_text())
        return told["kind"], told["message"]
    except (FileNotFoundError, json.JSONDecodeError):  # killed, perhaps while it wrote
        pass
    if returncode < 0:
        return "transient", f"DVC was ended by {signal.Signals(-returncode).name}"
    number = next((_signal_number(line) for line in reversed(tail) if _signal_number(line)), 0)
    if number == signal.SIGKILL:
        return "oom", "the process was killed, most likely because memory ran out"
    if number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        return "transient", f"the process was ended by {signal.Signals(number).name}"
    if any(BUSY in line for line in tail):
        return "transient", "another DVC process works on the same outputs; run again when it is done"
    errors = [line.removeprefix("ERROR: ") for line in tail if line.startswith("ERROR")] or list(tail[-1:])
    return "bug", ": ".join(errors) or f"DVC exited with {returncode}"


def smaller_batch(root: Path, node: StageNode, last: int | None) -> int | None:
    """Half the micro-batch of a stage that ran out of memory; None where runtime.yaml forbids it or it is 1 already.

    Args:
        root: of the run: its params.yaml and runtime.yaml count.
        last: what the attempt that failed was given by this function.
    """
    try:
        runtime = load_runtime(root / "runtime.yaml")
    except ValueError:  # the stage's own failure is the news, not this
        return None
    if not runtime.oom_smaller_batch:
        return None
    now = last or runtime.micro_batch or _batch(root, node)
    return now // 2 if now > 1 else None


def _signal_number(line: str) -> int:
    found = SIGNALLED.search(line)
    return int(found[1] or int(f"1{found[2]}") - 128) if found else 0


def _batch(root: Path, node: StageNode) -> int:
    stage, _, key = node.name.partition("@")
    section = read_yaml(root / "params.yaml").get(stage) or {}
    section = section.get(key, {}) if key else section
    return next((section[name] for name in BATCHES if name in section), USUAL_BATCH)
