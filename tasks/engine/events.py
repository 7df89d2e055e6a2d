"""The protocol between a stage and whoever runs it.

``dvc repro`` returns 255 whatever a stage returned, so with ``$GRIDFLOW_RUN_DIR`` set (by the flow) a stage appends to
``events.jsonl`` there and on failure writes ``failure.json`` (``kind: user|transient|oom|bug``, one sentence for a
person). Without it the same goes to the terminal, as a live bar (plain lines when piped) and an error message.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from tqdm import tqdm

from tasks.engine.lifetime import follow_starter, own_temporary_files
from tasks.engine.resources import Meter
from tasks.engine.runtime import load_runtime

Kind = Literal["user", "transient", "oom", "bug"]
ROOT = Path(__file__).resolve().parents[2]
LINE_EVERY_S = 5.0  # a plain progress line at most this often
EVENT_EVERY_S = 0.5
FULL = (errno.ENOSPC, errno.EDQUOT)
SHM_LEAST = 2**16  # bytes free below which /dev/shm counts as full
MORE_SHM = "Give a container more (docker: --shm-size=2g)"
LONGEST_REASON = 300  # characters; Ray's messages have pages


class StageError(Exception):
    """A failure of a known kind; its sentence says what is wrong, where, and what to do."""

    def __init__(self, message: str, kind: Kind = "user") -> None:
        super().__init__(message)
        self.message, self.kind = message, kind

    def __reduce__(self) -> tuple[Any, ...]:  # so that it survives the way between Ray's processes
        return type(self), (self.message, self.kind)


def run_dir() -> Path | None:
    """The folder that the runner reads; None when a person reads the terminal."""
    value = os.environ.get("GRIDFLOW_RUN_DIR")
    return Path(value) if value else None


def emit(event: str, **fields: Any) -> None:
    """Append one event for the runner. Without a runner it does nothing."""
    if folder := run_dir():
        line = json.dumps({"time": time.time(), "event": event, **fields}, default=float)
        with (folder / "events.jsonl").open("a") as file:
            file.write(line + "\n")


def log(message: str) -> None:
    """Print one line for a person. The Prefect flow logs it, as it reads the stage's output."""
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()


class Progress:
    """A count of finished units: a bar in a terminal, plain lines when piped, events under a runner."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self._numbers: dict[str, float] = {}
        self._start, self._first = time.monotonic(), 0
        self._reported = self._start if run_dir() is None else 0.0
        live = run_dir() is None and sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", dynamic_ncols=True) if live else None

    def skip(self, done: int) -> None:
        """Start at ``done`` units already finished in an earlier, interrupted run."""
        self.done = self._first = done
        if self._bar is not None:
            self._bar.initial = done
            self._bar.n = done
            self._bar.refresh()

    def update(self, units: int = 1, **numbers: float) -> None:
        """Add finished ``units``; show ``numbers`` (loss, images_per_s ...) beside the count."""
        self.done += units
        self._numbers.update(numbers)
        if self._bar is not None:
            self._bar.set_postfix({k: format_number(v) for k, v in self._numbers.items()}, refresh=False)
            self._bar.update(units)
        else:
            self._report(final=self.done == self.total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _report(self, *, final: bool) -> None:
        now = time.monotonic()
        if not final and now - self._reported < (EVENT_EVERY_S if run_dir() else LINE_EVERY_S):
            return
        self._reported = now
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if self.total and rate > 0 else None
        if run_dir():
            fields = {"label": self.label, "done": self.done, "total": self.total, "unit": self.unit}
            emit("progress", **fields, rate=rate, eta_s=left, numbers=self._numbers)
        else:
            print(progress_line(self.label, self.done, self.total, self.unit, left, self._numbers), flush=True)


@contextmanager
def progress(label: str, total: int | None, unit: str = "images") -> Iterator[Progress]:
    """Show progress: ``with progress("decode", len(files)) as bar: bar.update(loss=...)``."""
    bar = Progress(label, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def progress_line(
    label: str, done: int, total: int | None, unit: str, eta_s: float | None, numbers: dict[str, float]
) -> str:
    """Return a line such as ``train 3/16 epochs · loss 0.41 · accuracy 0.973 · 40 s left``."""
    count = f"{label} {done:,}/{total:,} {unit}" if total else f"{label} {done:,} {unit}"
    values = [f"{key.replace('_', ' ')} {format_number(value)}" for key, value in numbers.items()]
    left = [f"{eta_s:.0f} s left"] if eta_s and eta_s >= 1 else []
    return " · ".join([count, *values, *left])


def format_number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.4g}"


def write_metrics(path: str | Path, metrics: dict[str, Any]) -> None:
    """Write a DVC metrics file, with the moment and the stage's seconds and resources so far, and report it."""
    metrics = {**metrics, "seconds": round(elapsed(), 1)}
    if (meter := Meter.running) is not None:
        metrics["resources"] = {**meter.summary(), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(metrics, indent=2) + "\n")
    emit("metrics", path=str(path), metrics=metrics)


