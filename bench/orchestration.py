"""Measure what Prefect and DVC add to the command of a stage: ``python -m bench.orchestration``.

A chain of stages that do next to nothing runs in three ways, alternating: the commands alone, ``dvc repro``, the flow.
The cost of one more stage is the slope between a short chain and a long one. So it does not include the start-up
(imports, Prefect's temporary server).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORT, LONG, ROUNDS = 1, 9, 3
STAGE = """
  s{number}:
    cmd: python write.py {number}
    deps: [s{before}.txt]
    outs: [s{number}.txt]
"""
WRITE = "import pathlib, sys; pathlib.Path(f's{sys.argv[1]}.txt').write_text(sys.argv[1])"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    times: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = make_environment(Path(folder))
        for _ in range(ROUNDS):
            for length in (SHORT, LONG):
                for way, commands in ways(length).items():
                    root = chain(Path(tempfile.mkdtemp(dir=folder)), length, environment)
                    start = time.monotonic()
                    for command in commands:
                        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
                    times.setdefault((way, length), []).append(time.monotonic() - start)
    report(times)


def ways(length: int) -> dict[str, list[list[str]]]:
    """The commands that run the chain in each way."""
    return {
        "command alone": [[sys.executable, "write.py", str(number)] for number in range(1, length + 1)],
        "dvc repro": [[sys.executable, "-m", "dvc", "repro"]],
        "flow": [[sys.executable, "-m", "flows.cli", "run"]],
    }


def report(times: dict[tuple[str, int], list[float]]) -> None:
    median = {key: statistics.median(values) for key, values in times.items()}
    print(f"{'way':<16}{f'{SHORT} stage, s':>14}{f'{LONG} stages, s':>14}{'s a stage':>12}{'added, s':>12}")
    alone = (median["command alone", LONG] - median["command alone", SHORT]) / (LONG - SHORT)
    for way in ways(1):
        short, long = median[way, SHORT], median[way, LONG]
        slope = (long - short) / (LONG - SHORT)
        print(f"{way:<16}{short:>14.2f}{long:>14.2f}{slope:>12.2f}{slope - alone:>12.2f}")
    print(f"medians of {ROUNDS} alternating rounds; 's a stage' is the slope, 'added' is over the command alone")


def make_environment(folder: Path) -> dict[str, str]:
    """An environment with this interpreter and checkout, a Prefect home, a git identity and no telemetry."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **{f"GIT_{role}_{field}": "bench" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")},
    }


def chain(root: Path, length: int, environment: dict[str, str]) -> Path:
    """Make a committed DVC repository with a chain of ``length`` stages."""
    (root / "write.py").write_text(WRITE)
    (root / "s0.txt").write_text("0")
    (root / "params.yaml").write_text("{}\n")
    stages = "".join(STAGE.format(number=number, before=number - 1) for number in range(1, length + 1))
    (root / "dvc.yaml").write_text(f"stages:{stages}")
    for package in ("tasks", "cnn_core"):
        (root / package).symlink_to(ROOT / package)
    (root / ".gitignore").write_text("/tasks\n/cnn_core\n/.gridflow\n")
    dvc = [sys.executable, "-m", "dvc", "init", "-q"]
    for command in (["git", "init", "-q"], dvc, ["git", "add", "."], ["git", "commit", "-qm", "chain"]):
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
    return root


if __name__ == "__main__":
    main()
