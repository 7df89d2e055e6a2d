"""New images with boxes are compared with the old ones: classes, sizes and numbers of objects, and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cnn_core.annotations.tables import images_table, objects_table
from cnn_core.inbox.objects.drift import object_sample
from tasks.inbox import main
from tests.helpers.object_deliveries import coco, request, ultralytics
from tests.helpers.object_formats import HEIGHT, WIDTH

EVEN = range(1000, 1080, 2)  # pictures of cats alone


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco(tmp_path_factory.mktemp("drift") / "base", range(80))


def more_objects(folder: Path) -> Path:
    """Each picture shows both classes three times."""
    delivered = ultralytics(folder, range(1000, 1040))
    for label in delivered.rglob("*.txt"):
        _, _, *sides = label.read_text().split()
        label.write_text("".join(f"{n % 2} {0.2 + n / 10} {' '.join(sides)}\n" for n in range(6)))
    return delivered


@pytest.mark.parametrize(
    ("name", "drifted"),
    [
        ("alike", set()),
        ("cats", {"class balance (dog 51.7% -> 0.0%"}),
        ("large", {"object size (median 0.316 -> 0.794 of the picture's side"}),
        ("many", {"objects an image (mean 1.00 -> 6.00"}),
        ("none", {"objects an image (mean 1.00 -> 0.00"}),
    ],
)
def test_each_kind_of_drift_is_named_and_alike_images_raise_no_alarm(
    tmp_path: Path, source: Path, name: str, drifted: set[str]
) -> None:
    delivered = {
        "alike": lambda folder: coco(folder, range(1000, 1040)),
        "cats": lambda folder: coco(folder, EVEN),
        "large": lambda folder: coco(folder, range(1000, 1040), box=(10, 10, 150, 100)),
        "many": more_objects,
        "none": lambda folder: no_objects(ultralytics(folder, range(1000, 1040))),
    }[name](tmp_path / "in")
    answer = main(request(source, tmp_path / "grown", [delivered], drift="warn"))
    (verdict,) = answer["deliveries"].values()
    assert verdict["accepted"]
    text = " ".join(verdict["warnings"])
    assert all(words in text for words in drifted), text
    assert text.count("; distance ") == len(drifted), text
    if drifted:
        assert text.startswith("in differs from the 80 images there are in ")
        answer = main(request(source, tmp_path / "again", [delivered], drift="stop"))
        (verdict,) = answer["deliveries"].values()
        assert not verdict["accepted"]
        assert verdict["reason"].endswith("If that is as it should be, hand it in with drift: warn")
        assert not (tmp_path / "again").exists()


def no_objects(folder: Path) -> Path:
    for label in folder.rglob("*.txt"):
        label.write_text("")
    return folder


def test_too_few_images_tell_nothing(tmp_path: Path, source: Path) -> None:
    answer = main(request(source, tmp_path / "grown", [coco(tmp_path / "in", range(1000, 1005))], drift="stop"))
    (verdict,) = answer["deliveries"].values()
    assert verdict["accepted"]
    assert verdict["warnings"] == ["no drift check: 5 new and 60 old images are too few to find a drift (least: 10)"]


def test_a_sample_counts_the_objects_of_its_own_images() -> None:
    images = images_table([{"image_id": name, "file": name, "width": WIDTH, "height": HEIGHT} for name in "abc"])
    box = dict(zip(("x1", "y1", "x2", "y2"), (0.0, 0.0, 50.0, 100.0), strict=True))
    pairs = (("c", 1), ("a", 0), ("c", 1), ("z", 0))
    rows = [{"image_id": name, "class_id": number, "class_name": "x", **box} for name, number in pairs]
    sample = object_sample(images, objects_table(pd.DataFrame(rows)), np.zeros((3, 3)), 2)
    assert sample.counts.tolist() == [[1, 0], [0, 0], [0, 2]]
    assert [sizes.tolist() for sizes in sample.sizes] == [[0.5], [], [0.5, 0.5]]
    assert len(sample.take(np.array([2])).sizes[0]) == 2