def elapsed() -> float:
    """Return the seconds since this process started, its imports included."""
    return time.time() - psutil.Process().create_time()


def run_stage(main: Callable[..., None]) -> None:
    """Run a stage's ``main`` with the command line's arguments; report a failure and exit with 1."""
    if options := [argument for argument in sys.argv[1:] if argument.startswith("-")]:
        print(f"{sys.modules['__main__'].__doc__ or ''}\nA stage has no options: params.yaml holds its values.")
        sys.exit(0 if set(options) <= {"-h", "--help"} else 2)
    follow_starter()
    for stream in (sys.stdout, sys.stderr):  # a file's name that is not UTF-8 must not end the stage that tells of it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    Meter.begin()
    try:
        _limit_threads()
        with own_temporary_files():
            main(*sys.argv[1:])
        _emit_resources()
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        kind, message = classify(error)
        if kind == "bug":
            traceback.print_exc()
        _report_failure(kind, message)
        sys.exit(1)
    gc.freeze()  # or the interpreter's end searches everything that torch loaded for cycles: 0.7 s of processor time


def classify(error: BaseException) -> tuple[Kind, str]:
    """The kind of a failure, and its sentence. A ``ValueError`` of our code is a user's mistake, others are bugs."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, StageError):
        return error.kind, error.message
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or type(error).__name__ == "OutOfMemoryError":
        return "oom", f"out of memory: {text}. Lower micro_batch in runtime.yaml or the batch size"
    if isinstance(error, OSError) and error.errno in FULL:
        return "user", full(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return "user", name_is_not_utf8(error)
    if isinstance(error, ValueError) and _raised_here(error):
        return "user", text
    if isinstance(error, ConnectionError | TimeoutError) or _is_of_ray(error):
        return "transient", text[:LONGEST_REASON]
    return "bug", f"{type(error).__name__}: {text}"


def name_is_not_utf8(error: UnicodeEncodeError) -> str:
    """Say which file's name is not UTF-8: Python keeps its bytes as surrogates, which DVC and tables cannot hold."""
    shown = os.fsencode(error.object[-LONGEST_REASON:]).decode("ascii", "backslashreplace")
    return f"the name of a file is not UTF-8: {shown}. Rename it (`convmv` does whole folders) and run again"


def full(error: OSError) -> str:
    """Say what is full: the disk, or the memory for files, of which a container has 64 MB by default.

    An error has the name of a file when it was opened, and none when it was written to.
    """
    in_memory = str(error.filename).startswith("/dev/shm/") if error.filename else memory_is_full()
    if in_memory:
        return f"{shm_is_full()}: {error}. {MORE_SHM}"
    return f"the disk is full: {error}. Free some space and run the same command again"


def memory_is_full() -> bool:
    """Whether nothing more can be written to /dev/shm."""
    try:
        return shutil.disk_usage("/dev/shm").free < SHM_LEAST
    except OSError:  # not Linux
        return False


def shm_is_full() -> str:
    return f"/dev/shm is full, which has {shutil.disk_usage('/dev/shm').total // 2**20:,} MB here"


def _is_of_ray(error: BaseException) -> bool:
    """Whether a process of Ray's own was lost, rather than the code that it ran failed."""
    if "ray" not in sys.modules:
        return False
    from ray.exceptions import RayError, RayTaskError

    return isinstance(error, RayError) and not isinstance(error, RayTaskError)


def _limit_threads() -> None:
    """Let torch have the cores that runtime.yaml and the container allow; by itself it takes the machine's."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(load_runtime().threads())


def _raised_here(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    source = Path(frames[-1].filename).resolve()
    return source.is_relative_to(ROOT) and ".venv" not in source.relative_to(ROOT).parts


def _report_failure(kind: Kind, message: str) -> None:
    if folder := run_dir():
        (folder / "failure.json").write_text(json.dumps({"kind": kind, "message": message}) + "\n")
    print(f"error: {message}", file=sys.stderr)
    if run_dir() is None and "DVC_ROOT" in os.environ:  # the flow restores the outputs itself
        print(
            "The outputs of an earlier run are safe in DVC's cache: `dvc checkout` brings them back.", file=sys.stderr
        )


def _emit_resources() -> None:
    if Meter.running is not None:
        emit("resources", seconds=elapsed(), **Meter.running.summary())
