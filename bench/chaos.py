"""A seeded campaign of faults on a whole pipeline: ``python -m bench.chaos --faults 200`` (``make chaos``).

Each round makes one stage stale and runs it by one of the doors: ``gridflow run``, the same in a worktree, the same
with a push to a remote, ``dvc repro``. Or it promotes a model. One fault comes at a random moment: a process of the
run is killed, ended or stopped, its Prefect server or its Ray is killed, every process dies (a power loss), or the
disk is full or broken for some seconds. Where the command fails it is run again, and everything that could be lost or
left behind is looked for.

The pipeline is a copy of this checkout with the recipe ``tiny``, whose pictures are generated. The campaign ends with
the exit code 1 if a result was lost, a person had to help, or something was left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from bench.chaos_checkout import build_library, environment, prepare, switch_of

ROUND = "CHAOS_ROUND"  # a variable of the environment that every process of a round inherits
DISK_S, STOPPED_S, LONGEST_S = 4.0, 15.0, 900.0
FIRST_GUESS_S = 15.0  # how long a command takes, until one has been seen
DOORS = ("run", "run", "isolated", "push", "repro", "repro")  # drawn from, so `run` and `repro` come twice as often
FAULTS = ("SIGKILL", "SIGTERM", "SIGSTOP", "server", "ray", "power", "ENOSPC", "EIO")
RAY = ("raylet", "gcs_server")
MODELS = ("digits", "scenes", "detector", "segmenter")


@dataclass(kw_only=True)
class Round:
    """One fault and what came of it."""

    number: int
    fault: str
    door: str
    stage: str
    injected: bool = False
    recovery: str = ""  # itself, again (by the same command) or manual
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        return self.recovery == "manual" or bool(self.lost or self.left)


class Campaign:
    """Rounds on one checkout, whose stages have all run."""

    def __init__(self, root: Path, folder: Path, seed: int) -> None:
        self.root, self.folder, self.random = root, folder, random.Random(seed)
        self.temporary, self.disk = folder / "tmp", folder / "disk-fault"
        self.temporary.mkdir()
        library = build_library(folder)
        self.env = {
            **environment(folder),
            "TMPDIR": str(self.temporary),
            "CHAOS_FOLDER": str(root),
            "CHAOS_FAULT": str(self.disk),
            **({"LD_PRELOAD": str(library)} if library else {}),
        }
        self.faults = [name for name in FAULTS if library or name not in ("ENOSPC", "EIO")]
        self.stages = sorted(yaml.safe_load((root / "dvc.lock").read_text())["stages"])
        self.models = [name for name in MODELS if (root / "data/models" / name).is_dir()]
        self.seconds: dict[str, float] = {}

    def play(self, number: int) -> Round:
        """Draw a stage, a door and a fault; run, inject, run again, and look."""
        door = self.random.choice((*DOORS, "promote"))
        stage = self.random.choice(self.models if door == "promote" else self.stages)
        this = Round(number=number, fault=self.random.choice(self.faults), door=door, stage=stage)
        if door != "promote":
            self._make_stale(this)
        command = _command(this)
        process, began = self._start(command, this), time.monotonic()
        expected = self.seconds.get(command[1] + stage, FIRST_GUESS_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=self.random.uniform(0.05, 0.95) * expected)
        if process.poll() is None:
            this.injected = self._inject(this, process)
        code = self._end(process)
        if not this.injected and code == 0:
            self.seconds[command[1] + stage] = time.monotonic() - began
        this.recovery = "itself" if code == 0 else "again"
        if code != 0 and self._end(self._start(command, this)) != 0:
            this.recovery = "manual"
        self._look(this)
        return this

    def _make_stale(self, this: Round) -> None:
        switch_of(self.root, this.stage).write_text(f"{this.number}\n")
        self._git("commit", "--quiet", "--all", "--message", f"Round {this.number}")

    def _start(self, command: list[str], this: Round) -> subprocess.Popen[bytes]:
        env = {**self.env, ROUND: str(this.number), **({"GRIDFLOW_PUSH_TO": "near"} if this.door == "push" else {})}
        with (self.folder / f"round-{this.number}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.root, env=env, stdout=log, stderr=log, start_new_session=True)

    def _inject(self, this: Round, process: subprocess.Popen[bytes]) -> bool:
        """Let the fault happen; whether there was anything for it to happen to."""
        if this.fault in ("ENOSPC", "EIO"):
            self.disk.write_text(str(getattr(errno, this.fault)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=DISK_S)
            self.disk.unlink()
            return True
        victims = self._victims(this)
        if this.fault == "power":
            for victim in victims:
                _send(victim, signal.SIGKILL)
        elif victims:
            number = signal.Signals[this.fault] if this.fault.startswith("SIG") else signal.SIGKILL
            victim = self.random.choice(victims)
            _send(victim, number)
            if number is signal.SIGSTOP:
                time.sleep(STOPPED_S)
                _send(victim, signal.SIGCONT)
        return bool(victims)

    def _victims(self, this: Round) -> list[psutil.Process]:
        family = sorted(processes(str(this.number)), key=lambda one: one.pid)
        if this.fault == "server":
            return [one for one in family if "prefect.server" in _words(one)]
        if this.fault == "ray":
            return [one for one in family if any(name in _words(one) for name in RAY)]
        return family

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _look(self, this: Round) -> None:
        """Look for what is lost, and for what is left behind after the command that ended well."""
        deadline = time.monotonic() + 20
        while (alive := list(processes(str(this.number)))) and time.monotonic() < deadline:
            time.sleep(0.5)
        this.left += [f"process {_words(one)[:80]}" for one in alive]
        for one in alive:
            _send(one, signal.SIGKILL)
        folder = self.root / ".gridflow"
        for path in (*self.temporary.iterdir(), *folder.glob("worktrees/*"), *folder.glob("state/[!.]*")):
            if not path.name.startswith("ray"):  # Ray keeps the logs of its sessions
                this.left.append(str(path.relative_to(self.folder)))
        changed = [line for line in self._git("status", "--porcelain").splitlines() if line[3:] != "dvc.lock"]
        this.left += [f"in git: {line}" for line in changed]
        status = subprocess.run(["dvc", "status"], cwd=self.root, env=self.env, text=True, capture_output=True)
        expected = {this.stage} if this.door == "isolated" else set()
        stale = {line.rstrip(":") for line in status.stdout.splitlines() if line.endswith(":") and line[0] not in " \t"}
        this.lost += sorted(stale - expected)
        if this.door == "isolated":  # the checkout has to have it for the next round
            self._end(self._start(["dvc", "repro", "--single-item", this.stage], this))

    def _git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.root, env=self.env, text=True, check=True, stdout=subprocess.PIPE
        )
        return done.stdout


def _command(this: Round) -> list[str]:
    if this.door == "promote":
        return ["gridflow", "champions", "promote", this.stage, "--reason", f"round {this.number}"]
    if this.door == "repro":
        return ["dvc", "repro", "--single-item", this.stage]
    words = ["--isolated", "--name", f"round-{this.number}"] if this.door == "isolated" else []
    return ["gridflow", "run", *words, this.stage]


def processes(number: str) -> Iterator[psutil.Process]:
    """The processes of a round, also those without a parent or with a session of their own."""
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if one.environ().get(ROUND) == number and one.status() != psutil.STATUS_ZOMBIE:
                yield one


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def report(rounds: list[Round]) -> None:
    """Print a row a fault, and each round that went wrong."""
    columns: dict[str, Callable[[Round], int]] = {
        "drawn": lambda _: 1,
        "injected": lambda one: one.injected,
        "by itself": lambda one: one.injected and one.recovery == "itself",
        "same command": lambda one: one.injected and one.recovery == "again",
        "manual": lambda one: one.recovery == "manual",
        "lost": lambda one: len(one.lost),
        "left behind": lambda one: len(one.left),
    }
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for one in rounds:
        for name, value in columns.items():
            table[one.fault][name] += value(one)
            table["all"][name] += value(one)
    print("| fault | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for fault in (*FAULTS, "all"):
        print(f"| {fault} | " + " | ".join(str(table[fault][name]) for name in columns) + " |")
    for one in filter(lambda one: one.is_bad, rounds):
        print(
            f"round {one.number}: {one.fault}, {one.door} {one.stage}: {one.recovery}, lost {one.lost}, left {one.left}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many faults to inject [200]")
    parser.add_argument("--seed", type=int, default=0, help="of the draws [0]")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the checkout and the logs")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gridflow-chaos-"))
    campaign, rounds = Campaign(prepare(folder), folder, arguments.seed), list[Round]()
    while sum(one.injected for one in rounds) < arguments.faults and len(rounds) < 3 * arguments.faults:
        rounds.append(campaign.play(len(rounds) + 1))
        one = rounds[-1]
        state = one.recovery + ("" if one.injected else ", ended before the fault") + (" BAD" if one.is_bad else "")
        print(f"{one.number:>4} {one.fault:<8} {one.door:<9} {one.stage:<20} {state}", flush=True)
    report(rounds)
    if arguments.keep or any(one.is_bad for one in rounds):
        print(f"the checkout and the logs of the rounds are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(any(one.is_bad for one in rounds))


if __name__ == "__main__":
    sys.exit(main())
