"""Retraining of a detector whose set grows, by its source and by its inbox, on a small real repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.registry.data_versions import data_version
from flows.registry.models import champion
from flows.repository.git import git
from tests.helpers.object_deliveries import coco, voc
from tests.helpers.object_repository import make_objects

pytestmark = [pytest.mark.xdist_group("retrain-objects"), pytest.mark.nightly, pytest.mark.timeout(1800)]
EPOCH = (1_600_000_000, 1_600_000_000)


def test_a_detector_is_retrained_with_what_its_own_set_gained(
    tmp_path: Path, run: Callable, repository: Path, server: str
) -> None:
    root = make_objects(tmp_path / "small", run, repository)

    def retrain(*arguments: str) -> str:
        command = ("gridflow", "retrain", "detector", *arguments)
        done = run(*command, cwd=root, timeout=900, PYTHONPATH=str(repository), PREFECT_API_URL=server)
        return done.stdout.splitlines()[-1]

    def images() -> int:
        return champion(root, "detector").notes["metrics"]["n"]

    assert retrain().startswith("promoted: detector v1.0.0. There was no champion of detector yet.")
    first = images()
    assert retrain() == "nothing new; the last time: v1.0.0 was promoted"

    coco(root / "data/sources/things", range(150))  # the source grew at the same path
    message = retrain()
    assert message.startswith("kept: The challenger is not better at all: mAP50 0."), message
    assert retrain().startswith("nothing new; the last time: kept. ")

    inbox = root / "data/inbox/things"
    voc(inbox / "new", range(500, 540))
    for file in (inbox / "new", *(inbox / "new").iterdir()):
        os.utime(file, EPOCH)
    message = retrain("--drift", "off", "--set", "train_detector.detector.lr0=0.9")
    assert message.startswith("promoted: detector v2.0.0. The challenger is better: mAP50 0."), message
    assert images() > first
    assert (inbox / "done/new").is_dir()
    version = data_version(root, "things")
    assert (version.number, version.notes["images"]) == (1, 40)
    assert version.notes["md5"] in git(
        root, "show", f"{champion(root, 'detector').commit}:data/sources/things-grown.dvc"
    )
    assert git(root, "status", "--porcelain") == ""
