"""A dvc.lock that a kill has cut off is whole again before DVC reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from flows.execution.prepare import RunRequest, prepare
from flows.repository.lock_file import KEPT, mend_locks

pytestmark = pytest.mark.xdist_group("lock_file")

LOCK = "dvc.lock"


@pytest.fixture
def done(small: Path, run: Callable) -> Path:
    """The small repository after a run, with its dvc.lock committed."""
    run("dvc", "repro", "-q", cwd=small)
    run("git", "add", LOCK, cwd=small)
    run("git", "commit", "-qm", "run", cwd=small)
    return small


def test_a_cut_at_any_place_is_mended(done: Path) -> None:
    text = (done / LOCK).read_text()
    lines = [place for place, sign in enumerate(text, 1) if sign == "\n" and text[place - 2] == ":"]
    for place in [*(place for place in range(0, len(text), 19) if text[place - 1] != "\n" or not place), *lines]:
        (done / LOCK).write_text(text[:place])
        mend_locks(done)
        assert yaml.safe_load((done / LOCK).read_text()) == yaml.safe_load(text), place
    assert not any(node.stale for node in prepare(done, RunRequest()))


def test_what_ran_since_stays_and_the_copy_of_the_last_run_goes_before_git(done: Path, run: Callable) -> None:
    first = yaml.safe_load((done / LOCK).read_text())["stages"]
    (done / "source.txt").write_text("other")
    run("dvc", "repro", "-q", cwd=done)
    assert mend_locks(done) == []
    second = (done / LOCK).read_text()
    (done / "source.txt").write_text("third")
    run("dvc", "repro", "-q", "first", cwd=done)
    third = (done / LOCK).read_text()
    (done / LOCK).write_text(third[: third.index("  right:") + 20])
    (sentence,) = mend_locks(done)
    assert "dvc.lock was cut off, as DVC was killed while it wrote it: 1 stages' entries were put back" in sentence
    mended = yaml.safe_load((done / LOCK).read_text())["stages"]
    assert mended["first"] == yaml.safe_load(third)["stages"]["first"] != first["first"]
    assert mended["last"] == yaml.safe_load(second)["stages"]["last"] != first["last"]


@pytest.mark.parametrize("words", ["    deps:", "      size: "])
def test_after_a_cut_between_two_lines_the_results_come_out_of_the_cache(done: Path, run: Callable, words: str) -> None:
    text = (done / LOCK).read_text()
    (done / LOCK).write_text(text[: text.index("\n", text.rindex(words)) + 1])
    mend_locks(done)
    assert "Running stage" not in run("dvc", "repro", cwd=done).stdout
    assert yaml.safe_load((done / LOCK).read_text()) == yaml.safe_load(text)


def test_without_a_copy_the_results_come_out_of_the_cache(done: Path, run: Callable) -> None:
    run("git", "rm", "-q", "--cached", LOCK, cwd=done)
    run("git", "commit", "-qm", "without", cwd=done)
    text = (done / LOCK).read_text()
    (done / LOCK).write_text(text[: len(text) // 2])
    mend_locks(done)
    names = list(yaml.safe_load((done / LOCK).read_text())["stages"])
    assert names == list(yaml.safe_load(text)["stages"])[: len(names)]
    printed = run("dvc", "repro", cwd=done).stdout
    assert "Running stage" not in printed
    assert yaml.safe_load((done / LOCK).read_text()) == yaml.safe_load(text)


def test_an_empty_file_without_a_copy_is_one_that_dvc_reads(done: Path, run: Callable) -> None:
    run("git", "rm", "-q", "--cached", LOCK, cwd=done)
    run("git", "commit", "-qm", "without", cwd=done)
    (done / LOCK).write_text("")
    mend_locks(done)
    assert all(node.stale for node in prepare(done, RunRequest()))


def test_what_a_person_took_out_stays_out_and_a_dvc_at_work_is_left_alone(done: Path) -> None:
    mend_locks(done)
    text = (done / LOCK).read_text()
    (done / LOCK).write_text(text[: text.index("  last:")])
    assert mend_locks(done) == []
    assert "last" not in yaml.safe_load((done / LOCK).read_text())["stages"]
    (done / KEPT / LOCK).write_text(text)
    (done / LOCK).write_text(text[:200])
    with Repo(str(done)).lock:
        assert mend_locks(done) == []
    assert (done / LOCK).read_text() == text[:200]
    assert len(mend_locks(done)) == 1
