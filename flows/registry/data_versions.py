"""Versions of the data sets' sources that grow by the inbox.

A version is an annotated tag ``digits-data@v3.0.0`` on a commit that holds the DVC pointer of
``data/sources/digits-grown``; the branch ``data/digits`` follows.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_core.params import read_yaml
from flows.registry.models import tags
from flows.repository.git import commit_tree, git, make_tag, move_branch, update_refs
from flows.repository.workspace import Workspace


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataVersion:
    """A version of a grown source."""

    set: str
    number: int
    commit: str
    notes: dict[str, Any]  # the source that it grew from, images that came, deliveries with counts, MD5

    @property
    def name(self) -> str:
        return f"{self.set}-data v{self.number}.0.0"


def pointer(name: str) -> str:
    return f"data/sources/{name}-grown.dvc"


def data_version(root: Path, name: str) -> DataVersion | None:
    """The newest version of a set; None when nothing was ever taken in."""
    versions = {int(tag.name.rpartition("@v")[2].partition(".")[0]): tag for tag in tags(root, f"{name}-data@v*")}
    if not versions:
        return None
    number = max(versions)
    tag = versions[number]
    return DataVersion(set=name, number=number, commit=tag.commit, notes=json.loads(tag.body))


def data_grown_from(root: Path, name: str, source: str) -> DataVersion | None:
    """The newest version if it grew from ``source``; a set whose source has changed starts to grow anew."""
    version = data_version(root, name)
    return version if version and version.notes["source"] == source else None


def next_number(root: Path, name: str) -> int:
    version = data_version(root, name)
    return version.number + 1 if version else 1


def lay_out(worktree: Workspace, version: DataVersion) -> str:
    """Bring a version of the data into a worktree, as a part of what its experiment keeps; its path there.

    Raises:
        ValueError: DVC has it neither in its cache nor in its remote.
    """
    path = pointer(version.set)
    git(worktree.root, "checkout", "--quiet", version.commit, "--", path)
    for command in ("checkout", "pull"):
        done = run_python(worktree.root, "dvc", "--quiet", command, path)
        if done.returncode == 0:
            return path.removesuffix(".dvc")
    raise ValueError(f"DVC does not have {version.name}: {' '.join(done.stderr.split())}")


def save_version(worktree: Workspace, name: str, source: str, answer: Mapping[str, Any]) -> DataVersion:
    """Make the grown source that lies in a worktree the next version of its set.

    ``answer`` is that of ``tasks.inbox``, which grew it from ``source``.

    Raises:
        ValueError: DVC refused the data.
    """
    path = pointer(name).removesuffix(".dvc")
    done = run_python(worktree.root, "dvc", "--wait-for-lock", "add", "--quiet", path)
    if done.returncode:
        raise ValueError(f"DVC did not take {path}: {' '.join(done.stderr.split())}")
    git(worktree.root, "add", "--force", "--", pointer(name))
    former, number = data_version(worktree.checkout, name), next_number(worktree.checkout, name)
    notes = {
        "source": source,
        "images": answer["images"],
        "deliveries": {Path(file).name: entry for file, entry in answer["deliveries"].items() if entry["accepted"]},
        "md5": read_yaml(worktree.root / pointer(name))["outs"][0]["md5"],
    }
    title = f"{name}-data v{number}.0.0: {answer['images']:,} more images"
    tree = git(worktree.root, "write-tree")
    commit = commit_tree(worktree.root, tree, [former.commit if former else worktree.rev], f"{title}\n")
    tag = f"{name}-data@v{number}.0.0"
    tag_object = make_tag(worktree.root, tag, commit, f"{title}\n\n{json.dumps(notes, indent=2)}")
    branch = move_branch(worktree.checkout, f"data/{name}", commit)
    update_refs(worktree.checkout, [f"create refs/tags/{tag} {tag_object}", branch])
    return DataVersion(set=name, number=number, commit=commit, notes=notes)


def run_python(root: Path, *module: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a Python module, with its arguments, in ``root``; ``text`` is its standard input."""
    command = (sys.executable, "-m", *module)
    return subprocess.run(command, cwd=root, input=text, capture_output=True, text=True, check=False)
