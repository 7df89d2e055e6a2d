"""`gridflow clean` on a real repository with champions, experiments and a Prefect database: what goes, what stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from dvc.repo import Repo
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

from cnn_core.locks import HOLD, try_lock
from flows.housekeeping import clean_all, clean_old, parse_age, report, size_of
from flows.registry.promotion import fetch, promote
from flows.repository.git import git
from flows.repository.leftovers import CLEANING
from flows.repository.storage import experiments, remove_experiments, remove_unneeded
from tasks.engine.state import MARK
from tests.helpers.ageing import age_experiment, age_files, age_runs
from tests.helpers.champion_repository import set_skill

pytestmark = [pytest.mark.xdist_group("champions"), pytest.mark.slow]

SKILLS = {"champion": 0.8, "old": 0.6, "young": 0.7, "branch": 0.75, "stash": 0.55, "worktree": 0.5, "failed": 0.65}
MONTH = timedelta(days=30)
TRAIN = """
import json, pathlib, re
lines = pathlib.Path("params.yaml").read_text().partition("\\ntrain:\\n")[2]
folder = pathlib.Path("data/models/digits")
folder.mkdir(parents=True)
skill = float(re.search(r"learning_rate: (\\S+)", lines)[1])
(folder / "model.json").write_text(json.dumps({"skill": skill}))
"""
DVC_YAML = """
stages:
  train:
    foreach: [digits]
    do:
      cmd: PYTHON train.py
      deps: [train.py]
      params: [train.digits.learning_rate]
      outs: [data/models/digits]
      meta: {role: train, task: classification}
  evaluate:
    foreach: []
    do: {cmd: none, meta: {role: evaluate, task: classification}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run: Callable, repository: Path) -> Path:
    """A run for each of `SKILLS`, all of 40 days ago but what is called young, and one more in the checkout."""
    root = tmp_path_factory.mktemp("month") / "small"
    root.mkdir()
    run("git", "init", "-q", cwd=root)
    run("dvc", "init", "-q", cwd=root)
    for name in ("params.yaml", "runtime.yaml"):
        shutil.copy(repository / name, root)
    (root / "train.py").write_text(TRAIN)
    (root / "dvc.yaml").write_text(DVC_YAML.replace("PYTHON", sys.executable))
    (root / ".gitignore").write_text("/.gridflow\n/data/inbox\n")
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "small", cwd=root)

    def run_with(skill: float) -> None:
        set_skill(root, skill)
        with contextlib.chdir(root), Repo(str(root)) as repo:
            repo.reproduce()

    for name in ("champion", "old", "young"):
        run_with(SKILLS[name])
        run("dvc", "exp", "save", "-n", name, cwd=root)
    promote(root, "digits", "champion", reason="the first")
    start = git(root, "rev-parse", "HEAD")
    run("git", "switch", "-qc", "side", cwd=root)
    run_with(SKILLS["branch"])
    run("git", "add", "dvc.lock", "params.yaml", cwd=root)
    run("git", "commit", "-qm", "side", cwd=root)
    run("git", "switch", "-qc", "another", start, cwd=root)
    run_with(SKILLS["stash"])
    run("git", "add", "dvc.lock", cwd=root)
    run("git", "stash", "-q", cwd=root)
    for name in ("worktree", "failed"):
        run_with(SKILLS[name])
        (root / "data" / "inbox").mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "dvc.lock", root / "data" / "inbox" / name)
    run_with(0.9)
    age_files([path for path in (root / ".dvc" / "cache").rglob("*") if path.is_file()], 40)
    for name in ("champion", "old"):
        age_experiment(root, name, 40)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "small", symlinks=True)


def model_of(lock: str) -> str:
    """The MD5 of the model in a dvc.lock."""
    return lock.partition("path: data/models/digits\n")[2].partition("md5: ")[2].split()[0]


def models(root: Path) -> set[float]:
    """The skills of the models whose folders are in DVC's cache."""
    files = root / ".dvc" / "cache" / "files" / "md5"
    skills = set()
    for listing in files.rglob("*.dir"):
        for entry in json.loads(listing.read_text()):
            if entry["relpath"] == "model.json":
                skills.add(json.loads((files / entry["md5"][:2] / entry["md5"][2:]).read_text())["skill"])
    return skills


