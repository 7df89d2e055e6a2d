"""The inbox: what people put into ``data/inbox/<set>/`` is checked and becomes the next version of the set's source.

``gridflow inbox digits`` takes in what waits there. A version is an annotated tag
``digits-data@v3.0.0`` on a commit that holds the DVC pointer of ``data/sources/digits-grown``; the
branch ``data/digits`` follows. Nothing of the checkout changes but the inbox, where each delivery
goes to ``done/`` or, with the reason beside it, to ``refused/``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from cnn_core.params import read_yaml
from flows.registry.models import champion, tags
from flows.registry.promotion import fetch
from flows.repository.git import commit_tree, git, make_tag, move_branch, update_refs
from flows.repository.outputs import get, outputs, own_folder
from flows.repository.workspace import Workspace, workspace
from tasks.engine.state import try_lock

DONE, REFUSED = "done", "refused"
SETTLE_S = 10.0  # what was written to more recently is perhaps still being copied
DRIFT_PARAMS = {"alpha": 0.01, "draws": 200, "most": 500, "least": 30, "seed": 0}

Drift = Literal["off", "warn", "stop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataVersion:
    """A version of a grown source."""

    number: int
    commit: str
    notes: dict[str, Any]  # source that it grew from, images that came, deliveries with counts and warnings, MD5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Intake:
    """What became of the deliveries: ``told`` has a sentence for each; ``version`` is new, or None."""

    version: DataVersion | None
    told: list[str]


def pointer(name: str) -> str:
    """DVC's pointer of a set's grown source, which stands beside it."""
    return f"data/sources/{name}-grown.dvc"


def data_version(root: Path, name: str) -> DataVersion | None:
    """The newest version; None when nothing was ever taken in."""
    found = [
        DataVersion(number=int(tag.rpartition("@v")[2].partition(".")[0]), commit=commit, notes=_notes(text))
        for tag, commit, _, _, text in tags(root, f"{name}-data@v*")
    ]
    return max(found, key=lambda version: version.number, default=None)


def present_data(root: Path, name: str, source: str) -> DataVersion | None:
    """The newest version if it grew from ``source``, the parameter's present value; a change of that starts anew."""
    version = data_version(root, name)
    return version if version and version.notes["source"] == source else None


def lay_out(place: Workspace, name: str, version: DataVersion) -> str:
    """Bring a version of the data into a worktree, as a part of what its experiment keeps; the path relative to it.

    Raises:
        ValueError: DVC has it neither in its cache nor in its remote.
    """
    git(place.root, "checkout", "--quiet", version.commit, "--", pointer(name))
    for command in ("checkout", "pull"):
        done = _python(place.root, "dvc", "--quiet", command, pointer(name))
        if done.returncode == 0:
            return pointer(name).removesuffix(".dvc")
    raise ValueError(f"DVC does not have {name}-data v{version.number}.0.0: {' '.join(done.stderr.split())}")


