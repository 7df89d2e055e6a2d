"""`gridflow compare` and `summary`, which look at the results of runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import checkout


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="The run that B is held against.")],
    after: Annotated[str | None, typer.Argument(metavar="B", help="The run that is looked at. [workspace]")] = None,
    every: Annotated[bool, typer.Option("--all", help="List also what did not change, and single classes.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write B's report, the comparison on top.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two runs.

    A run is `workspace`, `champion`, an experiment, a commit, branch or tag, or a folder of a run. The
    command lists the changed parameters and, for each metric, the change and whether it is statistically
    significant. The exit code does not say which run is better.
    """
    if markdown and as_json:
        raise typer.BadParameter("--markdown and --json exclude each other")
    from cnn_core.comparison import tables
    from flows.comparison.runs import compare_runs
    from flows.comparison.sides import WORKSPACE

    with checkout() as root:
        comparison = compare_runs(root, before, after or WORKSPACE, html)
    if as_json:
        print(json.dumps(tables.plain(comparison), indent=2, ensure_ascii=False))
    else:
        print((tables.markdown if markdown else tables.text)(comparison, every=every))


def summary(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="A run, as compare names them. [workspace]")] = None,
    against: Annotated[str | None, typer.Option(metavar="RUN", help="Add the comparison with this run.")] = None,
    pdf: Annotated[Path | None, typer.Option(metavar="FILE", help="Print the report itself as a PDF instead.")] = None,
) -> None:
    """Print a run's report in short, as Markdown."""
    from flows.comparison.sides import WORKSPACE
    from flows.summary import short, write_pdf

    with checkout(1, subprocess.TimeoutExpired) as root:
        if pdf:
            write_pdf(root, name or WORKSPACE, pdf)
            print(pdf)
        else:
            print(short(root, name or WORKSPACE, against), end="")
