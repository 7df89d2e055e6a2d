"""`gridflow new`, `drop` and `sets`: the data sets and models of the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import Recipe, checkout

Commit = Annotated[
    bool | None,
    typer.Option("--commit/--no-commit", help="Commit just these edits. [where nothing else is staged]"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")]


def new(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The new model's name: small letters, digits, dashes.")],
    task: Annotated[
        Literal["classification", "detection", "segmentation"], typer.Option(help="What the model is to learn.")
    ],
    source: Annotated[Path | None, typer.Option(metavar="PATH", help="The images: a folder, a file or a .zip.")] = None,
    data_set: Annotated[
        str | None, typer.Option("--set", metavar="SET", help="Use a data set that is there, instead of --source.")
    ] = None,
    set_name: Annotated[
        str | None, typer.Option("--set-name", metavar="NAME", help="The new data set's name. [the model's]")
    ] = None,
    kind: Annotated[
        Literal["auto", "pixels", "images", "objects"], typer.Option(help="What the source holds.")
    ] = "auto",
    like: Annotated[str | None, typer.Option(metavar="MODEL", help="Take over the parameters of this model.")] = None,
    recipe: Recipe = None,
    network: Annotated[
        Literal["yolo", "yolo-seg"] | None,
        typer.Option(help="Of detection and segmentation; yolo-seg: one network finds boxes and masks."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Train nothing: use this model, model folder or file on --source."),
    ] = None,
    commit: Commit = None,
    dry_run: DryRun = False,
) -> None:
    """Make a data set and a model of images that you have, or a further model on a set.

    The source is read and checked first. The entries are written to params.yaml and dvc.yaml. With --weights the entry
    trains nothing: what the weights find in the pictures of --source is versioned and stands in the report.

    Example: gridflow new flowers --task classification --source ~/photos/flowers
    """
    if (source is None) == (data_set is None):
        raise typer.BadParameter("name either --source PATH or --set SET")
    if set_name and data_set:
        raise typer.BadParameter("--set-name is for a new data set; --set names one that is there")
    if weights and (data_set or set_name or like or network or kind != "auto"):
        raise typer.BadParameter("--weights goes with --source alone: nothing is ingested and nothing trained")
    from flows.entries.new import Request, make, write
    from flows.entries.saving import may_commit
    from flows.entries.use import entry_of_weights
    from flows.repository.recipes import recipes

    request = Request(
        model=model,
        task=task,
        source=str(source) if source else "",
        data_set=data_set or set_name or "",
        kind=kind,
        like=like or "",
        recipe=recipe or "",
        network=network or "",
    )
    with checkout() as root:
        if recipe and recipe not in recipes(root):
            raise ValueError(f"there is no recipe {recipe!r}; recipes/ holds {', '.join(recipes(root))}")
        entries = entry_of_weights(root, model, task, weights, str(source)) if weights else make(root, request)
        print(
            "\n".join(
                entries.survey.lines() if entries.survey else [f"{source}: used by {weights}, nothing is trained"]
            )
        )
        print(f"{'It would write' if dry_run else 'Entries'}: {', '.join(entries.added)}")
        if dry_run:
            return
        hindrance = may_commit(root, FILES)
        write(root, entries, recipe or "")
        _commit(root, commit, hindrance, f"Add the {'entry' if weights else 'model'} {model}")
    stages = [stage for stage in entries.stages if stage.startswith(("evaluate", "predict", "detect", "segment"))]
    print(f"Next: gridflow run {' '.join(stages)} report")


def drop(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Models or data sets.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Take out everything that the repository ships as its demo.")
    ] = False,
    commit: Commit = None,
    dry_run: DryRun = False,
) -> None:
    """Take models and data sets out, with their outputs; sets that nothing else needs go with their models.

    Sources stay, and so does what DVC has in its cache: champions can be fetched as before.

    Example: gridflow drop --demo
    """
    if bool(names) == demo:
        raise typer.BadParameter("name models or data sets, or --demo")
    from flows.entries.drop import DEMO_MODELS, DEMO_SETS, carry_out, models_of, plan
    from flows.entries.new import BOXES
    from flows.entries.saving import may_commit

    with checkout() as root:
        there = models_of(root)
        models = [name for name in (DEMO_MODELS if demo else names or []) if name in there]
        models += [f"{name}{BOXES}" for name in models if f"{name}{BOXES}" in there]  # made with a segmenter
        sets = [*DEMO_SETS] if demo else [name for name in names or [] if name not in there]
        dropped = plan(root, models, sets, only_existing=demo)
        print(f"{'It would drop' if dry_run else 'Dropped'}: {', '.join(dropped.stages) or 'nothing'}")
        for name in dropped.kept:
            print(f"The data set {name} stays: others need it")
        if dry_run or not dropped.stages:
            return
        files = [name for name in dropped.texts if name != "dvc.lock"]
        hindrance = may_commit(root, files)
        carry_out(root, dropped)
        _commit(root, commit, hindrance, f"Drop {'the demo' if demo else ', '.join(names or [])}", files)


def sets(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the data sets with their counts, versions, models and champions.

    Example: gridflow sets --json
    """
    from flows.entries.listing import sets as rows_of
    from flows.entries.listing import table

    with checkout() as root:
        rows = rows_of(root)
    print(json.dumps(rows, indent=2) if as_json else table(rows))


def migrate() -> None:
    """Take in a newer Gridflow: merge params.yaml and dvc.yaml by their keys after `git pull` or `git merge`.

    Entries of your own, values that you changed and what you dropped stay. Without a merge, a params.yaml of a former
    version is brought into today's shape.

    Example: git pull; gridflow migrate
    """
    from flows.entries.merge import migrate as migrate_files
    from flows.repository.parameters import check_params

    with checkout() as root:
        done = migrate_files(root)
        print("\n".join(done) or "nothing to do: params.yaml and dvc.yaml are as they should be")
        check_params(root)


FILES = ["params.yaml", "dvc.yaml"]


def _commit(root: Path, wanted: bool | None, hindrance: str, message: str, files: list[str] | None = None) -> None:
    """Commit the edits, or say how; where something is in the way, only on request."""
    from flows.entries.saving import commit

    files = files or FILES
    if wanted or (wanted is None and not hindrance):
        print(f"Committed {', '.join(files)}: {commit(root, files, message)}")
        return
    why = f" ({hindrance})" if hindrance else ""
    print(
        f"Not committed{why}; deployed and isolated runs see commits only: git commit -m '{message}' {' '.join(files)}"
    )
