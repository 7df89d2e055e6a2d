"""Make a throw-away git worktree for each isolated run, which shares DVC's cache by links.

Such a run changes nothing of the user's checkout but what all runs share: DVC's cache, the state folder of unfinished
stages, and git's objects with one new reference, the experiment.
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
from typing import IO, Any

import yaml
from configobj import ConfigObj
from dvc.config import Config
from dvc.config import merge as merge_config
from dvc.repo.experiments.refs import ExpRefInfo

from cnn_core.locks import try_lock
from cnn_core.params import read_yaml
from flows.repository.git import commit_tree, git, resolve, update_refs
from flows.repository.graph import StageNode, missing_inputs
from flows.repository.leftovers import end_orphans, wait_until_clean
from flows.repository.parameters import text_parameters

LINKS = "reflink,hardlink,symlink"  # the first of these that the file system can; never copies
NAMED = ("remote", "machine", "db")  # DVC's sections that have a name: ['remote "storage"']
LOCKS = ("dvc.lock", "*/dvc.lock")
MARK = "This worktree belongs to a run of Gridflow, and is removed with it.\n"  # in its lock file


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A detached worktree of ``checkout`` at the commit ``rev``."""

    root: Path
    checkout: Path
    rev: str
    name: str
    lent_lock: bool  # dvc.lock is a copy of the checkout's, uncommitted one: it only says what DVC's cache has

    def save(self, name: str | None = None, stages: Sequence[str] | None = None) -> str:
        """Save the worktree as ``dvc exp save`` does: a commit under ``refs/exps``.

        That command notes its progress in references that all worktrees share, so two at once spoil each other. This
        method writes one reference, at once or not at all.

        Args:
            name: of the experiment (default: the worktree's). Where the commit has one of that name with the same
                files, this is it; else the name gets ``-2`` and so on.
            stages: of the run. Of others the experiment has what the checkout's dvc.lock says, or `dvc exp apply` would
                delete their outputs.

        Returns:
            The experiment's commit.
        """
        if stages is not None and (self.root / "dvc.lock").is_file():
            self._complete_lock(stages)
        git(self.root, "add", "--update")
        if locks := git(self.root, "ls-files", "--others", "--cached", "-z", "--", *LOCKS).split("\0")[:-1]:
            git(self.root, "add", "--force", "--", *locks)
        tree, base = git(self.root, "write-tree"), safe_name(name or self.name)
        commit = commit_tree(self.root, tree, [self.rev], f"dvc: commit experiment {base}\n")
        candidate, number = base, 1
        while True:
            try:
                update_refs(self.checkout, [f"create {experiment_ref(self.rev, candidate)} {commit}"])
                return commit
            except ValueError:
                if not has_experiment(self.checkout, self.rev, candidate):  # there was another reason
                    raise
            former = resolve(self.checkout, experiment_ref(self.rev, candidate))
            if self._is_same(former, commit):  # the same run was killed after it
                return former
            number += 1
            candidate = f"{base}-{number}"

    def _is_same(self, one: str, other: str) -> bool:
        """Whether two commits hold the same; DVC writes its files in the order in which stages end."""
        for name in git(self.root, "diff", "--name-only", "--relative", "-z", one, other).split("\0")[:-1]:
            if Path(name).name == "dvc.lock":
                with contextlib.suppress(ValueError):  # one of the two has none
                    texts = [git(self.root, "show", f"{commit}:./{name}") for commit in (one, other)]
                    if yaml.safe_load(texts[0]) == yaml.safe_load(texts[1]):
                        continue
            if Path(name).name != ".gitignore":
                return False
        return True

    def check_name(self, name: str) -> None:
        """Check that the commit has no experiment of that name, or one with the files that the worktree has now.

        What DVC writes while stages run may differ: a run that was killed while it shared its experiment goes on.

        Raises:
            ValueError: there is an experiment of other files.
        """
        if not has_experiment(self.checkout, self.rev, safe_name(name)):
            return
        others = [f":(exclude){path}" for path in (*LOCKS, ".gitignore", "*/.gitignore")]
        if git(self.root, "diff", "--name-only", experiment_ref(self.rev, safe_name(name)), "--", ".", *others):
            raise ValueError(
                f"there is an experiment {name} already: choose another name or `dvc exp remove {name}` first"
            )

    def _complete_lock(self, stages: Sequence[str]) -> None:
        lock, others = self.root / "dvc.lock", dict[str, Any]()
        with contextlib.suppress(ValueError):  # there is none, or another `dvc repro` is writing it just now
            others = read_yaml(self.checkout / "dvc.lock").get("stages") or {}
        content = read_yaml(lock)
        mine = {name: entry for name, entry in content["stages"].items() if name in stages or not self.lent_lock}
        content["stages"] = mine | {name: entry for name, entry in others.items() if name not in mine}
        lock.write_text(yaml.safe_dump(content, sort_keys=False))


