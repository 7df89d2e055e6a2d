"""`gridflow clean`, which removes what nobody needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import checkout


def clean(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Remove what is older than this: 30d, 2w or 12h. Without it, .gridflow goes, whatever its age.",
        ),
    ] = None,
    projects: Annotated[
        list[Path] | None,
        typer.Option(
            "--project",
            metavar="FOLDER",
            help="Another project that uses the same DVC cache; may be repeated. What it needs stays. A cache outside "
            "the checkout is only cleaned with this option (`--project .` where no other project uses it).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing; list what would be removed, with sizes.")
    ] = False,
) -> None:
    """Remove what old runs left.

    With --older-than: unfinished runs and folders of runs, finished runs in Prefect's database with their logs and
    artifacts, DVC experiments, and files in DVC's cache that nothing needs. What the checkout and its worktrees, a
    branch, a tag (every champion), a stash or a younger experiment needs stays, and so does whatever is younger.

    Without it: .gridflow (unfinished runs, logs). Data, models, experiments and the cache stay.

    Nothing is removed while a run is at work; a run that starts meanwhile waits.

    Example: gridflow clean --older-than 30d --dry-run
    """
    if projects and not older_than:
        raise typer.BadParameter("--project goes with --older-than: without it the cache stays as it is")
    from flows.housekeeping import clean_all, clean_old, parse_age, report

    with checkout() as root:
        if older_than is None:
            removed = clean_all(root, dry_run=dry_run)
        else:
            removed = clean_old(root, parse_age(older_than), projects or [], dry_run=dry_run, tell=_tell)
        print(report(removed, dry_run=dry_run))
        if refusals := [entry.refusal for entry in removed if entry.refusal]:
            raise ValueError("; ".join(refusals))


def _tell(line: str) -> None:
    print(f"… {line}", file=sys.stderr, flush=True)
