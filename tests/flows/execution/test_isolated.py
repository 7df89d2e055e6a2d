"""Isolated runs on a small real repository: a worktree of their own, DVC's cache shared, the checkout as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from flows.repository.git import git
from flows.repository.outputs import get_output, outputs
from flows.repository.workspace import MARK, safe_name, sources_of_checkout, sweep_workspaces, uncommitted, workspace
from tasks.engine.runtime import main_checkout

pytestmark = pytest.mark.xdist_group("isolated")


@pytest.fixture
def isolated(small: Path, run: Callable, repository: Path, server: str) -> Callable:
    def call(*arguments: str, code: int | None = 0):
        return run("gridflow", "run", "--isolated", *arguments, cwd=small, code=code,
                   PYTHONPATH=str(repository), PREFECT_API_URL=server)  # fmt: skip

    return call


def experiments(root: Path, run: Callable) -> dict[str, str]:
    """Name -> commit of all of them: those that DVC lists in the checkout, and git's word for where they are."""
    named = run("dvc", "exp", "list", "-A", "--name-only", cwd=root).stdout.split()
    references = git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    commits = {name.rsplit("/", 1)[-1]: commit for name, commit in map(str.split, references)}
    assert set(named) == set(commits)
    return commits


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file of the checkout but those of the run and of DVC's cache."""
    own = (".git", ".gridflow", ".dvc")
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] not in (*own, "tasks", "cnn_core")
    }


def test_a_run_changes_nothing_of_the_checkout_and_ends_as_an_experiment(
    isolated: Callable, small: Path, run: Callable
) -> None:
    (small / "source.txt").write_text("not committed")
    (small / "params.yaml").write_text("report:\n  title: mine\n")
    before, status = snapshot(small), git(small, "status", "--porcelain")
    config = (small / ".git" / "config").read_bytes()
    done = isolated("--name", "my run", "--set", "report.title=theirs")
    said = done.stdout + done.stderr
    assert "4 stages ran, 0 were up to date; experiment my-run" in said
    assert "these 2 files are not: params.yaml, source.txt" in said
    assert "parameter report.title: small -> theirs" in said
    assert "`dvc exp apply my-run`" in done.stdout
    assert snapshot(small) == before
    assert git(small, "status", "--porcelain") == status
    assert (small / ".git" / "config").read_bytes() == config
    assert git(small, "worktree", "list").count("\n") == 0
    assert not list((small / ".gridflow" / "worktrees").iterdir())
    assert list(experiments(small, run)) == ["my-run"]
    table = json.loads(run("dvc", "exp", "show", "-A", "--json", cwd=small).stdout)
    found = [one for rev in table for one in (rev["experiments"] or []) if one["name"] == "my-run"]
    assert found[0]["revs"][0]["data"]["params"]["params.yaml"]["data"]["report"]["title"] == "theirs"

    same = isolated("--name", "my run", "--set", "report.title=theirs")  # as after a kill while it was shared
    assert "0 stages ran, 4 were up to date; experiment my-run" in same.stdout + same.stderr
    assert list(experiments(small, run)) == ["my-run"]
    again = isolated("--name", "my run", code=1)
    assert "there is an experiment my run already" in again.stdout
    run("git", "checkout", "-q", ".", cwd=small)
    run("dvc", "exp", "apply", "my-run", cwd=small)
    assert (small / "last.txt").read_text() == "source1lx"
    assert "theirs" in (small / "params.yaml").read_text()
    assert "up to date" in run("dvc", "status", cwd=small).stdout


def test_what_is_up_to_date_in_the_checkout_is_not_computed_again(
    isolated: Callable, small: Path, run: Callable
) -> None:
    run("dvc", "repro", cwd=small)
    done = isolated()
    assert "0 stages ran, 4 were up to date" in done.stdout + done.stderr
    assert "Running stage" not in done.stdout + done.stderr


def test_applying_a_run_of_few_stages_keeps_the_other_results(isolated: Callable, small: Path, run: Callable) -> None:
    """Where dvc.lock is not committed, as the repository ships none."""
    run("dvc", "repro", cwd=small)
    isolated("left", "--name", "left")
    lock = git(small, "show", f"{experiments(small, run)['left']}:dvc.lock")
    assert yaml.safe_load(lock) == yaml.safe_load((small / "dvc.lock").read_text())
    run("dvc", "exp", "apply", "left", cwd=small)
    assert (small / "last.txt").read_text() == "source1lx"
    assert "up to date" in run("dvc", "status", cwd=small).stdout


def test_another_revision_runs_and_an_unknown_one_is_told(isolated: Callable, small: Path, run: Callable) -> None:
    (small / "source.txt").write_text("newer")
    run("git", "commit", "-qam", "newer", cwd=small)
    isolated("--revision", "HEAD~1", "--name", "older", "first")
    assert git(small, "rev-parse", f"{experiments(small, run)['older']}^") == git(small, "rev-parse", "HEAD~1")
    with pytest.raises(ValueError, match="'nowhere' is no commit"), workspace(small, name="x", revision="nowhere"):
        pass