def clean_cache(root: Path, *others: Path, dry_run: bool = False) -> int:
    before = datetime.now(UTC) - MONTH
    old = [one for one in experiments(root) if one.time < before.timestamp()]
    kept = [one for one in experiments(root) if one.time >= before.timestamp()]
    unneeded = remove_unneeded(root, [root, *others], kept, before=before, dry_run=dry_run)
    if not dry_run:
        remove_experiments(root, old)
    return unneeded.objects


def test_the_cache_keeps_what_somebody_needs_and_what_is_young(root: Path, run: Callable) -> None:
    """Needed: the checkout, a branch, a stash, a worktree, a younger experiment, and a champion without experiment."""
    tree = root.parent / "tree"
    run("git", "worktree", "add", "-q", "--detach", str(tree), cwd=root)
    run("dvc", "cache", "dir", "--local", str(root / ".dvc" / "cache"), cwd=tree)
    shutil.copy(root / "data" / "inbox" / "worktree", tree / "dvc.lock")
    failed = model_of((root / "data" / "inbox" / "failed").read_text())
    file = root / ".dvc" / "cache" / "files" / "md5" / failed[:2] / failed[2:]
    file.touch()  # last night's run, which failed later on: its model's file is old, its folder is young
    assert models(root) == {0.9, *SKILLS.values()}
    count = clean_cache(root, tree, dry_run=True)
    assert models(root) == {0.9, *SKILLS.values()}
    assert [one.name for one in experiments(root)] == ["champion", "old", "young"]
    assert clean_cache(root, tree) == count > 0
    assert [one.name for one in experiments(root)] == ["young"]
    assert models(root) == {0.9, *SKILLS.values()} - {SKILLS["old"]}
    age_files([file], 40)
    git(root, "worktree", "remove", "--force", str(tree))
    git(root, "stash", "drop")
    clean_cache(root)
    assert models(root) == {0.9} | {SKILLS[name] for name in ("champion", "young", "branch")}
    assert json.loads((fetch(root, "digits") / "model.json").read_text())["skill"] == SKILLS["champion"]
    run("dvc", "checkout", "-q", "--force", cwd=root)
    run("git", "restore", "--source=champion/digits", "--", "dvc.lock", "params.yaml", cwd=root)
    run("dvc", "checkout", "-q", "--force", "data/models/digits", cwd=root)
    assert json.loads((root / "data/models/digits/model.json").read_text())["skill"] == SKILLS["champion"]
    assert clean_cache(root) == 2, "the folder and the file of the model that was in the checkout before"
    assert models(root) == {SKILLS[name] for name in ("champion", "young", "branch")}


def test_what_dvc_remembers_of_runs_goes_with_their_outputs(root: Path) -> None:
    """Its run cache would grow for ever; what can be restored by it, and what is young, stays."""
    notes = root / ".dvc" / "cache" / "runs"
    before = len([*notes.glob("*/*/*")])
    assert before > len(SKILLS)
    clean_cache(root)
    remaining = [note.read_text() for note in notes.glob("*/*/*")]
    assert 0 < len(remaining) < before
    files = root / ".dvc" / "cache" / "files" / "md5"
    for md5 in (word for note in remaining for word in note.split() if word.endswith(".dir")):
        assert (files / md5[:2] / md5[2:]).is_file()
    assert all(any(folder.iterdir()) for folder in notes.rglob("*") if folder.is_dir())


def test_of_a_revision_that_dvc_cannot_read_stays_what_its_lock_names(root: Path, run: Callable) -> None:
    """A tag of the past with a broken dvc.yaml, in a folder of its own, beside one that is no commit."""
    run("git", "switch", "-qC", "past", cwd=root)
    (root / "dvc.yaml").write_text("stages: [\n")
    (root / "été").mkdir()
    shutil.copy(root / "data" / "inbox" / "failed", root / "été" / "dvc.lock")
    run("git", "add", "-f", "dvc.yaml", "été", cwd=root)
    run("git", "commit", "-qm", "past", cwd=root, GIT_COMMITTER_DATE="2020-01-01T00:00:00Z")
    run("git", "tag", "past", cwd=root)
    run("git", "tag", "blob", git(root, "rev-parse", "HEAD:dvc.yaml"), cwd=root)
    run("git", "switch", "-q", "another", cwd=root)
    run("git", "branch", "-qD", "past", cwd=root)
    lines: list[str] = []
    before = datetime.now(UTC) - MONTH
    remove_unneeded(root, [root], [], before=before, dry_run=False, tell=lines.append)
    assert models(root) == {0.9} | {SKILLS[name] for name in ("champion", "branch", "stash", "failed")}
    assert any("revisions of" in line for line in lines)


