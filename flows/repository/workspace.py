"""A throw-away git worktree for each isolated run: its own files and parameters, DVC's cache shared by link.

Such a run changes nothing of the user's checkout but what all share by design: DVC's cache, the state folder of
unfinished stages, and git's objects with one new reference, the experiment.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import yaml
from dvc.config import Config
from dvc.config import merge as merge_config
from dvc.repo.experiments.refs import ExpRefInfo

from cnn_core.params import read_yaml
from flows.repository.git import commit_tree, git, resolve, update_refs
from flows.repository.graph import StageNode, missing_inputs
from flows.repository.leftovers import end_orphans
from flows.repository.parameters import text_parameters
from tasks.engine.state import try_lock

LINKS = "reflink,hardlink,symlink"  # what the file system can, in this order; never copies
LOCKS = ("dvc.lock", "*/dvc.lock")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A detached worktree of ``checkout`` at the commit ``rev``."""

    root: Path
    checkout: Path
    rev: str
    name: str
    lent_lock: bool  # dvc.lock is the checkout's own, uncommitted: it only says what DVC's cache has already

    def save(self, name: str | None = None, stages: Sequence[str] | None = None) -> str:
        """Keep what the worktree holds as a DVC experiment of its commit; the experiment's commit.

        Args:
            name: of the experiment.
            stages: of the run; what the checkout's uncommitted dvc.lock says of others is no result of it.

        Its name is ``name`` (default: the workspace's), with ``-2`` and so on where the commit has such an experiment.
        The result is that of ``dvc exp save``: a commit under ``refs/exps``. That command itself notes where it is in
        references that all worktrees share, so two at once, or one beside a ``dvc exp run``, spoil each other. This
        writes one reference, at once or not at all.
        """
        if self.lent_lock and stages is not None:
            _keep_stages(self.root / "dvc.lock", stages)
        git(self.root, "add", "--update")
        if locks := git(self.root, "ls-files", "--others", "--cached", "-z", "--", *LOCKS).split("\0")[:-1]:
            git(self.root, "add", "--force", "--", *locks)
        tree, wanted = git(self.root, "write-tree"), safe_name(name or self.name)
        commit = commit_tree(self.root, tree, [self.rev], f"dvc: commit experiment {wanted}\n")
        held, number = wanted, 1
        while True:
            try:
                update_refs(self.checkout, [f"create {experiment_ref(self.rev, held)} {commit}"])
                return commit
            except ValueError:
                if not has_experiment(self.checkout, self.rev, held):  # it was something else
                    raise
            number += 1
            held = f"{wanted}-{number}"


