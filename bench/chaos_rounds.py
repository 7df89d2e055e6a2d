"""What came of each fault of a campaign, and the table of them (`bench.chaos`)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

FAULTS = ("SIGKILL", "SIGTERM", "SIGSTOP", "server", "ray", "power", "ENOSPC", "EIO")


@dataclass(kw_only=True)
class Round:
    """One fault and what came of it."""

    number: int
    fault: str
    door: str
    stage: str
    own_server: bool  # a temporary Prefect server, and not the campaign's
    injected: bool = False
    recovery: str = ""  # itself, again (by the same command) or manual
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        return self.recovery == "manual" or bool(self.lost or self.left)

    def __str__(self) -> str:
        state = self.recovery + ("" if self.injected else ", ended before the fault") + (" BAD" if self.is_bad else "")
        head = f"{self.number:>4} {self.fault:<8} {self.door:<9} {self.stage:<20} {self.seconds:5.0f} s  {state}"
        return "\n".join([head, *(f"     lost: {text}" for text in self.lost), *(f"     left: {x}" for x in self.left)])


def read_rounds(file: Path) -> list[Round]:
    """The rounds that earlier sittings of a campaign wrote to a file; none where there is no file."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return [Round(**json.loads(line)) for line in lines]


def append_round(file: Path, this: Round) -> None:
    with file.open("a") as rounds:
        rounds.write(json.dumps(asdict(this)) + "\n")


def report(rounds: Sequence[Round]) -> str:
    """A table with a row for each fault, and each round that went wrong."""
    columns: dict[str, Callable[[Round], int]] = {
        "injected": lambda one: one.injected,
        "recovered by itself": lambda one: one.injected and one.recovery == "itself",
        "by the same command again": lambda one: one.injected and one.recovery == "again",
        "by a person": lambda one: one.recovery == "manual",
        "results lost": lambda one: len(one.lost),
        "left behind": lambda one: len(one.left),
    }
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for one in rounds:
        for name, value in columns.items():
            table[one.fault][name] += value(one)
            table["all"][name] += value(one)
    lines = ["| fault | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for fault in (*FAULTS, "all"):
        lines.append(f"| {fault} | " + " | ".join(str(table[fault][name]) for name in columns) + " |")
    return "\n".join([*lines, *(str(one) for one in rounds if one.is_bad)])
