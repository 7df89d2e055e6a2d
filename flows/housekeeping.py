"""Remove what runs left and nobody needs (`gridflow clean`), and say what was removed, with its size."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cnn_core.locks import TEMPORARY, is_held, last_change, sweep_held, try_lock
from flows.registry.models import champion, names_with_champion
from flows.repository.git import git
from flows.repository.leftovers import clean, no_run_at_work
from flows.repository.outputs import output_path
from flows.repository.parameters import CANDIDATE
from flows.repository.storage import Experiment, cache_folder, experiments, remove_experiments, remove_unneeded
from flows.repository.workspace import sweep_workspaces
from flows.ui.history import compact, database_bytes, database_file, delete_runs
from tasks.engine.runtime import load_runtime, main_checkout, state_folder
from tasks.engine.state import delete_old, old_runs

UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
SHOWN_NAMES = 8


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was removed of one kind, or with a dry run would be; sizes in bytes."""

    kind: str
    what: str
    before: int
    after: int | None  # None: only the removal itself would show
    refusal: str = ""  # why nothing of this kind was removed


def parse_age(text: str) -> timedelta:
    """Parse ``30d``, ``2w`` or ``12h``.

    Raises:
        ValueError: it is none of these.
    """
    match = re.fullmatch(r"(\d{1,5})([hdw])", text.strip().lower())
    if not match:
        raise ValueError(f"--older-than takes a number with h, d or w (hours, days, weeks), such as 30d, not {text!r}")
    return timedelta(seconds=int(match[1]) * UNITS[match[2]])


def clean_all(root: Path, *, dry_run: bool) -> list[Removed]:
    """Remove `.gridflow`.

    Raises:
        ValueError: a run is at work there.
    """
    folder = root / ".gridflow"
    before = size_of(folder)
    if dry_run:
        with no_run_at_work([root]):
            pass
    else:
        clean(root)
    what = "state of unfinished runs, logs, worktrees" if before else "nothing"
    return [Removed(kind=".gridflow", what=what, before=before, after=0 if dry_run else size_of(folder))]


def clean_old(
    root: Path,
    age: timedelta,
    projects: Sequence[Path] = (),
    *,
    dry_run: bool,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Removed]:
    """Remove what is older than ``age`` and nothing needs.

    Args:
        root: a checkout, or a worktree of it.
        projects: other projects that use the same DVC cache.
        tell: takes a line about each step.

    Raises:
        ValueError: a run is at work, or the cache may be another's too; nothing was removed.
    """
    root = main_checkout(root).resolve()
    others = [project.resolve() for project in projects]
    for project in others:
        if not (project / ".dvc").is_dir():
            raise ValueError(f"--project {project}: there is no DVC project (no .dvc folder). Nothing was removed")
    checkouts = list(dict.fromkeys([root, *_worktrees(root), *others]))
    cache, before = cache_folder(root).resolve(), datetime.now(UTC) - age
    if not projects and not any(cache.is_relative_to(checkout) for checkout in checkouts):
        raise ValueError(
            f"DVC's cache {cache} lies outside the checkout, so other projects may use it: name each with "
            "--project FOLDER (`--project .` where there is none). Nothing was removed"
        )
    with no_run_at_work(checkouts):
        tell("Prefect's database")
        removed = [_prefect(before, dry_run)]  # first: its server may not answer
        tell("leftovers of runs")
        removed.append(_leftovers(root, age.total_seconds(), dry_run))
        checkouts = [path for path in checkouts if path.is_dir()]  # worktrees of dead runs are gone
        removed.append(_cache(root, checkouts, cache, before, dry_run, tell))
        tell("git's objects")
        removed.append(_git(root, dry_run))
    return removed


def report(removed: Sequence[Removed], *, dry_run: bool) -> str:
    """A table for a person."""
    lines = [f"{'':<16}{'before':>10}{'after':>10}   {'would be removed' if dry_run else 'removed'}"]
    for entry in removed:
        after = "?" if entry.after is None else in_bytes(entry.after)
        lines.append(f"{entry.kind:<16}{in_bytes(entry.before):>10}{after:>10}   {entry.what}")
    return "\n".join(lines)


