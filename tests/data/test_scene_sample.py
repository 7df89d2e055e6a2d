"""What we expect of the generated scenes as a data set: Kaggle's layout, and no task for a linear model."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cnn_core.synthetic.scenes import SCENES
from tasks import sample

PARAMS = sample.SceneSampleParams(
    content="generated_scenes", train_per_class=2, test_per_class=1, unlabelled=3, side=48, seed=0
)


def write(folder: Path, **changes: int) -> dict[str, bytes]:
    """relative name -> bytes of a small sample"""
    folder.mkdir()
    sample.write_scenes(dataclasses.replace(PARAMS, **changes), folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    sample.write_scenes(
        sample.SceneSampleParams(
            content="generated_scenes", train_per_class=100, test_per_class=40, unlabelled=0, side=64, seed=0
        ),
        folder,
    )
    return folder


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """float (N, 16 * 16 * 3) and the numbers of the classes (N,)"""
    files = sorted(folder.rglob("*.jpg"))
    small = [Image.open(file).resize((16, 16), Image.Resampling.BOX) for file in files]
    labels = [list(SCENES).index(file.parent.name) for file in files]
    return np.stack([np.asarray(image, float).ravel() for image in small]), np.array(labels)


def test_kaggles_layout_and_no_other_file(tmp_path):
    files = write(tmp_path / "a")
    assert Counter(name.rsplit("/", 1)[0] for name in files) == {
        **{f"seg_train/seg_train/{kind}": 2 for kind in SCENES},
        **{f"seg_test/seg_test/{kind}": 1 for kind in SCENES},
        "seg_pred/seg_pred": 3,
    }
    assert {name.rsplit("/", 1)[1] for name in files} == {f"generated-0000{i}.jpg" for i in (1, 2, 3)}
    with Image.open(tmp_path / "a/seg_pred/seg_pred/generated-00003.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))


def test_more_images_change_none_and_no_two_are_the_same(tmp_path):
    few, more = write(tmp_path / "few"), write(tmp_path / "more", train_per_class=3, test_per_class=2, unlabelled=5)
    assert few.items() < more.items()
    assert len(set(more.values())) == len(more)


def test_the_seed_decides_the_bytes(tmp_path):
    first, again, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", seed=1)
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_a_linear_model_does_not_solve_it_and_is_no_chance(made):
    """Chance is 1 in 6. Measured 0.49 to 0.55 over seeds, sizes and strengths of the penalty near the best one."""
    images, labels = load(made / "seg_train")
    tests, truth = load(made / "seg_test")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200)).fit(images, labels)
    accuracy = model.score(tests, truth)
    assert 0.3 < accuracy < 0.62, accuracy
