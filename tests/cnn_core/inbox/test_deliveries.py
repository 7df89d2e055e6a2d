"""New data: read in every layout, judged, and added so that the old stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_core.data.image_sources import open_images
from cnn_core.data.pixel_sources import open_pixels
from cnn_core.inbox.deliveries import read_delivery, read_source
from cnn_core.inbox.features import last_features
from cnn_core.inbox.growth import SOURCE_FORMATS, grow
from tasks.inbox import main
from tests.helpers.image_files import CLASSES, encoded, intel, put, scene
from tests.helpers.model_folders import digit_model
from tests.helpers.pixel_files import digits, kaggle, mnist, rows, write_rows
from tests.helpers.pixel_files import zipped as zip_digits

DIGITS, SCENES = SOURCE_FORMATS["pixels"], SOURCE_FORMATS["images"]
DRIFT = {"alpha": 0.05, "draws": 50, "most": 60, "least": 10, "seed": 0}


def table(path: Path, count: int, seed: int = 7) -> Path:
    images, labels = digits(count, seed)
    return write_rows(path, rows(images, labels))


def ids(opened) -> dict[str, tuple[str, int]]:
    with opened as source:
        return {
            id_: (getattr(image, "sha256", np.asarray(image).tobytes() if isinstance(image, np.ndarray) else ""), label)
            for batch in source.batches()
            if batch.labels is not None
            for id_, image, label in zip(batch.ids, batch.images, batch.labels.tolist(), strict=True)
        }


@pytest.mark.parametrize("base", ["folder", "zip", "idx"])
@pytest.mark.parametrize("kind", ["csv", "folder", "zip", "images"])
def test_digits_grow_and_the_old_keep_their_names(tmp_path: Path, base: str, kind: str) -> None:
    source = mnist(tmp_path / "idx", 40, 10) if base == "idx" else kaggle(tmp_path / "base", 40, 5)
    source = zip_digits(source, tmp_path / "base.zip", under="inner/") if base == "zip" else source
    before = ids(open_pixels(source))
    delivered = tmp_path / "in"
    if kind == "images":
        for number, (image, label) in enumerate(zip(*digits(12, 7), strict=True)):
            put(delivered / "more" / str(label) / f"{number}.png", encoded(Image.fromarray(image)))
    else:
        path = table(delivered / ("new.csv" if kind == "csv" else "train.csv"), 12)
        delivered = path if kind == "csv" else delivered
    if kind == "zip":
        delivered = zip_digits(delivered, tmp_path / "in.zip")
    content = read_source(DIGITS, source, sample=10)
    assert len(content.labels) == (50 if base == "idx" else 40)
    assert len(content.sample) == 10
    delivery = read_delivery(DIGITS, delivered, content, max_bad_fraction=0.0)
    grow(DIGITS, source, tmp_path / "grown", [("d1", delivery)], content)
    after = ids(open_pixels(tmp_path / "grown"))
    assert len(after) == len(before) + 12
    assert set(before.values()) <= set(after.values())
    if base != "idx":
        assert before.items() <= after.items()


def test_what_is_known_already_is_not_added_and_twice_is_once(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "base", 40, 0)
    content = read_source(DIGITS, source, sample=5)
    images, labels = digits(40)
    new, new_labels = digits(3, 7)
    path = write_rows(
        tmp_path / "in.csv",
        rows(np.concatenate([images[:5], new, new]), np.concatenate([labels[:5], new_labels, new_labels])),
    )
    delivery = read_delivery(DIGITS, path, content, max_bad_fraction=0.0)
    assert (len(delivery.new), delivery.known) == (3, 8)
    with pytest.raises(ValueError, match="nothing new: all of its 5 good images"):
        read_delivery(
            DIGITS, write_rows(tmp_path / "old.csv", rows(images[:5], labels[:5])), content, max_bad_fraction=0
        )


def test_other_labels_for_known_images_are_bad(tmp_path: Path) -> None:
    content = read_source(DIGITS, kaggle(tmp_path / "base", 40, 0), sample=5)
    images, labels = digits(10)
    path = write_rows(tmp_path / "in.csv", rows(images, (labels + 1) % 10))
    with pytest.raises(ValueError, match=r"10 of the 10 images of in\.csv are bad"):
        read_delivery(DIGITS, path, content, max_bad_fraction=0.1)


@pytest.mark.parametrize(
    ("table_bytes", "words"),
    [
        (b"a,b\n1,2\n", "without names for pixels"),
        (b"", "is empty"),
        (b"label,", "without names for pixels"),
    ],
)
def test_a_bad_table_is_refused_with_its_fault(tmp_path: Path, table_bytes: bytes, words: str) -> None:
    content = read_source(DIGITS, kaggle(tmp_path / "base", 20, 0), sample=5)
    with pytest.raises(ValueError, match=words):
        read_delivery(DIGITS, put(tmp_path / "in.csv", table_bytes), content, max_bad_fraction=0.0)


def test_scenes_grow_with_one_class_alone_and_bad_files_are_counted(tmp_path: Path) -> None:
    source = intel(tmp_path / "base", train=3, test=2, pred=1)
    before = ids(open_images(source))
    for number in range(4):
        put(tmp_path / "in" / "sea" / f"{number}.jpg", encoded(scene(900 + number), "JPEG"))
    put(tmp_path / "in" / "seg_test" / "sea" / "t.png", encoded(scene(950)))
    put(tmp_path / "in" / "sea" / "broken.jpg", b"\xff\xd8\xff none")
    put(tmp_path / "in" / "desert" / "x.jpg", encoded(scene(990), "JPEG"))
    content = read_source(SCENES, source, sample=5)
    assert content.tested
    with pytest.raises(ValueError, match="2 of the 7 images of in are bad"):
        read_delivery(SCENES, tmp_path / "in", content, max_bad_fraction=0.1)
    delivery = read_delivery(SCENES, tmp_path / "in", content, max_bad_fraction=0.5)
    assert {entry.reason for entry in delivery.refused} == {"not an image", "in no class folder"}
    grow(SCENES, source, tmp_path / "grown", [("d1", delivery)], content)
    after = ids(open_images(tmp_path / "grown"))
    assert before.items() <= after.items()
    assert {id_ for id_ in after if id_ not in before} == {
        *(f"seg_train/sea/d1-{number:06d}.jpg" for number in range(1, 5)),
        "seg_test/sea/d1-000005.png",
    }


def test_a_source_grows_into_itself(tmp_path: Path) -> None:
    source = kaggle(tmp_path / "base", 20, 4)
    for number in (1, 2):
        content = read_source(DIGITS, source, sample=5)
        delivery = read_delivery(DIGITS, table(tmp_path / f"{number}.csv", 5, seed=number), content, max_bad_fraction=0)
        grow(DIGITS, source, source, [(f"d{number}", delivery)], content)
    assert len(ids(open_pixels(source))) == 30
    assert (source / "test.csv").exists()


def request(tmp_path: Path, deliveries: list[Path], **changes: object) -> dict:
    return {
        "kind": "pixels",
        "source": str(tmp_path / "base"),
        "target": str(tmp_path / "grown"),
        "deliveries": {str(path): path.stem for path in deliveries},
        "max_bad_fraction": 0.01,
        "drift": "off",
        "drift_params": DRIFT,
        "champion": None,
        **changes,
    }


def test_each_delivery_is_judged_alone(tmp_path: Path) -> None:
    kaggle(tmp_path / "base", 40, 0)
    good, again = table(tmp_path / "good.csv", 10), table(tmp_path / "again.csv", 10)
    bad = put(tmp_path / "bad.csv", b"x")
    answer = main(request(tmp_path, [bad, good, again]))
    assert answer["images"] == 10
    assert {Path(path).stem: entry["accepted"] for path, entry in answer["deliveries"].items()} == {
        "bad": False, "good": True, "again": False,
    }  # fmt: skip
    assert len(ids(open_pixels(tmp_path / "grown"))) == 50


@pytest.mark.parametrize("drift", ["warn", "stop"])
def test_drift_warns_or_stops(tmp_path: Path, drift: str) -> None:
    kaggle(tmp_path / "base", 100, 0)
    champion = digit_model(tmp_path / "model")
    images, labels = digits(40, 9)
    same = write_rows(tmp_path / "same.csv", rows(images[:20], labels[:20]))
    dark = write_rows(tmp_path / "dark.csv", rows(images[20:] // 4, labels[20:]))
    answer = main(request(tmp_path, [same, dark], drift=drift, champion=str(champion)))
    assert answer["deliveries"][str(same)]["warnings"] == []
    entry = answer["deliveries"][str(dark)]
    assert entry["accepted"] == (drift == "warn")
    text = entry["reason"] if drift == "stop" else entry["warnings"][0]
    assert text.startswith("dark.csv differs from the 120 images there are in brightness (median 0.")
    assert "features" in text


def test_a_champion_that_cannot_be_used_stops_nobody(tmp_path: Path) -> None:
    kaggle(tmp_path / "base", 100, 0)
    (champion := tmp_path / "model").mkdir()
    (champion / "model.json").write_text("{}")
    new = table(tmp_path / "new.csv", 20)
    entry = main(request(tmp_path, [new], drift="stop", champion=str(champion)))["deliveries"][str(new)]
    assert entry["accepted"]
    assert entry["warnings"][0].startswith("features were not compared: ")


def test_features_are_the_last_layers_input(tmp_path: Path) -> None:
    features = last_features(digit_model(tmp_path / "model"), digits(7)[0], batch=3)
    assert features.shape[0] == 7
    assert features.shape[1] > 1
    with pytest.raises(ValueError, match="takes images of the shape"):
        last_features(tmp_path / "model", np.zeros((2, 28, 28, 3), np.uint8))


def test_scene_classes_are_the_sources_own(tmp_path: Path) -> None:
    assert tuple(read_source(SCENES, intel(tmp_path / "base", train=1, test=0, pred=0), sample=1).classes) == CLASSES


def test_the_table_that_is_read_is_the_one_that_grows(tmp_path: Path) -> None:
    """Of several tables ingest reads the one that lies least deep, whatever their folders are called."""
    source = kaggle(tmp_path / "base", 20, 4)
    older = kaggle(tmp_path / "base/a-backup/", 10, 2)
    before = (older / "train.csv").read_bytes()
    content = read_source(DIGITS, source, sample=5)
    delivery = read_delivery(DIGITS, table(tmp_path / "in.csv", 5, seed=1), content, max_bad_fraction=0)
    grow(DIGITS, source, tmp_path / "grown", [("d1", delivery)], content)
    assert len(ids(open_pixels(tmp_path / "grown"))) == 25
    assert (tmp_path / "grown/a-backup/train.csv").read_bytes() == before


def test_files_beside_the_images_of_a_delivery_are_told(tmp_path: Path) -> None:
    intel(tmp_path / "base", pred=0)
    put(tmp_path / "in/sea/0.webp", encoded(scene(9000), "WEBP"))
    put(tmp_path / "in/sea/0.xml", b"<annotation/>")
    answer = main(request(tmp_path, [tmp_path / "in"], kind="images"))["deliveries"][str(tmp_path / "in")]
    assert (answer["new"], answer["refused"], answer["warnings"]) == (1, 0, ["in has files that are no images: 1 .xml"])
    assert (tmp_path / "grown/seg_train/sea/in-000001.webp").is_file()
