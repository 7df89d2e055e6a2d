"""Retraining where the set has gained, lost or renamed a class, on a small real repository: two minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnn_core.data.splits import assign_split
from cnn_core.images.decoding import pixels_sha256
from flows.registry.models import champion
from flows.registry.promotion import promote
from flows.repository.git import git
from tests.helpers.champion_repository import add_detector, digits, make, set_skill, write_table

pytestmark = [pytest.mark.xdist_group("retrain"), pytest.mark.nightly, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, run: Callable, repository: Path) -> Path:
    root = make(tmp_path_factory.mktemp("classes") / "small", run, repository)
    add_detector(root, run)
    set_skill(root, 0.6)
    run("git", "commit", "-qam", "skill", cwd=root)
    run("dvc", "repro", "-q", "evaluate@digits", "evaluate_detector@detector", cwd=root, PYTHONPATH=str(repository))
    for model in ("digits", "detector"):
        promote(root, model, reason="a start")
    return root


@pytest.fixture(scope="module")
def retrain(root: Path, run: Callable, repository: Path, server: str) -> Callable[..., str]:
    def call(model: str, *arguments: str) -> str:
        done = run("gridflow", "retrain", model, *arguments, cwd=root, timeout=900,
                   PYTHONPATH=str(repository), PREFECT_API_URL=server)  # fmt: skip
        return done.stdout.splitlines()[-1]

    return call


def write_source(root: Path, names: list[str], images: np.ndarray, labels: np.ndarray) -> None:
    source = root / "data/sources/digits"
    write_table(source / "train.csv", images, labels)
    (source / "names.json").write_text(json.dumps(names))


def test_champion_and_challenger_are_compared_on_the_classes_that_both_know(root: Path, retrain: Callable) -> None:
    """0 is gone, 3 is called three now, ten is new; so the others have other numbers."""
    tags = git(root, "tag", "--list")

    images, labels = digits(600, seed=0)
    kept = labels != 0
    more, _ = digits(100, seed=7)
    names = ["1", "2", "4", "5", "6", "7", "8", "9", "ten", "three"]
    now = {str(old): names.index("three" if old == 3 else str(old)) for old in range(1, 10)}
    numbers = np.array([now[str(label)] for label in labels[kept]])
    write_source(root, names, np.concatenate([images[kept], more]), np.r_[numbers, np.full(100, names.index("ten"))])

    keys = {pixels_sha256(image) for image in images[kept]}
    tested = [key for key in keys if assign_split(key, seed=0, val_fraction=0.1, test_fraction=0.4) == "test"]
    n, right = len(tested), sum(int(key[-8:], 16) / 16**8 < 0.6 for key in tested) / len(tested)

    message = retrain("digits", "--set", "train.digits.learning_rate=0.95")
    assert message.startswith("promoted: digits v2.0.0. The challenger is better: 9"), message
    assert f"against {right:.2%} right on {n:,} held-out images" in message
    for sentence in (
        "Compared are the 9 classes that both know. ",
        "The champion's class 3 is called three now: most of its images are the same. ",
        "The set no longer has 0: where the champion answers so, it is a mistake. ",
        "The class ten is new to the champion; the challenger has recall ",
        "images of the other classes are called so. The champion is v1.0.0.",
    ):
        assert sentence in message
    message = retrain("detector", "--set", "train_detector.detector.lr0=0.9")
    assert message.startswith("promoted: detector v2.0.0. The challenger is better: mAP50 0."), message
    assert "The champion's class 3 is called three now" in message
    assert "The set no longer has 0. The class ten is new to the champion; the challenger has AP50 " in message
    assert set(tags.split()) < set(git(root, "tag", "--list").split())


def test_without_a_class_in_common_a_sentence_says_what_to_do(root: Path, retrain: Callable) -> None:
    images, labels = digits(400, seed=9)
    write_source(root, list("abcdefghij"), images, labels)
    before = champion(root, "digits").name
    message = retrain("digits")
    assert message.startswith("kept: Champion and challenger cannot be compared: they have no class in common"), message
    assert "the challenger a, b, c" in message
    assert "gridflow champions promote digits retrain-digits-" in message
    assert champion(root, "digits").name == before