def test_the_cache_is_linked_not_copied(small: Path, run: Callable) -> None:
    run("dvc", "repro", cwd=small)
    run("dvc", "remote", "add", "near", "../remote", cwd=small)
    run("git", "add", ".dvc/config", "dvc.lock", cwd=small)
    run("git", "commit", "-qm", "remote", cwd=small)
    run("dvc", "remote", "modify", "--local", "near", "jobs", "3", cwd=small)
    with workspace(small, name="links") as place:
        linked = place.root / "first.txt"
        cached = small / ".dvc" / "cache" / "files" / "md5"
        assert linked.stat().st_ino in {path.stat().st_ino for path in cached.rglob("*") if path.is_file()}
        assert not linked.stat().st_mode & 0o222
        assert run("dvc", "remote", "list", cwd=place.root).stdout.split() == ["near", str(small.parent / "remote")]
        assert run("dvc", "config", "remote.near.jobs", cwd=place.root).stdout.split() == ["3"]
        assert "up to date" in run("dvc", "status", cwd=place.root).stdout
    assert not place.root.exists()


def test_relative_paths_mean_the_checkout(small: Path, run: Callable, repository: Path) -> None:
    """An untracked file, one outside, one behind a pointer; what a stage makes stays an edge of the graph."""
    (small / "params.yaml").write_text(
        "a: mine/data.txt\nb: ../outside.txt\nc: tracked.txt\nd: first.txt\ne: note.txt\nf: first\n"
    )
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(
        text + "  many:\n    cmd: cat ${a} ${b} ${c} ${d} > many.txt\n"
        "    deps: ['${a}', '${b}', '${c}', '${d}']\n    outs: [many.txt]\n"
    )
    (small / "tracked.txt").write_text("tracked")
    run("dvc", "add", "-q", "tracked.txt", cwd=small)
    run("git", "add", ".", cwd=small)
    run("git", "commit", "-qm", "many", cwd=small)
    (small / "mine").mkdir()
    (small / "mine" / "data.txt").write_text("mine")
    (small / "note.txt").write_text("not an input of a stage")
    (small / "first").write_text("a text that happens to be a file's name")
    (small.parent / "outside.txt").write_text("outside")
    from flows.repository.graph import read_graph

    run("dvc", "repro", "first", cwd=small)
    with workspace(small, name="paths") as place:
        assert (place.root / "tracked.txt").read_text() == "tracked"
        found = sources_of_checkout(place, read_graph(place.root, ["many"]))
    assert found == [f"a={small}/mine/data.txt", f"b={small.parent}/outside.txt", f"e={small}/note.txt"]


def test_a_worktree_of_a_dead_run_is_swept_and_that_of_a_living_one_is_not(small: Path, run: Callable) -> None:
    with workspace(small, name="lives") as place:
        dead = small / ".gridflow" / "worktrees" / "dead"
        git(small, "worktree", "add", "--detach", "-q", str(dead))
        git(small, "worktree", "lock", str(dead))  # as while git makes it
        dead.with_name("dead.lock").write_text(MARK)
        mine = small / ".gridflow" / "worktrees" / "mine"
        git(small, "worktree", "add", "--detach", "-q", str(mine))
        assert sweep_workspaces(small) == ["dead"]
        assert (mine / "dvc.yaml").exists()  # a person's
        git(small, "worktree", "remove", str(mine))
        with workspace(small, name="mine") as free:
            assert free.root.name == "mine"
        assert place.root.exists()
        with workspace(small, name="lives") as other:
            assert other.root.name == "lives-2"
    assert git(small, "worktree", "list").count("\n") == 0


def test_experiments_of_one_name_are_kept_apart(small: Path, run: Callable) -> None:
    with workspace(small, name="same") as place:
        (place.root / "source.txt").write_text("one")
        first = place.save()
        (place.root / "source.txt").write_text("two")
        second = place.save()
    assert {"same", "same-2"} == set(experiments(small, run))
    assert git(small, "show", f"{first}:source.txt") == "one"
    assert git(small, "show", f"{second}:source.txt") == "two"


def test_a_worktree_runs_its_own_code_and_shares_the_state(
    small: Path, run: Callable, repository: Path, tmp_path: Path
) -> None:
    for package in ("tasks", "cnn_core"):
        (small / package).unlink()
        shutil.copytree(repository / package, small / package, ignore=shutil.ignore_patterns("__pycache__"))
    (small / "tasks" / "where.py").write_text(
        "import pathlib, cnn_core\n"
        "from tasks.engine import runtime\n"
        "text = '\\n'.join([__file__, cnn_core.__file__, str(runtime.main_checkout())])\n"
        "pathlib.Path('where.txt').write_text(text)\n"
    )
    (small / "dvc.yaml").write_text("stages: {where: {cmd: python -m tasks.where, outs: [where.txt]}}\n")
    (small / ".gitignore").write_text("/.gridflow\n__pycache__\n")
    run("git", "add", ".", cwd=small)
    run("git", "commit", "-qm", "code of its own", cwd=small)
    with workspace(small, name="code") as place:
        run("dvc", "repro", cwd=place.root)
        where = (place.root / "where.txt").read_text().splitlines()
        assert where == [f"{place.root}/tasks/where.py", f"{place.root}/cnn_core/__init__.py", str(small)]


