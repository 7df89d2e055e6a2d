"""Remove old experiments, and what nothing needs any more from DVC's cache.

`dvc gc` can neither keep what is young nor say in a dry run how much it would free, so its steps are taken here. Past
revisions are read without DVC: it would parse each revision's dvc.yaml, and stop at one that its version cannot read.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.repository.git import git

EVERY_S = 5.0  # between two lines about a long step
HASH = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")  # MD5, as DVC names its objects; git's are longer


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
    root: Path,
    projects: Sequence[Path],
    kept: Sequence[Experiment],
    *,
    before: datetime,
    dry_run: bool,
    tell: Callable[[str], None] = lambda _: None,
) -> Unneeded:
    """Remove from DVC's cache what no project needs and what is older than ``before``.

    Needed is what these name in dvc.lock and in .dvc files: the files of every project, the tip of each branch (also of
    a remote), each tag (so every champion), each stash, the experiments ``kept``, and every commit since ``before``.

    Args:
        projects: all that use the cache, ``root`` among them: checkouts, worktrees, other repositories.
        tell: takes a line about each step.

    Raises:
        ValueError: what the files of a project need cannot be read; nothing was removed.
    """
    with contextlib.ExitStack() as opened:
        opened.enter_context(_sentences("the cache stays as it is"))
        repos = [opened.enter_context(Repo(str(path), _wait_for_lock=True)) for path in projects]
        for repo in repos:
            opened.enter_context(repo.lock)
        needed: set[str] = set()
        read: set[str] = set()
        for repo, path in zip(repos, projects, strict=True):
            with _sentences(f"the cache stays as it is, as {path} may need anything of it"):
                # Where the list of a folder's files is nowhere, nothing could bring the folder back: hence the force.
                needed.update(entry.value for entries in repo.used_objs(force=True).values() for entry in entries)
            if folder := _git_folder(path):
                younger = kept if folder == _git_folder(root) else None
                revisions = [commit for commit in _revisions(path, younger, before) if commit not in read]
                needed |= _hashes(path, revisions, tell)
                read.update(revisions)  # worktrees share them
        main = repos[list(projects).index(root)]
        count = size = 0
        for cache in _caches(main):
            tell(f"DVC's cache: looking through {cache.path}")
            objects = dict(_paths(cache))
            used = needed | _files_of(needed, objects)
            unused = {oid: path for oid, path in objects.items() if oid not in used}
            for oid in _young(unused, before.timestamp()) & unused.keys():
                del unused[oid]
            count += len(unused)
            size += sum(path.stat().st_size for path in unused.values())
            # Folders first: if this is interrupted, none is left with files missing.
            removable = [] if dry_run else sorted(unused, key=lambda oid: not oid.endswith(".dir"))
            for oid in _in_steps(removable, "DVC's cache: removing files", tell):
                cache.delete(oid)
        if not dry_run:
            tell("DVC's cache: removing notes on runs whose results are gone")
            _remove_run_cache(main, before.timestamp())
    return Unneeded(objects=count, bytes=size)


def _in_steps(items: Collection[str], what: str, tell: Callable[[str], None]) -> Iterator[str]:
    """Yield the items, and tell every few seconds how many have been taken."""
    last = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last >= EVERY_S:
            tell(f"{what}: {number:,} of {len(items):,}")
            last = time.monotonic()
        yield item


def _revisions(path: Path, kept: Sequence[Experiment] | None, before: datetime) -> list[str]:
    """The commits that count. Without ``kept``, all experiments do: only their own project judges what is old."""
    lines = git(path, "for-each-ref", "--format=%(objectname) %(objecttype)%(*objecttype) %(refname)").splitlines()
    refs = [line.split(maxsplit=2) for line in lines]
    tips = [
        commit
        for commit, kind, ref in refs
        if kind.endswith("commit") and (kept is None or not ref.startswith("refs/exps/"))
    ]
    commits = git(path, "rev-list", "--timestamp", "--exclude=refs/exps/*", "--all").splitlines()
    young = [line.split()[1] for line in commits if float(line.split()[0]) >= before.timestamp()]
    stashes = git(path, "stash", "list", "--format=%H").splitlines()
    return list(dict.fromkeys([*tips, *young, *stashes, *(one.commit for one in kept or ())]))


def _hashes(path: Path, revisions: Sequence[str], tell: Callable[[str], None]) -> set[str]:
    """Whatever looks like the name of an object of DVC in the dvc.lock and .dvc files of revisions."""
    blobs: set[str] = set()
    what = f"DVC's cache: reading what {len(revisions):,} revisions of {path} need"
    tell(what)
    for revision in _in_steps(revisions, what, tell):
        for line in git(path, "ls-tree", "-r", "--full-tree", revision).splitlines():
            entry, _, name = line.partition("\t")
            if name.rstrip('"').endswith((".dvc", "dvc.lock")):  # git quotes names that are not plain ASCII
                blobs.add(entry.split()[2])
    return set(HASH.findall(git(path, "cat-file", "--batch", text="\n".join(blobs)))) if blobs else set()


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


def _young(unused: Mapping[str, Path], since: float) -> set[str]:
    """The unused objects that were written since a time, with the files of young folders, however old these are."""
    young = {oid for oid, path in unused.items() if path.stat().st_mtime >= since}
    return young | _files_of(young, unused)


def _files_of(oids: Iterable[str], objects: Mapping[str, Path]) -> set[str]:
    """The files of those objects that are folders."""
    lists = [objects[oid].read_text(errors="replace") for oid in oids if oid.endswith(".dir") and oid in objects]
    return set(HASH.findall("\n".join(lists)))


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
