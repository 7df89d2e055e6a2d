"""A seeded campaign of faults on a whole pipeline: ``python -m bench.chaos --faults 200`` (``make chaos``).

Each round makes one stage stale and runs it by one of the doors: ``gridflow run``, the same in a worktree, the same
with a push to a remote, ``dvc repro``. Or it promotes a model. One fault comes at a random moment: a process of the
run is killed, ended or stopped, its Prefect server or its Ray is killed, every process dies (a power loss), or the
disk is full or broken for some seconds. Where the command fails it is run again (``dvc repro`` as ``make repro`` does,
after ``gridflow run --check``). Then everything that could be lost is looked for, and what is left behind: what is
still there after the next run of the same command.

The pipeline is a copy of this checkout with the recipe ``tiny``, whose pictures are generated. The shorter a stage is,
the more often it is drawn. With ``--folder`` a campaign can be ended and continued: its rounds are kept there,
count towards ``--faults`` and stand in the table. It ends with the exit code 1 if a result was lost, a person had to
help, or something was left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import yaml

from bench.chaos_checkout import build_library, environment, prepare, switch_of
from bench.chaos_checks import damaged, litter, lost_stages, outputs_of
from bench.chaos_rounds import FAULTS, Round, append_round, read_rounds, report
from flows.registry.models import champion
from flows.ui import server as prefect_server

ROUND = "CHAOS_ROUND"  # a variable of the environment that every process of a round inherits
DISK_S, STOPPED_S = (1.0, 6.0), (2.0, 15.0)  # how long a disk fails, and how long a process is stopped
LONGEST_S = 900.0  # of a command
ENDING_S = 20.0  # until the last process of a command that ended has to be gone
STARTS_S = {"repro": 2.0, "run": 5.0, "isolated": 7.0, "push": 6.0, "promote": 3.0}  # what a door costs, at first
SERVER_START_S = 6.0  # what a temporary server adds
OWN_SERVERS = 0.1  # the share of rounds with a temporary server where the fault needs none
STAGE_S = 5.0  # of a stage without metrics
DOORS = ("run", "run", "isolated", "push", "repro", "repro", "promote")  # drawn from: `run` and `repro` come twice
FLOWS = ("run", "isolated", "push")
CHECK = ("gridflow", "run", "--check")
RAY = ("raylet", "gcs_server")
ON_RAY = ("pretrain", "train", "train_detector", "train_segmenter", "detect", "segment")
MODELS = ("digits", "scenes", "detector", "segmenter")


class Campaign:
    """Rounds on one checkout, whose stages have all run.

    Args:
        folder: holds the folder ``disk``, on which everything lies that a fault of the disk reaches. Its path should be
            short, or Ray does not use the folder for temporary files in it.
        server: the address of a Prefect server, which most flows use.
        stages: the stages to draw from (default: all).
        doors: the doors to draw from; without one of a flow no fault loses a Prefect server.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        server: str,
        seed: int,
        stages: Sequence[str] = (),
        doors: Sequence[str] = DOORS,
    ) -> None:
        self.root, self.folder, self.server, self.random = root, folder, server, random.Random(seed)
        self.disk, self.temporary, self.logs = folder / "disk", folder / "disk/t", folder / "logs"
        for made in (self.temporary, self.logs):
            made.mkdir(parents=True, exist_ok=True)
        self.switch = folder / "fault-of-the-disk"  # holds the error's number while the disk fails
        library = build_library(folder)
        self.env = {
            **environment(self.disk),
            "TMPDIR": str(self.temporary),
            "CHAOS_FOLDER": str(self.disk),
            "CHAOS_FAULT": str(self.switch),
            **({"LD_PRELOAD": str(library)} if library else {}),
        }
        without = {"ENOSPC", "EIO"} if library is None else set()
        self.waiting: list[str] = []  # faults that are not drawn yet: each comes equally often
        lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
        self.stages = sorted(stages or lock)
        if not any(name.partition("@")[0] in ON_RAY for name in self.stages):
            without.add("ray")
        self.doors = doors
        if not set(doors) & set(FLOWS):
            without.add("server")
        self.faults = [name for name in FAULTS if name not in without]
        self.models = [name for name in MODELS if (root / "data/models" / name).is_dir()]
        self.first = 1 + max((int(log.stem.partition("-")[2]) for log in self.logs.glob("round-*")), default=0)
        self.random.seed(seed + self.first)  # a sitting that goes on draws others than the former one
        self.pace = 1.0  # how many times as long as expected commands take
        self.before = litter(root, self.temporary)

    def play(self) -> Round:
        """Draw a fault, a door and a stage; run, inject, run again, and look."""
        this = self._draw()
        try:
            self._play(this)
        except BaseException:
            for one in processes(this):
                _send(one, signal.SIGKILL)
            raise
        return this

    def _play(self, this: Round) -> None:
        began = time.monotonic()
        switch = switch_of(self.root, this.stage)
        former = switch.read_text() if switch.is_file() else ""  # a model that is promoted has none
        command = self._make_stale(this)
        process, start = self._start(command, this), time.monotonic()
        expected = self._expected(this)
        self._await_moment(this, process, expected)
        if process.poll() is None:
            this.injected = self._inject(this, process)
        code = self._end(process)
        if code == 0 and not this.injected:
            self.pace = 0.5 * self.pace + 0.5 * self.pace * (time.monotonic() - start) / expected
        this.recovery = "itself" if code == 0 else "again"
        if code != 0 and self._again(command, this) != 0:
            this.recovery = "manual"
        self._look(this, former)
        this.seconds = time.monotonic() - began

    def _again(self, command: Sequence[str], this: Round) -> int:
        """Run the command again; DVC alone is called as `make repro` does it, which mends its lock file first."""
        if this.door == "repro":
            self._end(self._start(CHECK, this))
        return self._end(self._start(command, this))

    def _draw(self) -> Round:
        if not self.waiting:
            self.waiting = self.random.sample(self.faults, len(self.faults))
        fault, number = self.waiting.pop(), self.first
        self.first += 1
        doors = {"server": FLOWS, "ray": (*FLOWS, "repro")}.get(fault, DOORS)
        door = self.random.choice([door for door in self.doors if door in doors])
        stages = [name for name in self.stages if fault != "ray" or name.partition("@")[0] in ON_RAY]
        weights = [1 / (STAGE_S + self._seconds_of(name)) for name in stages]
        stage = self.random.choice(self.models) if door == "promote" else self.random.choices(stages, weights)[0]
        own_server = fault == "server" or self.random.random() < OWN_SERVERS
        return Round(number=number, fault=fault, door=door, stage=stage, own_server=own_server)

    def _make_stale(self, this: Round) -> list[str]:
        """Make the round's stage stale; the command that brings it up to date."""
        if this.door == "promote":
            return ["gridflow", "champions", "promote", this.stage, "--reason", f"round {this.number}"]
        switch_of(self.root, this.stage).write_text(f"{this.number} {time.time()}\n")
        self._git("commit", "--quiet", "--all", "--message", f"Round {this.number}")
        if this.door == "repro":
            return ["dvc", "repro", "--single-item", this.stage]
        words = ["--isolated", "--name", f"round-{this.number}"] if this.door == "isolated" else []
        return ["gridflow", "run", *words, this.stage]

    def _start(self, command: Sequence[str], this: Round) -> subprocess.Popen[bytes]:
        env = {**self.env, ROUND: str(this.number)}
        if not this.own_server:
            env["PREFECT_API_URL"] = self.server
        if this.door == "push":
            env["GRIDFLOW_PUSH_TO"] = "near"
        if this.fault == "ray":
            env["GRIDFLOW_LOCAL_IMAGES"] = "0"  # detect and segment too take Ray
        with (self.logs / f"round-{this.number}.log").open("ab") as log:
            log.write(f"--- {' '.join(command)}\n".encode())
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _expected(self, this: Round) -> float:
        """How many seconds the round's command takes without a fault, most likely."""
        seconds = STARTS_S[this.door] + SERVER_START_S * (this.own_server and this.door in FLOWS)
        return self.pace * (seconds + (self._seconds_of(this.stage) if this.door != "promote" else 0.0))

    def _seconds_of(self, stage: str) -> float:
        """How many seconds the stage took when it last ran."""
        metrics = self.root / "data/metrics" / f"{stage.replace('@', '-')}.json"
        return json.loads(metrics.read_text())["seconds"] if metrics.is_file() else STAGE_S

    def _await_moment(self, this: Round, process: subprocess.Popen[bytes], expected: float) -> None:
        """Wait for a random moment of the command; where the fault needs a server or Ray, for one when that runs."""
        share = self.random.uniform(0.02, 0.95)
        if this.fault in ("server", "ray"):
            while process.poll() is None and not self._victims(this):
                time.sleep(0.1)
            expected /= 2
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=share * expected)

    def _inject(self, this: Round, process: subprocess.Popen[bytes]) -> bool:
        """Let the fault happen; whether there was anything for it to happen to."""
        if this.fault in ("ENOSPC", "EIO"):
            self.switch.write_text(str(getattr(errno, this.fault)))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=self.random.uniform(*DISK_S))
            self.switch.unlink()
            return True
        victims = self._victims(this)
        if this.fault == "power":
            for victim in victims:
                _send(victim, signal.SIGKILL)
        elif victims:
            number = signal.Signals[this.fault] if this.fault.startswith("SIG") else signal.SIGKILL
            victim = self.random.choice(victims)
            self._note(this, f"{this.fault} for {victim.pid}: {_words(victim)}")
            _send(victim, number)
            if number is signal.SIGSTOP:
                time.sleep(self.random.uniform(*STOPPED_S))
                _send(victim, signal.SIGCONT)
        return bool(victims)

    def _victims(self, this: Round) -> list[psutil.Process]:
        family = sorted(processes(this), key=lambda one: one.pid)
        if this.fault == "server":
            return [one for one in family if "temporary_server.py" in _words(one)]
        if this.fault == "ray":
            return [one for one in family if any(name in _words(one).partition(" ")[0] for name in RAY)]
        return family

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _look(self, this: Round, former: str) -> None:
        """Look for what is lost, and for what is left behind; ``former`` is what the stage's switch held before."""
        this.left += self._end_processes(this)
        this.lost += self._lost(this)
        if this.recovery != "manual" and litter(self.root, self.temporary) - self.before:
            again = Round(number=this.number, fault=this.fault, door=this.door, stage=this.stage, own_server=False)
            command = self._make_stale(again)
            command = [f"{word}-next" if word == f"round-{this.number}" else word for word in command]
            self._end(self._start(command, again))
            this.left += self._end_processes(this)
        if this.door == "isolated":  # the checkout stays as it was: its stage is up to date with the former switch
            switch_of(self.root, this.stage).write_text(former)
            self._git("commit", "--quiet", "--all", "--message", f"After round {this.number}")
        now = litter(self.root, self.temporary)
        this.left += sorted(now - self.before)
        self.before |= now  # each is counted once
        changed = [line for line in self._git("status", "--porcelain").splitlines() if line[3:] != "dvc.lock"]
        this.left += [f"in git: {line}" for line in changed if line[3:] not in this.left]

    def _end_processes(self, this: Round) -> list[str]:
        deadline = time.monotonic() + ENDING_S
        while (alive := list(processes(this))) and time.monotonic() < deadline:
            time.sleep(0.2)
        for one in alive:
            self._note(this, f"left behind: {one.pid} {_words(one)}")
            _send(one, signal.SIGKILL)
        return [f"process {_words(one)[:100]}" for one in alive]

    def _lost(self, this: Round) -> list[str]:
        cache, remote = self.root / ".dvc/cache/files/md5", self.disk / "remote/files/md5"
        if this.recovery == "manual":  # then it is known that this stage is stale
            return [text for text in lost_stages(self.root, "") if not text.startswith(f"{this.stage}:")]
        if this.door == "promote":
            version = champion(self.root, this.stage)
            is_there = version is not None and version.notes["reason"] == f"round {this.number}"
            return [] if is_there else [f"the promotion of {this.stage}"]
        if this.door == "isolated":
            refs = self._git("for-each-ref", "--format=%(refname)", "refs/exps").split()
            mine = [ref for ref in refs if ref.rpartition("/")[2] == f"round-{this.number}"]
            if not mine:
                return [f"the experiment round-{this.number}"]
            return damaged(cache, outputs_of(self.root, this.stage, mine[0]))
        if lost_stages(self.root, this.stage):  # a DVC killed alone has cut dvc.lock off; `gridflow run` mends it
            self._end(self._start(CHECK, this))
        outputs = outputs_of(self.root, this.stage)
        sent = damaged(remote, outputs) if this.door == "push" else []
        return [*lost_stages(self.root, this.stage), *damaged(cache, outputs), *sent]

    def _note(self, this: Round, text: str) -> None:
        with (self.logs / f"round-{this.number}.log").open("a") as log:
            log.write(f"--- {text}\n")

    def _git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.root, env=self.env, text=True, check=True, stdout=subprocess.PIPE
        )
        return done.stdout


