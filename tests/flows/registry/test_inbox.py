"""The inbox on a small real repository: settled, judged, versioned, put away (about 10 s of CPU)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnn_core.data.objects.grown import read_source
from cnn_core.files import read_csv
from cnn_core.locks import try_lock
from flows.cli import app
from flows.registry.data_versions import data_grown_from, data_version
from flows.registry.inbox import composed_of, take_in, waiting
from flows.repository.git import git
from tests.helpers.champion_repository import digits, make, write_table
from tests.helpers.object_deliveries import coco, ultralytics
from tests.helpers.object_formats import picture
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


def test_a_set_of_objects_grows_by_its_inbox(
    root: Path, tmp_path: Path, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    source = str(coco(tmp_path / "source", range(20)))
    text = (root / "params.yaml").read_text()
    entry = f"  things:\n    source: {source}\n    kind: objects\n    max_bad_fraction: 0.3\n"
    (root / "params.yaml").write_text(text.replace("ingest:\n", f"ingest:\n{entry}", 1))
    run("git", "commit", "-qam", "a set of objects", cwd=root)
    inbox = root / "data" / "inbox" / "things"
    delivered = ultralytics(inbox / "new", [0, 1, *range(100, 105)], classes=("dog", "cat"))
    (delivered / "images/train/0104.jpg").write_bytes(b"none")
    picture(delivered / "images/train/0200.jpg", 200)
    coco(inbox / "again", range(3))
    for path in (inbox / "new", inbox / "again"):
        for file in (path, *path.rglob("*")):
            os.utime(file, EPOCH)

    intake = take_in(root, "things", source, drift="off")
    assert intake.sentences == [
        "refused: again holds nothing new: of its 3 images 3 are in the set already and 0 are bad",
        "taken in: new, of 8 images 4 new images, 2 known already, 1 bad, 1 left out (images without a label); "
        "of 7 annotations 4 added, 1 bad, 2 left out",
    ]
    refused = read_csv(inbox / "done" / "new.refused.csv")
    assert list(refused["kind"]) == ["image", "annotation"]
    assert refused["reason"][0].startswith("is not an image that can be read")
    assert (intake.version.number, intake.version.notes["images"]) == (1, 4)
    assert "refusals" not in intake.version.notes["deliveries"]["new"]

    coco(inbox / "more", [300])
    second = take_in(root, "things", source, drift="off", settle_s=0.0).version
    assert (second.number, second.notes["images"]) == (2, 1)
    run("git", "checkout", "-q", "data/things", "--", "data/sources/things-grown.dvc", cwd=root)
    run("dvc", "checkout", "-q", "data/sources/things-grown.dvc", cwd=root)
    assert len(read_source(root / "data/sources/things-grown").annotations[0]) == 25
    assert len(read_source(source).annotations[0]) == 20


def test_without_a_set_the_command_lists_all_with_what_waits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    deliver(root, "later.csv", 10, seed=4)
    waiting_now = len(waiting(root / "data/inbox/digits", settle_s=0.0))
    lines = CliRunner().invoke(app, ["inbox"]).output.splitlines()
    assert f"digits  pixels, {waiting_now} in data/inbox/digits" in lines
    assert "scenes  images, 0 in data/inbox/scenes" in lines


def test_a_delivery_that_may_still_be_copied_is_said_to_wait(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    inbox = root / "fresh"
    write_table(inbox / "fresh.csv", *digits(10, seed=5))
    output = CliRunner().invoke(app, ["inbox", "digits", "--inbox", str(inbox)]).output
    assert output.splitlines()[0] == "nothing new"
    assert "1 in the inbox changed in the last 10 seconds, so they may not be whole yet" in output
    assert (inbox / "fresh.csv").is_file()


def test_a_set_of_composed_pictures_grows_by_the_one_they_are_made_of() -> None:
    params = {"compose": {"numbers": {"source": "data/raw/digits"}}}
    assert composed_of(params, "data/composed/numbers") == "digits"
    assert composed_of(params, "data/composed/other") == composed_of({}, "photos") == ""
