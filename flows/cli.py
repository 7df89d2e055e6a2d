"""The command `gridflow`: a subcommand for each thing that a person does with the project.

Each subcommand is a thin door. It reads its options and calls the module that does the work. That module is imported
inside the function, because Prefect and DVC take seconds to import and `gridflow --help` needs neither.

Exit codes: 0 all went well, 1 the work failed, 2 wrong use (nothing has run), 130 interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import typer

from flows.commands.data import fetch, inbox
from flows.commands.entries import drop, migrate, new, sets
from flows.commands.inference import detect, segment
from flows.commands.models import champions, export, predict
from flows.commands.results import compare, summary
from flows.commands.runs import batch, retrain, run, ui
from flows.commands.upkeep import clean

COMMANDS: tuple[Callable[..., None], ...] = (
    run, new, drop, sets, migrate,
    fetch, detect, segment, predict, export, compare, summary, retrain, batch, inbox, ui, clean,
)  # fmt: skip

app = typer.Typer(
    help="Turn images into trained, versioned vision models and reports.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(champions, name="champions")


# Nothing that we start phones home, nor says how to switch that off. A person's own settings go before.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DVC_NO_ANALYTICS": "1",
    "YOLO_OFFLINE": "true",
}


def main() -> None:
    """Run the command line."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    app(prog_name="gridflow")


if __name__ == "__main__":
    main()
