"""`gridflow fetch` and `inbox`, which bring data in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Background, Drift, checkout


def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="digits, scenes, a network of torchvision (its weights), or Ultralytics' yolo11n.pt and the like.",
        ),
    ],
) -> None:
    """Get data sets and official weights by name.

    DVC tracks what is fetched. No other command uses the network.
    """
    from flows.fetch import fetch as fetch_one
    from flows.fetch import run_with

    with checkout() as root:
        for name in names:
            path = fetch_one(name, root).relative_to(root)
            print(f"{name}: {path}, tracked by DVC ({path}.dvc: commit it to keep the version)")
            print(f"Run with it: {run_with(name, path)}")


def inbox(
    name: Annotated[str, typer.Argument(metavar="[SET]", help="A data set; without one, all are listed.")] = "",
    folder: Annotated[Path | None, typer.Option("--inbox", metavar="FOLDER", help="[data/inbox/SET]")] = None,
    drift: Drift = "warn",
    background: Background = False,
) -> None:
    """Check new data in the inbox and take the good ones in.

    A set of pictures takes folders named after the classes, a set of pixels tables; a set of boxes and masks takes
    a folder or .zip in any format that it may come in.
    """
    from cnn_core.params import read_yaml
    from flows.registry.inbox import SETTLE_S, composed_of, take_in, waiting

    with checkout() as root:
        params = read_yaml(root / "params.yaml")
        sets = params.get("ingest") or {}
        if not name:
            for each, entry in sets.items():
                inbox_folder = f"data/inbox/{each}"
                count = len(waiting(root / inbox_folder, settle_s=0))
                print(f"{each}  {entry.get('kind', 'auto')}, {count:,} in {inbox_folder}")
            return
        if name not in sets:
            raise ValueError(f"there is no data set {name!r}; there are {', '.join(sets)}")
        if composed := composed_of(params, sets[name]["source"]):
            raise ValueError(
                f"{name} is made of composed pictures, which grow with the images that they are composed of: put new "
                f"ones into the inbox of {composed}"
            )
        intake = take_in(root, name, sets[name]["source"], inbox=folder, drift=drift, background=background)
        young = len(waiting(folder or root / "data/inbox" / name, settle_s=0))
    print(f"{name}-data v{intake.version.number}.0.0" if intake.version else "nothing new")
    if young:
        print(
            f"{young:,} in the inbox changed in the last {SETTLE_S:.0f} seconds, so they may not be whole yet: run "
            "this again then"
        )
