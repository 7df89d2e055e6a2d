"""A folder through the champions, on a small real repository (about 50 s of CPU)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from cnn_core.annotations.tables import read_objects
from cnn_core.params import read_yaml
from flows.batch import champions_of, check_folders, choose_steps
from flows.registry.promotion import promote
from flows.repository.git import git
from flows.repository.parameters import patch_params
from tests.helpers.champion_repository import make, set_skill

pytestmark = [pytest.mark.xdist_group("pipeline"), pytest.mark.slow, pytest.mark.timeout(3000)]


def test_the_champion_labels_a_folder_and_the_checkout_stays_as_it_is(
    tmp_path: Path, run: Callable, repository: Path, server: str
) -> None:
    root = make(tmp_path / "small", run, repository)
    set_skill(root, 0.9)
    run("dvc", "repro", "-q", "train@digits", cwd=root, PYTHONPATH=str(repository))
    images = tmp_path / "my images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(b"x")

    def batch(*words: str, code: int = 0) -> str:
        done = run("gridflow", "batch", str(images), "--model", "digits", *words, cwd=root,
                   code=code, PYTHONPATH=str(repository), PREFECT_API_URL=server)  # fmt: skip
        return done.stdout.splitlines()[-1]

    assert "predict@digits needs a champion of digits, and there is none yet" in batch("--step", "classify", code=1)
    promote(root, "digits", reason="a start", metrics={})
    set_skill(root, 0.5)  # what the checkout holds now does not count
    before = git(root, "status", "--porcelain", "--untracked-files=all")
    batch("--step", "classify", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "digits" / "predictions.csv").read_text() == "a.png,0.9\nb.png,0.9\n"
    origin = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert origin["models"]["predict@digits"].startswith("digits v1.0.0 (")
    assert origin["experiment"].startswith("batch-")
    batch("--step", "classify")
    assert len(list((root / "data" / "batch").glob("batch-*/digits/predictions.csv"))) == 1
    assert git(root, "status", "--porcelain", "--untracked-files=all") == before
    assert "there is no model for detection here" in batch("--step", "detect", code=1)


def test_which_model_does_a_step(repository: Path, tmp_path: Path, run: Callable) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(repository / name, tmp_path)
    for package in ("tasks", "cnn_core"):
        (tmp_path / package).symlink_to(repository / package)
    run("git", "init", "-q", cwd=tmp_path)
    detect, segment = choose_steps(tmp_path, ["detect", "segment"], [], [])
    assert (detect.model.name, segment.model.name) == ("detector", "segmenter")
    assert champions_of(tmp_path, [detect], ["detect.detector.weights=x.pt"]) == ([], {"detect@detector": "x.pt"})
    assert detect.overrides == ["detect.detector.match=*"]
    assert segment.overrides == [
        "segment.segmenter.match=*",
        "segment.segmenter.prompt=boxes",
        "segment.segmenter.prompts=data/predictions/detector",
    ]
    patch_params(tmp_path, None, ["detect.detector.match=part-test-*"])  # as an entry of `gridflow new` has it
    patch_params(tmp_path, None, detect.overrides)
    assert read_yaml(tmp_path / "params.yaml")["detect"]["detector"]["match"] == "*"
    with pytest.raises(ValueError, match="name one model for classification: digits, scenes"):
        choose_steps(tmp_path, ["classify"], [], [])
    (classify,) = choose_steps(tmp_path, ["classify"], ["scenes", "detector"], [])
    assert (classify.stage, classify.section, classify.output) == (
        "predict@scenes", "predict.scenes", "data/predictions/scenes",
    )  # fmt: skip
    assert classify.overrides == []
    with pytest.raises(
        ValueError, match=r"segment takes its prompts from detect: .* or segment.segmenter.prompts=FILE"
    ):
        choose_steps(tmp_path, ["segment"], [], [])
    assert choose_steps(tmp_path, ["segment"], [], ["segment.segmenter.prompts=a.csv"])


@pytest.mark.nightly
def test_the_champions_detect_segment_and_classify_photographs(
    checkout: Path, tmp_path: Path, run: Callable, server: str
) -> None:
    """The real stages with the real networks of the tiny recipe: no good, so every box counts."""
    for model in ("digits", "detector", "segmenter"):
        promote(checkout, model, reason="a start")
    images = tmp_path / "photographs"
    images.mkdir()
    for path in sorted((checkout / "data/composed/numbers/images/test").iterdir())[:3]:
        shutil.copy(path, images)
    before = git(checkout, "status", "--porcelain")
    steps = ["--step", "detect", "--step", "segment", "--step", "classify"]
    words = [*steps, "--model", "digits", "--out", str(tmp_path / "out")]
    settings = [
        "--set",
        "detect.detector.conf=0.0",
        "--set",
        "detect.detector.max_det=4",
        "--set",
        "segment.segmenter.conf=0.0",
    ]
    run("gridflow", "batch", str(images), *words, *settings, cwd=checkout, PREFECT_API_URL=server)
    boxes, masks = (objects(tmp_path / "out" / model) for model in ("detector", "segmenter"))
    assert 0 < len(boxes) <= 12
    assert set(boxes["image_id"]) >= set(masks["image_id"])
    dropped = len(pd.read_parquet(tmp_path / "out" / "segmenter" / "dropped.parquet"))
    assert len(masks) + dropped == len(boxes)
    assert masks["rle"].notna().all()
    assert len(pd.read_csv(next((tmp_path / "out" / "digits").glob("*.csv")))) == 3
    origin = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert {name.split()[0] for name in origin["models"].values()} == {"digits", "detector", "segmenter"}
    assert git(checkout, "status", "--porcelain") == before


def objects(folder: Path) -> pd.DataFrame:
    return pd.concat([read_objects(path) for path in sorted(folder.glob("part-*.parquet"))])


def test_nothing_that_a_person_put_beside_the_results_is_lost(tmp_path: Path) -> None:
    images, target = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    assert check_folders(images, target) == images
    (target / "detect").mkdir(parents=True)
    (target / "batch.json").write_text('{"folders": ["detect"]}')
    assert check_folders(images, target) == images
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="also holds notes\\.txt, which would be lost"):
        check_folders(images, target)
    (target / "notes.txt").unlink()
    for folder in (target / "detect", target):
        with pytest.raises(ValueError, match="nor around it"):
            check_folders(folder, target)
