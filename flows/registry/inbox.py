"""The inbox: what people put into ``data/inbox/<set>/`` grows the set's source.

The good deliveries become the set's next version. Nothing of the checkout changes but the inbox: each delivery goes to
``done/`` or, with the reason beside it, to ``refused/``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cnn_core.files import write_csv
from cnn_core.locks import try_lock
from cnn_core.params import read_yaml
from flows.registry.data_versions import (
    DataVersion,
    data_grown_from,
    lay_out,
    next_number,
    pointer,
    run_python,
    save_version,
)
from flows.registry.models import champion, read_models, source_of
from flows.registry.promotion import fetch
from flows.repository.outputs import get_output, ignored_folder, outputs
from flows.repository.workspace import Workspace, workspace

DONE, REFUSED = "done", "refused"
COMPOSED = "data/composed"
SETTLE_S = 10.0  # a delivery that was written to more recently is perhaps still being copied
DRIFT_PARAMS = {"alpha": 0.01, "draws": 200, "most": 500, "least": 30, "seed": 0}
SOURCE_AT_FAULT = 3  # exit status of tasks.inbox, with one sentence on its standard output

DriftPolicy = Literal["off", "warn", "stop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intake:
    """What became of the deliveries."""

    version: DataVersion | None
    sentences: list[str]  # one for each delivery


def waiting(folder: Path, *, settle_s: float = SETTLE_S) -> list[Path]:
    """The files and folders in an inbox that have not changed for ``settle_s`` seconds."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.name not in (DONE, REFUSED) and not path.name.startswith(".")]
    changed = {path: max(file.lstat().st_mtime for file in (path, *path.rglob("*"))) for path in paths}
    return sorted(path for path, last in changed.items() if time.time() - last >= settle_s)


def composed_of(params: Mapping[str, Any], source: str) -> str:
    """The set whose images a composed source is made of; empty where it is none."""
    composed = params.get("compose") or {}
    return next((Path(each["source"]).name for name, each in composed.items() if source == f"{COMPOSED}/{name}"), "")


def take_in(
    root: Path,
    name: str,
    source: str,
    *,
    inbox: Path | None = None,
    revision: str = "HEAD",
    drift: DriftPolicy = "warn",
    background: bool = False,
    settle_s: float = SETTLE_S,
    say: Callable[[str], None] = print,
) -> Intake:
    """Check what waits and add the good deliveries to the source.

    Args:
        source: the value of ``ingest.<set>.source`` without the inbox.
        inbox: the folder that is watched; None is ``data/inbox/<set>`` of the checkout.
        background: take images without a label as images that show no object, in a set of objects.
        revision: the commit whose code judges the deliveries.

    Raises:
        ValueError: the source is missing or cannot be read, or another run is taking in right now.
    """
    folder = inbox or ignored_folder(root / "data" / "inbox") / name
    if not waiting(folder, settle_s=settle_s):
        return Intake(version=None, sentences=[])
    lock = try_lock(root / ".gridflow" / "locks" / f"inbox-{name}.lock")
    if lock is None:
        raise ValueError(f"another run is taking in {folder} right now")
    with lock, workspace(root, name=f"inbox-{name}", revision=revision) as worktree:
        deliveries = waiting(folder, settle_s=settle_s)
        former = data_grown_from(root, name, source)
        base = lay_out(worktree, former) if former else str(_find_source(root, worktree, name, source))
        request = {"source": base, "named": source, "drift": drift, "background": background}
        answer = _check(root, worktree, name, deliveries, request)
        refusals = {path: entry.pop("refusals", []) for path, entry in answer["deliveries"].items()}
        sentences = [_sentence(Path(path), entry) for path, entry in answer["deliveries"].items()]
        version = save_version(worktree, name, source, answer) if answer["images"] else None
    for path, entry in answer["deliveries"].items():
        _put_away(Path(path), folder, entry, refusals[path])
    for sentence in sentences:
        say(sentence)
    return Intake(version=version, sentences=sentences)


def _check(
    root: Path, worktree: Workspace, name: str, deliveries: list[Path], request: dict[str, Any]
) -> dict[str, Any]:
    version, entry = next_number(root, name), read_yaml(worktree.root / "params.yaml")["ingest"][name]
    if entry.get("multilabel"):
        raise ValueError(
            f"the images of {name} may have several labels, which an inbox does not take: add images and rows "
            f"to the source itself (ingest.{name}.source), and run the pipeline"
        )
    request = request | {
        "kind": entry.get("kind", "auto"),
        "target": pointer(name).removesuffix(".dvc"),
        "deliveries": {str(path): f"v{version}-{number}" for number, path in enumerate(deliveries, start=1)},
        "max_bad_fraction": entry["max_bad_fraction"],
        "drift_params": DRIFT_PARAMS,
        "champion": _classifier(root, name) if request["drift"] != "off" else None,
    }
    done = run_python(worktree.root, "tasks.inbox", text=json.dumps(request))
    if done.returncode == SOURCE_AT_FAULT:
        raise ValueError(done.stdout.strip())
    if done.returncode:
        raise RuntimeError(f"the check of the inbox broke:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _find_source(root: Path, worktree: Workspace, name: str, source: str) -> Path:
    """Find the source that the parameter names: in the worktree, the checkout or the champion's run."""
    for folder in (worktree.root, root):
        if (folder / source).exists():
            return folder / source
    for model in read_models(root).values():
        current = champion(root, model.name) if source_of(root, model)[0] == name else None
        if current and source in outputs(root, current.commit):
            return get_output(root, current.commit, source, worktree.root / ".gridflow" / "source")
    raise ValueError(f"{source} (the parameter ingest.{name}.source) does not exist: run the pipeline once to make it")


def _classifier(root: Path, name: str) -> str | None:
    """The folder of a champion that classifies the set's images, whose features tell a drift."""
    models = [model.name for model in read_models(root).values() if model.data == name and champion(root, model.name)]
    return str(fetch(root, models[0])) if models else None


def _sentence(path: Path, entry: Mapping[str, Any]) -> str:
    if not entry["accepted"]:
        return f"refused: {entry['reason']}"
    counts = f"{entry['new']:,} new images, {entry['known']:,} known already, {entry['refused']:,} bad"
    if "listed" in entry:  # of objects
        left_out = "".join(f", {count:,} left out ({why})" for why, count in entry["left_out"].items())
        objects = entry["annotations"]
        counts = (
            f"of {entry['listed']:,} images {counts}{left_out}; of {objects['listed']:,} annotations "
            f"{objects['added']:,} added, {objects['refused']:,} bad, {objects['left_out']:,} left out"
        )
    return "; ".join([f"taken in: {path.name}, {counts}", *(f"warning: {text}" for text in entry["warnings"])])


def _put_away(path: Path, folder: Path, entry: Mapping[str, Any], refusals: Sequence[Sequence[str]]) -> None:
    """Move a delivery out of the inbox, with the reason and a table of all that was refused beside it."""
    destination = folder / (DONE if entry["accepted"] else REFUSED)
    destination.mkdir(exist_ok=True)
    names = (f"{path.stem}{f'-{number}' if number > 1 else ''}{path.suffix}" for number in itertools.count(1))
    target = next(destination / name for name in names if not (destination / name).exists())
    path.rename(target)
    if not entry["accepted"]:
        target.with_name(f"{target.name}.reason.txt").write_text(entry["reason"] + "\n")
    if refusals:
        import pandas as pd  # half a second, which an empty inbox need not wait

        table = pd.DataFrame(refusals, columns=["kind", "file", "name", "reason"])
        write_csv(target.with_name(f"{target.name}.refused.csv"), table)
