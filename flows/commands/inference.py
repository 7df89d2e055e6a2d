"""`gridflow detect` and `segment`, which run a model once on any pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import checkout

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model of this checkout, a model folder, or weights.")]
Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE", help="Image files, or one folder, .zip, .parquet, list or video.")
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the results go. [detect-MODEL, segment-MODEL]")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the stage, such as conf; may be repeated."),
]


def detect(model: Model, sources: Sources, out: Out = None, settings: Settings = None) -> None:
    """Find objects in any pictures.

    The stage `detect` runs outside the pipeline; nothing of the checkout changes. Run again, it goes on where it was.

    Example: gridflow detect yolo11n.pt holiday/ --set conf=0.5
    """
    _run("detect", model, sources, out, settings)


def segment(model: Model, sources: Sources, out: Out = None, settings: Settings = None) -> None:
    """Cut objects out of any pictures: those that prompts name, or everything.

    The stage `segment` runs outside the pipeline; nothing of the checkout changes. Run again, it goes on where it was.

    Example: gridflow segment sam2.1_t.pt holiday/ --set prompt=boxes --set prompts=detect-yolo11n
    """
    _run("segment", model, sources, out, settings)


def _run(stage: str, model: str, sources: list[str], out: Path | None, settings: list[str] | None) -> None:
    from flows.entries.once import run_once

    target = out or Path(f"{stage}-{Path(model).stem}")
    with checkout() as root:
        code = run_once(root, "detect" if stage == "detect" else "segment", model, sources, target, settings or [])
    if code:
        raise typer.Exit(code)
    print(f"Results: {target}")