def test_a_checkout_that_cannot_be_read_leaves_the_cache_alone(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages: [\n")
    files = size_of(root / ".dvc" / "cache")
    with pytest.raises(ValueError, match=f"the cache stays as it is, as {root} may need"):
        clean_cache(root)
    assert len(experiments(root)) == 3
    assert size_of(root / ".dvc" / "cache") == files


def test_what_other_projects_need_stays(root: Path, run: Callable, tmp_path: Path) -> None:
    """One with git, whose experiments are all kept, and one without."""
    old = git(root, "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/old")
    others = [tmp_path / "clone", tmp_path / "plain"]
    run("git", "clone", "-q", str(root), str(others[0]), cwd=tmp_path)
    run("git", "fetch", "-q", "origin", "+refs/exps/*:refs/exps/*", cwd=others[0])
    others[1].mkdir()
    run("dvc", "init", "-q", "--no-scm", cwd=others[1])
    for name in ("params.yaml", "dvc.yaml", "train.py"):
        shutil.copy(root / name, others[1])
    shutil.copy(root / "data" / "inbox" / "failed", others[1] / "dvc.lock")
    for other in others:
        run("dvc", "cache", "dir", "--local", str(root / ".dvc" / "cache"), cwd=other)
    assert git(others[0], "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/old") == old
    clean_cache(root, *others)
    assert models(root) == {0.9, *SKILLS.values()} - {SKILLS["worktree"]}
    assert [one.name for one in experiments(others[0])] == ["champion", "old", "young"]


def test_ages() -> None:
    assert [parse_age(text) for text in ("30d", "2w", "12H")] == [MONTH, timedelta(days=14), timedelta(hours=12)]
    for text in ("30", "-3d", "1m", "", "d", "1.5d"):
        with pytest.raises(ValueError, match="such as 30d"):
            parse_age(text)


RUNS = """
from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from flows.ui.terminal import run_flow

@flow(persist_result=False, flow_run_name="{name}")
def night(name):
    get_run_logger().info("a line")
    create_markdown_artifact(name, key=name)

for name in ("housekeeping-old", "housekeeping-young"):
    run_flow(lambda: night(name, return_state=True))
night("housekeeping-another")  # another project's, on the same server
"""
ROWS = {
    "runs": "SELECT name FROM flow_run WHERE name LIKE 'housekeeping-%'",
    "artifacts": "SELECT key FROM artifact WHERE key LIKE 'housekeeping-%'",
    "latest artifacts": "SELECT key FROM artifact_collection WHERE key LIKE 'housekeeping-%'",
    "logs": "SELECT flow_run.name FROM log JOIN flow_run ON flow_run.id = flow_run_id "
            "WHERE flow_run.name LIKE 'housekeeping-%' AND message = 'a line'",
    "logs of no run": "SELECT id FROM log WHERE flow_run_id NOT IN (SELECT id FROM flow_run)",
}  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.skipif("GRIDFLOW_TEST_API" in os.environ, reason="the server's database is not here")
def test_clean_removes_old_runs_everywhere_and_leaves_the_rest(
    root: Path, run: Callable, repository: Path, tmp_path: Path, server: str, environment: dict[str, str]
) -> None:
    """Prefect's database, the state folder, experiments and cache in one; a dry run first, which removes nothing."""
    temporary, state, copy = (
        tmp_path / "tmp",
        tmp_path / "state",
        root / ".gridflow" / "outputs" / "digits-0123456789ab",
    )
    for folder in (temporary, state / "mine", state / "old", copy):
        folder.mkdir(parents=True)
    (state / "mine" / "notes.txt").write_text("a person's")
    (state / "old" / MARK).write_text("old")
    (copy / "weights").write_bytes(bytes(5000))
    champion = fetch(root, "digits")
    age_files([*state.rglob("*"), *(root / ".gridflow").rglob("*")], 40)
    settings = {"PREFECT_API_URL": server, "TMPDIR": str(temporary), "GRIDFLOW_STATE": str(state),
                "PYTHONPATH": str(repository)}  # fmt: skip
    (tmp_path / "runs.py").write_text(RUNS)
    run(sys.executable, str(tmp_path / "runs.py"), cwd=root, **settings)
    database = Path(environment["PREFECT_HOME"]) / "prefect.db"
    age_runs(database, 40, names=["housekeeping-old", "housekeeping-another"])

    def rows() -> dict[str, list[str]]:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return {kind: sorted(row[0] for row in connection.execute(query)) for kind, query in ROWS.items()}

    before = rows()
    names = ["housekeeping-another", "housekeeping-old", "housekeeping-young"]
    assert before == {"runs": names, "artifacts": names, "latest artifacts": names, "logs": names, "logs of no run": []}
    clean = ["gridflow", "clean", "--older-than", "30d"]
    text = run(*clean, "--dry-run", cwd=root, **settings).stdout
    assert "would be removed" in text
    assert rows() == before
    assert copy.is_dir()
    assert (state / "old").is_dir()
    assert [one.name for one in experiments(root)] == ["champion", "old", "young"]

    stages = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text("stages: [\n")
    refused = run(*clean, "--dry-run", cwd=root, code=1, **settings)
    assert "the cache stays as it is" in refused.stderr
    assert [line.split()[0] for line in refused.stdout.splitlines()[1:]] == ["Prefect", "leftovers", "DVC's", "git"]
    (root / "dvc.yaml").write_text(stages)

    text = run(*clean, cwd=root, **settings).stdout
    assert "1 run with logs and 1 artifact" in text
    assert "2 experiments (champion, old)" in text
    assert "1 unfinished run, 1 copy of a model" in text
    names.remove("housekeeping-old")
    assert rows() == {**dict.fromkeys(before, names), "logs of no run": []}
    assert not copy.exists()
    assert not (state / "old").exists()
    assert (state / "mine" / "notes.txt").is_file()
    assert [one.name for one in experiments(root)] == ["young"]
    assert models(root) == {0.9} | {SKILLS[name] for name in ("champion", "young", "branch", "stash")}
    assert champion.is_dir()


def test_the_server_of_make_ui_deletes_runs_after_90_days(server: str) -> None:
    settings = httpx.get(f"{server}/admin/settings", timeout=60).json()["server"]["services"]["db_vacuum"]
    vacuum = ServerServicesDBVacuumSettings.model_validate(settings)
    assert {"events", "flow_runs"} <= vacuum.enabled_vacuum_types
    assert vacuum.retention_period == timedelta(days=90)


def test_nothing_is_removed_while_a_run_or_dvc_is_at_work(root: Path, run: Callable) -> None:
    """Nor in a worktree of a person; nor of a cache that other projects may use."""
    tree = root.parent / "tree"
    run("git", "worktree", "add", "-q", "--detach", str(tree), cwd=root)

    def refusal(*projects: Path) -> str:
        with pytest.raises(ValueError, match="Nothing was removed") as refused:
            clean_old(root, timedelta(0), projects, dry_run=True)
        return str(refused.value)

    for checkout in (root, tree):
        folder = checkout / ".gridflow" / "runs" / "one"
        with try_lock(folder / HOLD):
            assert "a run is at work" in refusal()
        shutil.rmtree(folder)
    with subprocess.Popen([sys.executable, "-c", "input()", "dvc", "repro"], stdin=subprocess.PIPE) as dvc:
        info = {"pid": dvc.pid, "cmd": "/env/bin/dvc input() dvc repro"}
        (root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"write": {"/out": info}, "read": {}}))
        assert "DVC is at work" in refusal()
        dvc.communicate(b"\n")
    run("dvc", "cache", "dir", "--local", str(root.parent / "cache"), cwd=root)
    assert "name each with --project" in refusal()
    assert "there is no DVC project" in refusal(root / "data")


def test_a_run_that_starts_meanwhile_waits(root: Path) -> None:
    code = (
        "from pathlib import Path; from flows.repository.leftovers import new_run_folder; "
        f"new_run_folder(Path({str(root)!r}))"
    )
    with try_lock(root / ".gridflow" / CLEANING):
        process = subprocess.Popen([sys.executable, "-c", code])
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=8)
    assert process.wait(timeout=60) == 0


def test_without_an_age_the_folder_of_runs_goes_alone(root: Path) -> None:
    folder = root / ".gridflow" / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("{}" * 500)
    files = size_of(root / ".dvc" / "cache")
    assert report(clean_all(root, dry_run=True), dry_run=True).splitlines()[0].endswith("would be removed")
    assert folder.is_dir()
    (removed,) = clean_all(root, dry_run=False)
    assert removed.before >= 1000 > removed.after == 0
    assert not (root / ".gridflow").exists()
    assert size_of(root / ".dvc" / "cache") == files
    assert len(experiments(root)) == 3