@contextmanager
def workspace(root: Path, *, name: str, revision: str = "HEAD") -> Iterator[Workspace]:
    """Make a worktree of the checkout ``root`` at ``revision``, below ``.gridflow/worktrees``, for a ``with`` block.

    Worktrees that killed runs left behind are removed first.

    Raises:
        ValueError: there is no such revision, or it has no pipeline.
    """
    sweep_workspaces(root)
    rev = resolve(root, revision)
    worktree, lock = _claim(root / ".gridflow" / "worktrees", safe_name(name))
    try:
        with contextlib.ExitStack() as ended:
            ended.callback(_remove, root, worktree)
            wait_until_clean(root)
            # no hooks: a post-checkout hook of DVC would check out data before the cache is shared
            git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", "--quiet", str(worktree), rev)
            inner = worktree / git(root, "rev-parse", "--show-prefix")  # the project may lie in a subfolder
            if not (inner / "dvc.yaml").is_file() or not (inner / ".dvc").is_dir():
                raise ValueError(f"the revision {revision} holds no pipeline (dvc.yaml with a .dvc folder beside it)")
            share_cache(root, inner)
            lent = _lend_lock(root, inner)
            _checkout_data(inner)
            yield Workspace(root=inner, checkout=root, rev=rev, name=worktree.name, lent_lock=lent)
    finally:
        with lock:
            _forget(worktree)


def sweep_workspaces(root: Path) -> list[str]:
    """Remove the worktrees of killed runs, and end the processes that still work there; the worktrees' names."""
    swept = []
    folder = root / ".gridflow" / "worktrees"
    for lock_file in sorted(folder.glob("*.lock")):
        if not _is_marked(lock_file) or (lock := try_lock(lock_file)) is None:
            continue  # none of ours, or its run is still at work
        with lock:
            end_orphans(root)
            worktree = lock_file.with_suffix("")
            if worktree.exists():
                swept.append(worktree.name)
            _remove(root, worktree)
            _forget(worktree)
    return swept


def dvc_remotes(checkout: Path) -> set[str]:
    return set(Config(str(checkout / ".dvc"), validate=False)["remote"])


def share_cache(checkout: Path, worktree: Path) -> None:
    """Give ``worktree`` the cache, the remotes and the local settings (credentials) of ``checkout``.

    Relative paths in ``.dvc/config`` start at the checkout. DVC's notes on hashes are removed with the worktree.
    """
    of_checkout = Config(str(checkout / ".dvc"), validate=False)
    local = {key: value for key, value in of_checkout.load_one("local").items() if value}
    cache = str(of_checkout["cache"].get("dir") or checkout / ".dvc" / "cache")
    settings: dict[str, Any] = {}
    merge_config(settings, {"remote": dict(of_checkout["remote"])})
    merge_config(settings, local)
    merge_config(settings, {"cache": {"dir": cache, "type": LINKS}})
    merge_config(settings, {"core": {"site_cache_dir": str(worktree / ".dvc" / "tmp" / "site")}})
    # DVC itself would write ASCII only, and a file that others can read.
    file = ConfigObj(encoding="utf-8")
    for section, options in settings.items():
        if section in NAMED:
            file.update({f'{section} "{name}"': values for name, values in options.items()})
        else:
            file[section] = options
    target = worktree / ".dvc" / "config.local"
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        file.write(opened)


