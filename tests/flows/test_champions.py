"""Promotion, audit and rollback on a real repository with a real DVC cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from flows.registry.models import champion, history
from flows.registry.promotion import audit, fetch, listing, promote, rollback
from flows.repository.git import git
from flows.repository.outputs import output_path
from tests.helpers.champion_repository import make, set_skill

pytestmark = pytest.mark.xdist_group("champions")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run: Callable, repository: Path) -> Path:
    """dvc.lock of a run in the checkout, not committed, and an experiment `better`."""
    root = make(tmp_path_factory.mktemp("champions") / "small", run, repository)
    env = {"PYTHONPATH": str(repository)}
    set_skill(root, 0.9)
    run("dvc", "repro", "-q", cwd=root, **env)
    run("dvc", "exp", "save", "-n", "better", cwd=root)
    set_skill(root, 0.8)
    run("dvc", "repro", "-q", cwd=root, **env)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "small", symlinks=True)


def state(root: Path) -> tuple[str, ...]:
    """What a promotion has to leave alone."""
    commands = (["status", "--porcelain", "-z"], ["rev-parse", "HEAD"], ["symbolic-ref", "HEAD"], ["ls-files", "-s"])
    return (*(git(root, *command) for command in commands), (root / "params.yaml").read_text())


def skill(folder: Path) -> float:
    return json.loads((folder / "model.json").read_text())["skill"]


def test_promote_audit_fetch_and_roll_back(root: Path, run: Callable) -> None:
    before = state(root)
    first = promote(root, "digits", reason="the first")
    assert (first.name, first.headline[:9]) == ("v1.0.0", "accuracy ")
    assert skill(fetch(root, "digits")) == 0.8
    second = promote(root, "digits", "better", reason="gains 10 points", metrics={"accuracy": 0.9})
    assert champion(root, "digits") == second
    assert (second.name, second.notes["experiment"], second.notes["former"]) == ("v2.0.0", "better", "v1.0.0")
    assert skill(fetch(root, "digits")) == 0.9
    assert git(root, "show", "champion/digits:params.yaml") != git(root, "show", f"{first.commit}:params.yaml")
    assert "data/models/digits" in git(root, "show", "champion/digits:dvc.lock")

    assert rollback(root, "digits") == first
    assert skill(fetch(root, "digits")) == 0.8
    assert git(root, "rev-parse", "champion/digits") == first.commit
    with pytest.raises(ValueError, match=r"v1\.0\.0 is the first version"):
        rollback(root, "digits")
    rollback(root, "digits", to="v2.0.0", reason="it was the data")
    assert [entry.version.name for entry in history(root, "digits")] == ["v1.0.0", "v2.0.0", "v1.0.0", "v2.0.0"]

    text = audit(root, "digits")
    for words in ("gains 10 points", "rolled back from v2.0.0", "it was the data", second.commit, "run better"):
        assert words in text
    assert "accuracy 0.9000" in listing(root)
    assert state(root) == before
    third = promote(root, "digits", first.commit, reason="again")  # numbers go on, whoever is champion
    assert third.name == "v3.0.0"
    shown_by_gto = json.loads(run("gto", "show", "digits", "--json", cwd=root).stdout)  # the grammar is gto's
    assert {entry["version"] for entry in shown_by_gto} == {"v1.0.0", "v2.0.0", "v3.0.0"}
    run("dvc", "artifacts", "get", ".", "digits", "--stage", "champion", "-o", "out", cwd=root)
    assert skill(root / "out") == 0.8


def test_what_made_the_model_is_recorded_not_what_the_checkout_has_become(root: Path, run: Callable) -> None:
    """The skill is 0.8 in the run; parameters, and then code, are edited after it."""
    committed = git(root, "rev-parse", "HEAD")
    set_skill(root, 0.3)
    before = state(root)
    first = promote(root, "digits", reason="edited since")
    recorded = yaml.safe_load(git(root, "show", f"{first.commit}:params.yaml"))["train"]["digits"]["learning_rate"]
    assert recorded == skill(fetch(root, "digits")) == 0.8
    (sentence,) = first.notes["differences"]
    assert "since digits was made (train.digits.learning_rate: 0.8 then, 0.3 now): recorded are the values of then" in (
        sentence
    )
    assert state(root) == before
    assert "0.8 then, 0.3 now" in audit(root, "digits")

    (root / "stages.py").write_text((root / "stages.py").read_text() + "# edited\n")
    second = promote(root, "digits", reason="code edited since, and the model names no commit")
    assert (
        "digits was trained (ingest@digits: stages.py), and the model names no commit" in second.notes["differences"][0]
    )
    assert git(root, "show", f"{second.commit}:stages.py").endswith("# edited")

    model = output_path(root, "digits", second.notes["model_md5"]) / "model.json"
    content = json.dumps(json.loads(model.read_text()) | {"git_commit": committed})
    model.unlink()  # perhaps a link into DVC's cache
    model.write_text(content)
    third = promote(root, "digits", reason="code edited since, and the model names its commit")
    assert (third.notes["trained_by"], third.notes["base"]) == (committed, committed)
    assert "# edited" not in git(root, "show", f"{third.commit}:stages.py")
    assert f"recorded is the code of the commit {committed[:10]}" in third.notes["differences"][0]
    assert git(root, "show", f"{third.commit}:dvc.lock") == (root / "dvc.lock").read_text().removesuffix("\n")

    better = promote(root, "digits", "better", reason="an experiment holds what made it")
    assert better.notes["differences"] == []


def test_what_cannot_be_promoted_changes_nothing(root: Path) -> None:
    with pytest.raises(ValueError, match="'best' is no commit, branch, tag or experiment"):
        promote(root, "digits", "best", reason="")
    with pytest.raises(ValueError, match=r"has no dvc\.lock"):
        promote(root, "digits", "HEAD", reason="")
    with pytest.raises(ValueError, match="there is no model 'faces'; there are digits"):
        promote(root, "faces", reason="")
    shutil.rmtree(root / ".dvc" / "cache")
    with pytest.raises(ValueError, match="DVC does not have data/models/digits"):
        promote(root, "digits", reason="")
    assert git(root, "tag") == ""
    assert git(root, "branch", "--list", "champion/*") == ""
    assert champion(root, "digits") is None
    assert "digits  none" in listing(root)
    with pytest.raises(ValueError, match="no champion of digits yet"):
        fetch(root, "digits")


def test_of_two_promotions_at_once_each_is_whole(root: Path) -> None:
    def attempt(revision: str | None) -> str:
        try:
            return promote(root, "digits", revision, reason=str(revision)).name
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor() as threads:
        outcomes = list(threads.map(attempt, [None, "better"]))
    assigned = history(root, "digits")
    assert len(assigned) == sum(outcome.startswith("v") for outcome in outcomes) >= 1
    assert git(root, "rev-parse", "champion/digits") == assigned[-1].version.commit
    assert len(git(root, "tag").split()) == 2 * len(assigned)


def test_the_command_line(root: Path, run: Callable, repository: Path) -> None:
    def call(*words: str, code: int = 0):
        return run("gridflow", "champions", *words, cwd=root, code=code, PYTHONPATH=str(repository))

    assert "digits v1.0.0 is the champion" in call("promote", "digits", "--reason", "a start").stdout
    assert "a start" in call("show", "digits").stdout
    assert "error: digits v1.0.0 is the first version" in call("rollback", "digits", code=1).stderr