@contextmanager
def workspace(root: Path, *, name: str, revision: str = "HEAD") -> Iterator[Workspace]:
    """A worktree of the checkout ``root`` at ``revision``, under ``.gridflow/worktrees``; gone when the block ends.

    Those that killed runs have left are removed first.

    Raises:
        ValueError: there is no such revision, or it holds no pipeline.
    """
    sweep_workspaces(root)
    rev = resolve(root, revision)
    place, lock = _claim(root / ".gridflow" / "worktrees", safe_name(name))
    try:
        with contextlib.ExitStack() as ended:
            ended.callback(_remove, root, place)
            # no hooks: a post-checkout hook of DVC would check out data before the cache is shared
            git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", "--quiet", str(place), rev)
            if not (place / "dvc.yaml").is_file() or not (place / ".dvc").is_dir():
                raise ValueError(f"the revision {revision} holds no pipeline (dvc.yaml with a .dvc folder beside it)")
            share_cache(root, place)
            lent = _lend_lock(root, place)
            _checkout_data(place)
            yield Workspace(root=place, checkout=root, rev=rev, name=place.name, lent_lock=lent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(lock.name).unlink()
        lock.close()


def sweep_workspaces(root: Path) -> list[str]:
    """Remove the worktrees whose run was killed, and end what of it still works there; their names."""
    swept = []
    folder = root / ".gridflow" / "worktrees"
    names = {path.name.removesuffix(".lock") for path in folder.iterdir()} if folder.is_dir() else set()
    for place in sorted(folder / name for name in names):
        lock = try_lock(_lock_file(place))
        if lock is None:
            continue  # its run lives
        with lock:
            end_orphans(root)
            if place.exists():
                swept.append(place.name)
            _remove(root, place)
            Path(lock.name).unlink()
    return swept


def dvc_remotes(checkout: Path) -> set[str]:
    """The names of the DVC remotes that ``checkout`` knows (`dvc remote list` breaks long lines, so it is not read)."""
    return set(Config(str(checkout / ".dvc"), validate=False)["remote"])


def share_cache(checkout: Path, place: Path) -> None:
    """Give ``place`` the cache, the remotes and the local settings (credentials) of ``checkout``.

    Relative paths in ``.dvc/config`` mean the checkout. DVC's notes on hashes go with the worktree.
    """
    mine = Config(str(checkout / ".dvc"), validate=False)
    local = {key: value for key, value in mine.load_one("local").items() if value}
    cache = str(mine["cache"].get("dir") or checkout / ".dvc" / "cache")
    with Config(str(place / ".dvc"), validate=False).edit("local") as settings:
        merge_config(settings, {"remote": dict(mine["remote"])})
        merge_config(settings, local)
        merge_config(settings, {"cache": {"dir": cache, "type": LINKS}})
        merge_config(settings, {"core": {"site_cache_dir": str(place / ".dvc" / "tmp" / "site")}})
    (place / ".dvc" / "config.local").chmod(0o600)


def sources_of_checkout(place: Workspace, nodes: Sequence[StageNode]) -> list[str]:
    """Overrides that make relative paths mean the user's checkout, where only that has what they name.

    Taken are inputs of stages that are missing, paths that lead out of the checkout, and files that git does not know;
    not what stages make.
    """
    missing = {(place.root / path).resolve() for _, path in missing_inputs(place.root, nodes)}
    overrides = []
    for key, value in text_parameters(place.root).items():
        here, there = (Path(os.path.normpath(base / value)) for base in (place.root, place.checkout))
        outside = not here.is_relative_to(place.root)
        if Path(value).is_absolute() or not there.exists() or (here.exists() and not outside):
            continue
        if outside or here.resolve() in missing or (_is_path(value) and _is_untracked(place.checkout, value)):
            overrides.append(f"{key}={there}")
    return overrides


def uncommitted(root: Path) -> list[str]:
    """Files of the checkout that differ from its commit, the new ones included (but for dvc.lock, which runs write)."""
    lines = git(root, "status", "--porcelain", "-z").split("\0")
    return [line[3:] for line in lines if re.match(r"[ MTADRCU?]{2} ", line) and line != "?? dvc.lock"]


def experiment_ref(rev: str, name: str) -> str:
    """Git's reference of the experiment ``name`` that starts from the commit ``rev``."""
    return str(ExpRefInfo(rev, name))


def has_experiment(root: Path, rev: str, name: str) -> bool:
    """Whether the commit has an experiment of that name."""
    return bool(git(root, "for-each-ref", experiment_ref(rev, name)))


def safe_name(name: str) -> str:
    """A name that a folder and a git reference may bear: letters, digits, dashes, dots within."""
    safe = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", name)).strip(".-")
    return safe.removesuffix(".lock")[:80].strip(".-") or "run"


def _claim(folder: Path, name: str) -> tuple[Path, IO[str]]:
    """A path for a worktree, and the lock that tells the living from the dead: freed however its process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        place = folder / (name if number == 1 else f"{name}-{number}")
        lock = try_lock(_lock_file(place))
        if lock is not None and not place.exists():
            return place, lock
        if lock is not None:
            lock.close()
        number += 1


def _lock_file(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


def _lend_lock(root: Path, place: Path) -> bool:
    """Where the commit has no dvc.lock, the checkout's says what need not be computed again: DVC holds it against the
    hashes of all that a stage depends on."""
    mine, lent = root / "dvc.lock", place / "dvc.lock"
    if lent.exists() or not mine.exists():
        return False
    with contextlib.suppress(ValueError):  # a dvc repro beside us just writes it
        if isinstance(read_yaml(mine).get("stages"), dict):
            shutil.copyfile(mine, lent)
            return True
    return False


def _keep_stages(lock: Path, stages: Sequence[str]) -> None:
    content = read_yaml(lock)
    content["stages"] = {name: entry for name, entry in content["stages"].items() if name in stages}
    lock.write_text(yaml.safe_dump(content, sort_keys=False))


def _checkout_data(place: Path) -> None:
    """Link what the commit's ``dvc.lock`` and ``.dvc`` pointers name, as far as the shared cache has it."""
    if not git(place, "ls-files", "--others", "--cached", "--exclude-standard", "--", *LOCKS, "*.dvc"):
        return
    command = [sys.executable, "-m", "dvc", "--quiet", "checkout", "--force", "--allow-missing"]
    subprocess.run(command, cwd=place, check=False, capture_output=True, stdin=subprocess.DEVNULL)


def _remove(root: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(ValueError):  # twice: also when it was killed while git made it
        git(root, "worktree", "remove", "--force", "--force", str(place))


def _is_path(value: str) -> bool:
    """Not merely a word that happens to be a file's name too."""
    return "/" in value or bool(Path(value).suffix)


def _is_untracked(checkout: Path, path: str) -> bool:
    return bool(git(checkout, "ls-files", "--others", "--exclude-standard", "--", f":(literal){path}"))
