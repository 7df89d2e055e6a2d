"""`gridflow predict` and `export`, which use a trained model, and `gridflow champions`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from flows.commands.options import ModelName, checkout

if TYPE_CHECKING:
    from flows.registry.models import Version

CHECKOUT = Path(__file__).resolve().parents[2]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, such as data/models/scenes.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit.")]

champions = typer.Typer(help="See and set the champions, the models in use.", no_args_is_help=True)


def predict(
    model: ModelFolder,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Image files, folders and .zip archives.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write FOLDER/predictions.csv, with every probability.")
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", min=1, help="Show the K most probable classes.")] = 3,
    tta: Annotated[int, typer.Option(metavar="N", min=1, help="Average N views of each image.")] = 1,
) -> None:
    """Classify images with a trained model."""
    options = [f"--top={top}", f"--tta={tta}", *([f"--csv={out / 'predictions.csv'}"] if out else [])]
    _run_module("cnn_core.predict", *options, "--", str(model), *sources)


def export(
    model: ModelFolder, file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write: NAME.pt2.")]
) -> None:
    """Write a trained model as one file of its own."""
    _run_module("cnn_core.export", "--", str(model), str(file))


def _run_module(module: str, *arguments: str) -> NoReturn:
    """Let ``python -m module`` take this process's place: flows import no torch."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


@champions.command("list")
def champions_list() -> None:
    """List the champions."""
    from flows.registry.promotion import listing

    with checkout() as root:
        print(listing(root))


@champions.command("show")
def champions_show(model: ModelName) -> None:
    """Show every champion that a model has had, and why."""
    from flows.registry.promotion import audit

    with checkout() as root:
        print(audit(root, model))


@champions.command("fetch")
def champions_fetch(model: ModelName) -> None:
    """Print the path of the champion's model folder.

    The folder is brought out of DVC's cache first, where that is necessary.
    """
    from flows.registry.promotion import fetch as fetch_champion

    with checkout() as root:
        print(fetch_champion(root, model))


@champions.command("promote")
def champions_promote(
    model: ModelName,
    revision: Annotated[
        str | None, typer.Argument(metavar="REV", help="An experiment or a commit. [the checkout's dvc.lock]")
    ] = None,
    reason: Reason = "promoted by hand",
) -> None:
    """Make the model of a run the champion.

    Nothing is compared; `gridflow retrain` compares.
    """
    from flows.registry.promotion import promote

    with checkout() as root:
        version = promote(root, model, revision, reason=reason)
        for sentence in version.notes["differences"]:
            print(f"note: {sentence}")
        _print_champion(root, version)


@champions.command("rollback")
def champions_rollback(
    model: ModelName,
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="Such as v2.0.0. [the version before]")] = None,
    reason: Reason = "",
) -> None:
    """Make an earlier version the champion again."""
    from flows.registry.promotion import rollback

    with checkout() as root:
        _print_champion(root, rollback(root, model, to=to, reason=reason))


def _print_champion(root: Path, version: Version) -> None:
    from flows.registry.promotion import how_to_use

    print(f"{version.model} {version.name} is the champion ({version.headline}, commit {version.commit[:10]})")
    print(how_to_use(root, version.model))