def sources_of_checkout(worktree: Workspace, nodes: Sequence[StageNode]) -> list[str]:
    """Overrides that make relative paths absolute, where only the user's checkout has the file.

    They are for missing inputs of stages, for paths that lead out of the checkout, and for files that git does not
    track; never for outputs of stages.
    """
    missing = {(worktree.root / path).resolve() for _, path in missing_inputs(worktree.root, nodes)}
    overrides = []
    for key, value in text_parameters(worktree.root).items():
        here, there = (Path(os.path.normpath(base / value)) for base in (worktree.root, worktree.checkout))
        outside = not here.is_relative_to(worktree.root)
        if Path(value).is_absolute() or not there.exists() or (here.exists() and not outside):
            continue
        if outside or here.resolve() in missing or (_is_path(value) and _is_untracked(worktree.checkout, value)):
            overrides.append(f"{key}={there}")
    return overrides


def uncommitted(root: Path) -> list[str]:
    """The files of the checkout that differ from its commit, and new ones; not a new dvc.lock, which runs write."""
    lines = git(root, "status", "--porcelain", "-z", "--", ".").split("\0")
    new_lock = f"?? {git(root, 'rev-parse', '--show-prefix')}dvc.lock"
    return [line[3:] for line in lines if re.match(r"[ MTADRCU?]{2} ", line) and line != new_lock]


def experiment_ref(rev: str, name: str) -> str:
    return str(ExpRefInfo(rev, name))


def has_experiment(root: Path, rev: str, name: str) -> bool:
    return bool(git(root, "for-each-ref", experiment_ref(rev, name)))


def safe_name(name: str) -> str:
    """Make a name fit for a folder and a git reference: letters, digits, dashes, and dots inside."""
    safe = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", name)).strip(".-")
    return safe.removesuffix(".lock")[:80].strip(".-") or "run"


def _claim(folder: Path, name: str) -> tuple[Path, IO[str]]:
    """Reserve a path for a worktree by a lock, which is freed however its process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        worktree = folder / (name if number == 1 else f"{name}-{number}")
        lock = None if worktree.exists() else try_lock(_lock_file(worktree))
        if lock is not None and not worktree.exists():
            lock.truncate(0)
            lock.write(MARK)
            lock.flush()
            return worktree, lock
        number += 1


def _is_marked(lock_file: Path) -> bool:
    try:
        return lock_file.read_bytes() == MARK.encode()
    except OSError:  # its run ends just now
        return False


def _forget(worktree: Path) -> None:
    """Remove the lock of a worktree, which is our mark too, unless something of the worktree could not be removed."""
    if not worktree.exists():
        _lock_file(worktree).unlink(missing_ok=True)


def _lock_file(worktree: Path) -> Path:
    return worktree.with_name(f"{worktree.name}.lock")


def _lend_lock(root: Path, worktree: Path) -> bool:
    """Copy the checkout's dvc.lock where the commit has none; whether that was done.

    It says what need not be computed again. DVC compares it with the hashes of all that a stage depends on.
    """
    source, target = root / "dvc.lock", worktree / "dvc.lock"
    if target.exists() or not source.exists():
        return False
    with contextlib.suppress(ValueError):  # another `dvc repro` is writing it just now
        if isinstance(read_yaml(source).get("stages"), dict):
            shutil.copyfile(source, target)
            return True
    return False


def _checkout_data(worktree: Path) -> None:
    """Link the outputs that the commit's ``dvc.lock`` and ``.dvc`` pointers name, as far as the cache has them."""
    if not git(worktree, "ls-files", "--others", "--cached", "--exclude-standard", "--", *LOCKS, "*.dvc"):
        return
    command = [sys.executable, "-m", "dvc", "--quiet", "checkout", "--force", "--allow-missing"]
    subprocess.run(command, cwd=worktree, check=False, capture_output=True, stdin=subprocess.DEVNULL)


def _remove(root: Path, worktree: Path) -> None:
    shutil.rmtree(worktree, ignore_errors=True)
    with contextlib.suppress(ValueError):  # --force twice: also a worktree whose making was interrupted
        git(root, "worktree", "remove", "--force", "--force", str(worktree))


def _is_path(value: str) -> bool:
    """Whether a text is meant as a path, and is not a word that happens to be the name of a file."""
    return "/" in value or bool(Path(value).suffix)


def _is_untracked(checkout: Path, path: str) -> bool:
    return bool(git(checkout, "ls-files", "--others", "--exclude-standard", "--", f":(literal){path}"))