@pytest.mark.slow
def test_two_isolated_runs_and_a_dvc_repro_at_once(
    small: Path, run: Callable, environment: dict[str, str], repository: Path, server: str
) -> None:
    """All three make the same, and so write the same objects and runs into DVC's cache, as near together as can be."""
    env = {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": server}
    flow = ["gridflow", "run", "--isolated", "--name"]
    commands = [[*flow, "one"], [*flow, "two"], [sys.executable, "-m", "dvc", "repro"]]
    started = [
        subprocess.Popen(command, cwd=small, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command in commands
    ]
    ended = [(process.communicate(timeout=900)[0], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0, 0], ended
    found = experiments(small, run)
    assert set(found) == {"one", "two"}
    assert (small / "last.txt").read_text() == "source1lx"
    mine = yaml.safe_load((small / "dvc.lock").read_text())  # siblings stand there in the order in which they ended
    for commit in found.values():
        assert yaml.safe_load(git(small, "show", f"{commit}:dvc.lock")) == mine
    assert "up to date" in run("dvc", "status", cwd=small).stdout


def test_names() -> None:
    assert safe_name("Réseau: a/b..c.lock") == "R-seau-a-b.c"
    assert safe_name("///") == "run"


def test_uncommitted_files_are_named(small: Path) -> None:
    assert uncommitted(small) == []
    (small / "dvc.lock").write_text("")
    (small / "a b.py").write_text("")
    (small / "source.txt").write_text("x")
    assert uncommitted(small) == ["source.txt", "a b.py"]


def test_the_settings_of_a_worktree_are_never_readable_by_others(small: Path, run: Callable) -> None:
    """Nor while they are written: the file is made with its rights. A path may have any letters."""
    settings = """['remote "store"']\n    url = "/data/réseau, 1"\n    password = sesame\n"""
    (small / ".dvc" / "config.local").write_text(settings)
    made: list[int] = []
    open_ = os.open

    def opened(path: str, flags: int, mode: int = 0o777, **rest: int) -> int:
        descriptor = open_(path, flags, mode, **rest)
        if str(path).endswith("config.local") and flags & os.O_CREAT:
            made.append(os.fstat(descriptor).st_mode & 0o777)
        return descriptor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opened)
        with workspace(small, name="rights") as worktree:
            assert (worktree.root / ".dvc" / "config.local").stat().st_mode & 0o777 == 0o600
            url = run("dvc", "config", "remote.store.url", cwd=worktree.root).stdout.strip()
    assert made == [0o600]
    assert url == "/data/réseau, 1"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["réseau d'été", "repository/project"])
def test_a_checkout_may_lie_anywhere(
    tmp_path: Path, run: Callable, repository: Path, server: str, make_small: Callable, place: str
) -> None:
    """In a path with letters beyond ASCII, or in a subfolder of a repository."""
    root = tmp_path / place
    root.parent.mkdir(parents=True, exist_ok=True)
    make_small(root)
    if "/" in place:
        shutil.rmtree(root / ".git")
        run("git", "init", "-q", cwd=root.parent)
        run("git", "add", ".", cwd=root.parent)
        run("git", "commit", "-qm", "all", cwd=root.parent)
    assert main_checkout(root) == root
    done = run("gridflow", "run", "--isolated", "--name", "there", cwd=root,
               PYTHONPATH=str(repository), PREFECT_API_URL=server)  # fmt: skip
    assert "4 stages ran, 0 were up to date; experiment there" in done.stdout + done.stderr
    assert not (root / "first.txt").exists()
    assert git(root, "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps") == "there"
    assert not list((root / ".gridflow" / "worktrees").iterdir())
    commit = git(root, "rev-parse", git(root, "for-each-ref", "--format=%(refname)", "refs/exps"))
    assert outputs(root, commit).keys() == {"first.txt", "left.txt", "right.txt", "last.txt"}
    assert get_output(root, commit, "last.txt", tmp_path / "brought").read_text() == "source1lx"


@pytest.mark.slow
def test_two_runs_may_bring_the_same_output_at_once(small: Path, run: Callable, tmp_path: Path) -> None:
    run("dvc", "repro", cwd=small)
    run("git", "add", "dvc.lock", cwd=small)
    run("git", "commit", "-qm", "results", cwd=small)
    commit = git(small, "rev-parse", "HEAD")
    target = tmp_path / "outputs" / "last"
    with ThreadPoolExecutor(3) as pool:
        brought = list(pool.map(lambda _: get_output(small, commit, "last.txt", target), range(3)))
    assert brought == [target] * 3
    assert target.read_text() == "source1lx"
    assert [path.name for path in target.parent.iterdir() if path.is_dir()] == []