def in_bytes(count: int) -> str:
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder; a file with several names there counts once."""
    sizes = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def _cache(
    root: Path, checkouts: Sequence[Path], cache: Path, before: datetime, dry_run: bool, tell: Callable[[str], None]
) -> Removed:
    """Remove old experiments and what nothing needs in the cache, or neither."""
    tell("DVC's cache: its size")
    old = [one for one in experiments(root) if one.time < before.timestamp()]
    kept = [one for one in experiments(root) if one.time >= before.timestamp()]
    size = size_of(cache)
    try:
        unneeded = remove_unneeded(root, checkouts, kept, before=before, dry_run=dry_run, tell=tell)
        if not dry_run:
            remove_experiments(root, old)
    except ValueError as error:  # what is wrong with one checkout is no reason to leave the rest
        return Removed(kind="DVC's cache", what="nothing", before=size, after=size, refusal=str(error))
    what = f"{_count(len(old), 'experiment')}{_names(old)}; {_count(unneeded.objects, 'file')} that nothing needs"
    after = size - unneeded.bytes if dry_run else size_of(cache)
    return Removed(kind="DVC's cache", what=what, before=size, after=after)


def _worktrees(root: Path) -> list[Path]:
    """The worktrees of the repository that hold the project."""
    prefix = git(root, "rev-parse", "--show-prefix")
    lines = git(root, "worktree", "list", "--porcelain", "-z").split("\0")
    folders = [Path(line.removeprefix("worktree "), prefix) for line in lines if line.startswith("worktree ")]
    return [folder.resolve() for folder in folders if (folder / ".dvc").is_dir()]


def _leftovers(root: Path, seconds: float, dry_run: bool) -> Removed:
    """Remove state, folders of runs, copies of models and worktrees; where there is a mark of ours, and no holder."""
    storage = state_folder(load_runtime(root / "runtime.yaml"), root)
    folders = [root / ".gridflow"]
    if "://" not in storage and not Path(storage).is_relative_to(root / ".gridflow"):
        folders += old_runs(storage, 0)  # a folder of a person's, with other things in it
    before = sum(map(size_of, folders))
    outputs = _old_outputs(root, seconds)
    if dry_run:
        runs = [hold.parent for hold in (root / ".gridflow/runs").glob("*/.gridflow-hold")]
        runs = [run for run in runs if time.time() - last_change(run) >= seconds]
        states, dead = old_runs(storage, seconds), sorted((root / ".gridflow/worktrees").glob("*.lock"))
        trees = [lock.with_suffix("") for lock in dead if not is_held(lock)]
        after = before - sum(map(size_of, [*runs, *outputs, *states, *trees]))
        return Removed(kind="leftovers", what=_leftover_words(runs, states, outputs, trees), before=before, after=after)
    worktrees = sweep_workspaces(root)
    git(root, "worktree", "prune")
    old = sweep_held(root / ".gridflow" / "runs", "*", older_than_s=seconds)
    unfinished = delete_old(storage, seconds)
    for output in outputs:
        _remove_output(output)
    for parent, pattern in ((Path(tempfile.gettempdir()), f"{TEMPORARY}*"), (root, f"{CANDIDATE}*")):
        sweep_held(parent, pattern)
    after, what = sum(map(size_of, folders)), _leftover_words(old, unfinished, outputs, worktrees)
    return Removed(kind="leftovers", what=what, before=before, after=after)


def _leftover_words(
    runs: Sequence[object], states: Sequence[object], outputs: Sequence[object], worktrees: Sequence[object]
) -> str:
    return ", ".join([
        _count(len(runs), "folder of a run", "folders of runs"),
        _count(len(states), "unfinished run"),
        _count(len(outputs), "copy of a model", "copies of models"),
        _count(len(worktrees), "worktree of a dead run", "worktrees of dead runs"),
    ])  # fmt: skip


def _old_outputs(root: Path, seconds: float) -> list[Path]:
    """The copies of models in `.gridflow/outputs` that are no champion's and were brought there long ago."""
    champions = [version for name in names_with_champion(root) if (version := champion(root, name))]
    needed = {output_path(root, version.model, version.notes["model_md5"]) for version in champions}
    folder = root / ".gridflow" / "outputs"
    copies = [path for path in folder.glob("*") if not path.name.startswith(".") and path not in needed]
    return [path for path in copies if time.time() - last_change(path) >= seconds]


def _remove_output(path: Path) -> None:
    lock = path.with_name(f".{path.name}.lock")
    if (held := try_lock(lock)) is not None:  # else somebody reads it just now
        with held:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            lock.unlink()


def _prefect(before: datetime, dry_run: bool) -> Removed:
    file = database_file()
    size = database_bytes(file) if file else 0
    deleted = delete_runs(before, dry_run=dry_run)
    what = f"{_count(deleted.runs, 'run')} with logs and {_count(deleted.artifacts, 'artifact')}"
    if file is None:
        return Removed(kind="Prefect", what=f"{what}, on the server that PREFECT_API_URL names", before=0, after=0)
    if dry_run:
        return Removed(kind="Prefect", what=what, before=size, after=None if deleted.runs else size)
    if deleted.runs and not compact(file):
        what += " (a busy server holds the file: its size shrinks at the next clean)"
    return Removed(kind="Prefect", what=what, before=size, after=database_bytes(file))


def _git(root: Path, dry_run: bool) -> Removed:
    """Let git pack its objects and drop what no reference has needed for two weeks, or what git's settings say."""
    folder = Path(git(root, "rev-parse", "--path-format=absolute", "--git-common-dir"))
    before = size_of(folder)
    if dry_run:
        return Removed(kind="git", what="what git gc removes", before=before, after=None)
    git(root, "gc", "--quiet")
    return Removed(kind="git", what="what git gc removes", before=before, after=size_of(folder))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _names(old: Sequence[Experiment]) -> str:
    names = [experiment.name for experiment in old]
    more = " …" if len(names) > SHOWN_NAMES else ""
    return f" ({', '.join(names[:SHOWN_NAMES])}{more})" if names else ""