def waiting(folder: Path, *, settle_s: float = SETTLE_S) -> list[Path]:
    """The deliveries in an inbox: files and folders that nobody has written to for ``settle_s`` seconds."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name not in (DONE, REFUSED) and not path.name.startswith(".")]
    return sorted(path for path in found if time.time() - _newest(path) >= settle_s)


def take_in(
    root: Path,
    name: str,
    source: str,
    *,
    inbox: Path | None = None,
    revision: str = "HEAD",
    drift: Drift = "warn",
    drift_params: Mapping[str, Any] = DRIFT_PARAMS,
    settle_s: float = SETTLE_S,
    say: Callable[[str], None] = print,
) -> Intake:
    """Check what waits and add the good deliveries to the source.

    Args:
        source: that the data grow from: what ``ingest.<set>.source`` is without the inbox.
        inbox: the folder that is watched; None is ``data/inbox/<set>`` of the checkout.
        revision: whose code judges the deliveries.
        drift: whether a delivery that differs from the source is only told of, or refused.

    Raises:
        ValueError: the source cannot be had or read, or another run is taking in right now.
    """
    folder = inbox or own_folder(root / "data" / "inbox") / name
    if not waiting(folder, settle_s=settle_s):
        return Intake(version=None, told=[])
    lock = try_lock(root / ".gridflow" / "locks" / f"inbox-{name}.lock")
    if lock is None:
        raise ValueError(f"another run is taking in {folder} right now")
    with lock, workspace(root, name=f"inbox-{name}", revision=revision) as place:
        deliveries = waiting(folder, settle_s=settle_s)
        section = read_yaml(place.root / "params.yaml")["ingest"][name]
        former = present_data(root, name, source)
        base = lay_out(place, name, former) if former else str(_source(root, place, name, source))
        answer = _check(root, place, name, deliveries, base, section["max_bad_fraction"], drift, drift_params)
        told = [_sentence(Path(path), entry) for path, entry in answer["deliveries"].items()]
        version = _keep(place, name, source, answer) if answer["images"] else None
    for path, entry in answer["deliveries"].items():
        _put_away(Path(path), folder, entry)
    for sentence in told:
        say(sentence)
    return Intake(version=version, told=told)


def _check(
    root: Path,
    place: Workspace,
    name: str,
    deliveries: list[Path],
    base: str,
    max_bad_fraction: float,
    drift: Drift,
    drift_params: Mapping[str, Any],
) -> dict[str, Any]:
    number = (newest.number if (newest := data_version(root, name)) else 0) + 1
    request = {
        "set": name,
        "source": base,
        "target": pointer(name).removesuffix(".dvc"),
        "deliveries": {str(path): f"v{number}-{place_}" for place_, path in enumerate(deliveries, start=1)},
        "max_bad_fraction": max_bad_fraction,
        "drift": drift,
        "drift_params": dict(drift_params),
        "champion": str(fetch(root, name)) if drift != "off" and champion(root, name) else None,
    }
    done = _python(place.root, "tasks.inbox", text=json.dumps(request))
    if done.returncode == 3:
        raise ValueError(done.stdout.strip())
    if done.returncode:
        raise RuntimeError(f"the check of the inbox broke:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _source(root: Path, place: Workspace, name: str, source: str) -> Path:
    """Where the source that the parameter names can be read: in the worktree, the checkout, or the champion's run."""
    for folder in (place.root, root):
        if (folder / source).exists():
            return folder / source
    if (now := champion(root, name)) and source in outputs(root, now.commit):
        return get(root, now.commit, source, place.root / ".gridflow" / "source")
    raise ValueError(
        f"{source} (the parameter ingest.{name}.source) is not there to be added to: run the pipeline once"
    )


def _keep(place: Workspace, name: str, source: str, answer: Mapping[str, Any]) -> DataVersion:
    path = pointer(name).removesuffix(".dvc")
    done = _python(place.root, "dvc", "--wait-for-lock", "add", "--quiet", path)
    if done.returncode:
        raise ValueError(f"DVC did not take {path}: {' '.join(done.stderr.split())}")
    git(place.root, "add", "--force", "--", pointer(name))
    former = data_version(place.checkout, name)
    number = (former.number if former else 0) + 1
    deliveries = {Path(path).name: entry for path, entry in answer["deliveries"].items() if entry["accepted"]}
    md5 = read_yaml(place.root / pointer(name))["outs"][0]["md5"]
    notes = {"source": source, "images": answer["images"], "deliveries": deliveries, "md5": md5}
    title = f"{name}-data v{number}.0.0: {answer['images']:,} more images"
    tree = git(place.root, "write-tree")
    commit = commit_tree(place.root, tree, [former.commit if former else place.rev], f"{title}\n")
    tag = f"{name}-data@v{number}.0.0"
    made = make_tag(place.root, tag, commit, f"{title}\n\n{json.dumps(notes, indent=2)}")
    update_refs(place.checkout, [f"create refs/tags/{tag} {made}", move_branch(place.checkout, f"data/{name}", commit)])
    return DataVersion(number=number, commit=commit, notes=notes)


def _sentence(path: Path, entry: Mapping[str, Any]) -> str:
    if not entry["accepted"]:
        return f"refused: {entry['reason']}"
    counts = f"{entry['new']:,} new images, {entry['known']:,} known already, {entry['refused']:,} bad"
    return "; ".join([f"taken in: {path.name}, {counts}", *(f"warning: {text}" for text in entry["warnings"])])


def _put_away(path: Path, folder: Path, entry: Mapping[str, Any]) -> None:
    (place := folder / (DONE if entry["accepted"] else REFUSED)).mkdir(exist_ok=True)
    names = (f"{path.stem}{f'-{number}' if number > 1 else ''}{path.suffix}" for number in itertools.count(1))
    target = next(place / name for name in names if not (place / name).exists())
    path.rename(target)
    if not entry["accepted"]:
        target.with_name(f"{target.name}.reason.txt").write_text(entry["reason"] + "\n")


def _notes(text: str) -> dict[str, Any]:
    return json.loads(text.partition("\n\n")[2])


def _newest(path: Path) -> float:
    return max(file.lstat().st_mtime for file in (path, *path.rglob("*")))


def _python(root: Path, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", *command)
    return subprocess.run(command, cwd=root, input=text, capture_output=True, text=True, check=False)
