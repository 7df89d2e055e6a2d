"""The inbox on a small real repository: settled, judged, versioned, put away (about 10 s of CPU)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_core.locks import try_lock
from flows.registry.data_versions import data_grown_from, data_version
from flows.registry.inbox import take_in, waiting
from flows.repository.git import git
from tests.helpers.champion_repository import digits, make, write_table
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.xdist_group("inbox")

EPOCH = (1_600_000_000, 1_600_000_000)
SOURCE = "data/sources/digits"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, run: Callable, repository: Path) -> Path:
    return make(tmp_path_factory.mktemp("inbox") / "small", run, repository, images=200)


def deliver(root: Path, name: str, count: int, seed: int) -> Path:
    path = write_table(root / "data" / "inbox" / "digits" / name, *digits(count, seed=seed))
    os.utime(path, EPOCH)
    return path


def test_what_is_still_being_copied_waits(tmp_path: Path) -> None:
    for name in ("old.csv", "new.csv", ".hidden", "folder/x.png", "done/before.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    for path in (tmp_path / "old.csv", tmp_path / "folder"):
        os.utime(path, EPOCH)  # the folder's file is fresh
    assert waiting(tmp_path) == [tmp_path / "old.csv"]
    assert waiting(tmp_path, settle_s=0.0) == [tmp_path / "folder", tmp_path / "new.csv", tmp_path / "old.csv"]
    assert waiting(tmp_path / "absent") == []


def test_an_empty_inbox_costs_nothing(root: Path) -> None:
    start = time.monotonic()
    assert take_in(root, "digits", SOURCE, inbox=root / "nowhere").sentences == []
    assert time.monotonic() - start < 1.0


def test_deliveries_become_versions_and_the_checkout_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")
    inbox = root / "data" / "inbox" / "digits"
    deliver(root, "a.csv", 40, seed=1)
    deliver(root, "again.csv", 40, seed=1)
    intake = take_in(root, "digits", SOURCE, drift="off")
    assert intake.sentences[0] == "taken in: a.csv, 40 new images, 0 known already, 0 bad"
    assert intake.sentences[1].startswith("refused: again.csv holds nothing new")
    assert (inbox / "done" / "a.csv").exists()
    assert "nothing new" in (inbox / "refused" / "again.csv.reason.txt").read_text()
    first = intake.version
    assert (first.number, first.notes["images"], first.notes["source"]) == (1, 40, SOURCE)

    deliver(root, "a.csv", 30, seed=2)  # of the same name as before
    second = take_in(root, "digits", SOURCE, drift="off").version
    assert data_version(root, "digits") == second
    assert second.number == 2
    assert second.notes["md5"] in git(root, "show", "data/digits:data/sources/digits-grown.dvc")
    assert git(root, "rev-parse", "data/digits^") == first.commit
    assert (inbox / "done" / "a-2.csv").exists()
    assert (git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD")) == before
    assert data_grown_from(root, "digits", "another/source") is None  # which it did not grow from


def test_one_run_takes_in_at_a_time(root: Path) -> None:
    deliver(root, "b.csv", 10, seed=3)
    with (
        try_lock(root / ".gridflow" / "locks" / "inbox-digits.lock"),
        pytest.raises(ValueError, match="another run is taking in"),
    ):
        take_in(root, "digits", SOURCE)
    assert (root / "data" / "inbox" / "digits" / "b.csv").exists()


def test_a_source_that_does_not_exist_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere \(the parameter ingest\.digits\.source\) does not exist"):
        take_in(root, "digits", "nowhere")
