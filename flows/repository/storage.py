"""Remove old experiments, and what nothing needs any more from DVC's cache.

`dvc gc` can neither keep what is young nor say in a dry run how much it would free, so its steps are taken here with
DVC's own functions.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.repository.git import git


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A DVC experiment: its reference in git, and its commit."""

    ref: str
    commit: str
    time: float  # of the commit, in seconds since 1970

    @property
    def name(self) -> str:
        return self.ref.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """What nothing needs in DVC's cache."""

    objects: int
    bytes: int


def experiments(root: Path) -> list[Experiment]:
    """Every experiment of the repository, the oldest first."""
    form = "--format=%(refname) %(objectname) %(committerdate:unix)"
    lines = git(root, "for-each-ref", form, "--sort=committerdate", "refs/exps").splitlines()
    entries = [line.split() for line in lines]  # refs/exps/ab/cdef…/NAME; DVC's notes have shorter names
    return [
        Experiment(ref=ref, commit=commit, time=float(time)) for ref, commit, time in entries if ref.count("/") == 4
    ]


def remove_experiments(root: Path, old: Sequence[Experiment]) -> None:
    """Remove experiments as `dvc exp remove` does, which leaves their commits to git and their outputs in the cache."""
    if old:
        with _sentences("the experiments stay"), Repo(str(root), _wait_for_lock=True) as repo:
            repo.experiments.remove(exp_names=[experiment.ref for experiment in old])


def cache_folder(root: Path) -> Path:
    with Repo(str(root), _wait_for_lock=True) as repo:
        return Path(repo.cache.local_cache_dir)


def remove_unneeded(
    root: Path, projects: Sequence[Path], kept: Sequence[Experiment], *, before: datetime, dry_run: bool
) -> Unneeded:
    """Remove from DVC's cache what no project needs and what is older than ``before``.

    Needed is what these name in dvc.lock and in .dvc files: the files of every project, the tip of each branch (also of
    a remote), each tag (so every champion), each stash, the experiments ``kept``, and every commit since ``before``.

    Args:
        projects: all that use the cache, ``root`` among them: checkouts, worktrees, other repositories.

    Raises:
        ValueError: what is needed cannot be read; nothing was removed.
    """
    with _sentences("the cache stays as it is"), contextlib.ExitStack() as opened:
        repos = [opened.enter_context(Repo(str(path), _wait_for_lock=True)) for path in projects]
        for repo in repos:
            opened.enter_context(repo.lock)
        needed: set[Any] = set()  # of DVC's HashInfo
        for repo, path in zip(repos, projects, strict=True):
            needed.update(*_needed(repo, path, kept if _git_folder(path) == _git_folder(root) else None, before))
        main = repos[list(projects).index(root)]
        count = size = 0
        for cache in _caches(main):
            used = {entry.value for entry in needed if entry.name == cache.hash_name}
            young = _young(cache, used, before.timestamp())
            unused = {oid: path for oid, path in _paths(cache) if oid not in used and oid not in young}
            count += len(unused)
            size += sum(path.stat().st_size for path in unused.values())
            for oid in [] if dry_run else sorted(unused, key=lambda oid: not oid.endswith(".dir")):
                cache.delete(oid)  # folders first: if this is interrupted, none is left with files missing
        if not dry_run:
            _remove_run_cache(main, before.timestamp())
    return Unneeded(objects=count, bytes=size)


def _needed(repo: Repo, path: Path, kept: Sequence[Experiment] | None, before: datetime) -> Iterable[set[Any]]:
    """What one project needs. Without ``kept`` all of its experiments count: only their project judges what is old."""
    force = True  # where the list of a folder's files is nowhere, nothing could bring the folder back
    if not _git_folder(path):
        return repo.used_objs(force=force).values()
    return repo.used_objs(
        all_branches=True,
        all_tags=True,
        all_experiments=kept is None,
        commit_date=before.astimezone().strftime("%Y-%m-%d"),
        revs=[*_more_revisions(path), *(one.commit for one in kept or ())],
        force=force,
    ).values()


def _more_revisions(path: Path) -> list[str]:
    """The commits that DVC's own options leave out: tips of remote branches, and what `git stash` keeps."""
    tips = git(path, "for-each-ref", "--format=%(objectname)", "refs/remotes").splitlines()
    return list(dict.fromkeys([*tips, *git(path, "stash", "list", "--format=%H").splitlines()]))


def _git_folder(path: Path) -> str:
    """The git folder of a project; empty where it has none."""
    with contextlib.suppress(ValueError):
        return git(path, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return ""


def _caches(repo: Repo) -> list[Any]:
    """The caches of a repository that exist, each once: of this layout of files and of DVC 2's."""
    return [
        cache for cache in {id(one): one for _, one in repo.cache.by_scheme()}.values() if Path(cache.path).is_dir()
    ]


def _paths(cache: Any) -> Iterator[tuple[str, Path]]:
    """Each object of a cache with its file."""
    for oid in cache.all():
        yield oid, Path(cache.oid_to_path(oid))


def _young(cache: Any, used: Iterable[str], since: float) -> set[str]:
    """The unused objects that were written since a time, with the files of young folders, however old these are."""
    unused = {oid: path for oid, path in _paths(cache) if oid not in used}
    young = {oid for oid, path in unused.items() if path.stat().st_mtime >= since}
    for folder in [oid for oid in young if oid.endswith(".dir")]:
        with contextlib.suppress(ValueError):  # not written to its end
            young |= {entry[cache.hash_name] for entry in json.loads(unused[folder].read_text())}
    return young


def _remove_run_cache(repo: Repo, before: float) -> None:
    """Remove DVC's notes on old runs whose outputs are gone, so that nothing can be restored by them."""
    have = {oid for cache in _caches(repo) for oid in cache.all()}
    for note in Path(repo.stage_cache.cache_dir).glob("??/*/*"):
        with contextlib.suppress(OSError, yaml.YAMLError, KeyError, TypeError):
            outs = yaml.safe_load(note.read_text()).get("outs", [])
            if note.stat().st_mtime < before and not all(out["md5"] in have for out in outs):
                note.unlink()
                for folder in note.parents[:2]:
                    folder.rmdir()  # ends here while others lie in it


@contextlib.contextmanager
def _sentences(consequence: str) -> Iterator[None]:
    """Turn DVC's errors into one sentence for the user, and leave out its warnings of each commit's missing results."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except DvcException as error:
        causes = " ".join(str(error.__cause__ or "").split())
        raise ValueError(f"{consequence}: DVC says: {error}{f' ({causes})' if causes else ''}") from error
    finally:
        logger.setLevel(level)