def processes(this: Round) -> Iterator[psutil.Process]:
    """The processes of a round, also those without a parent or with a session of their own."""
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if one.environ().get(ROUND) == str(this.number) and one.status() != psutil.STATUS_ZOMBIE:
                yield one


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


@contextlib.contextmanager
def standing_server(folder: Path) -> Iterator[str]:
    """The API address of a Prefect server with a home of its own, for a ``with`` block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    env = environment(folder / "server")
    Path(env["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    prefect_server.START_S = 400.0  # a busy machine
    try:
        prefect_server.wait_for_start(process, api)
        yield api
    finally:
        process.terminate()
        process.wait(timeout=30)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many faults to inject [200]")
    parser.add_argument("--seed", type=int, default=0, help="of the draws [0]")
    parser.add_argument("--folder", type=Path, help="keep the checkout, rounds and logs here, and go on with them")
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="chaos"))).absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kept = folder / "rounds.jsonl"
    rounds = read_rounds(kept)
    root = prepare(folder / "disk")
    with contextlib.suppress(KeyboardInterrupt), standing_server(folder) as server:
        campaign = Campaign(root, folder, server, arguments.seed)
        while sum(one.injected for one in rounds) < arguments.faults and len(rounds) < 3 * arguments.faults:
            rounds.append(campaign.play())
            append_round(kept, rounds[-1])
            print(rounds[-1], flush=True)
    print(report(rounds))
    if arguments.folder or any(one.is_bad for one in rounds):
        print(f"the checkout and the logs of the rounds are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(any(one.is_bad for one in rounds))


if __name__ == "__main__":
    sys.exit(main())
