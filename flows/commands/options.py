"""Options that several subcommands share, so that they have one name and one meaning everywhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer


def _model(name: str) -> str:
    from flows.registry.models import find_model

    with checkout(2) as root:
        find_model(root, name)
    return name


Recipe = Annotated[str | None, typer.Option(metavar="NAME", help="Use a set of parameters from recipes/.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter; may be repeated.")
]
Revision = Annotated[str | None, typer.Option(metavar="REV", help="Work at this commit, branch, tag or experiment.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", callback=_model, help="A model of this checkout.")]
Drift = Annotated[
    Literal["off", "warn", "stop"], typer.Option(help="What happens to new data that differ from the old.")
]
Background = Annotated[
    bool, typer.Option("--background", help="Of boxes and masks: images without a label show no object.")
]


@contextlib.contextmanager
def checkout(code: int = 1, *more: type[Exception]) -> Iterator[Path]:
    """The root of the checkout around the current folder.

    A ValueError, or an error of the other kinds named, ends the command with this exit code and one sentence.
    """
    from flows.repository.graph import find_root

    kinds: tuple[type[Exception], ...] = (ValueError, *more)
    try:
        yield find_root()
    except kinds as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(code) from None
