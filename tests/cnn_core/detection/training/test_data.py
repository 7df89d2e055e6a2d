"""What a detector is trained on: any data set of Ultralytics or COCO, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cnn_core.annotations.coco import to_coco
from cnn_core.annotations.yolo_labels import read_yolo
from cnn_core.detection.training.data import content_sha256, open_source
from tests.helpers.detection_sets import CLASSES, rectangles


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("set"))


def test_a_source_may_be_a_folder_its_data_yaml_or_a_coco_json(tmp_path, data):
    folder, file = (open_source(source, outlines=False) for source in (data, data / "data.yaml"))
    assert folder == file
    assert (len(folder.train), len(folder.val), folder.names) == (12, 4, list(CLASSES))
    images, objects, classes = read_yolo(data / "data.yaml", "train")
    images["file"] = images["file"].map(lambda name: str(Path(name).absolute()))
    (tmp_path / "all.json").write_text(json.dumps(to_coco(images, objects, classes)))
    opened = open_source(tmp_path / "all.json", outlines=False)
    assert opened.names == list(CLASSES)
    assert len(opened.val) == 2  # of 12, a tenth, rounded up
    assert set(opened.train + opened.val) == set(folder.train)
    for file in opened.train:
        label, true = opened.labels[file].split(), folder.labels[file].split()
        assert [float(value) for value in label] == pytest.approx([float(value) for value in true], abs=1e-5)
    assert content_sha256(open_source(tmp_path / "all.json", outlines=False)) == content_sha256(opened)


def test_of_two_coco_files_the_second_validates(tmp_path, data):
    for split in ("train", "val"):
        images, objects, classes = read_yolo(data / "data.yaml", split)
        images["file"] = images["file"].map(lambda name: str(Path(name).absolute()))
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(to_coco(images, objects, classes)))
    opened = open_source(tmp_path / "instances_train.json", outlines=False)
    assert (len(opened.train), len(opened.val)) == (12, 4)


def test_a_changed_label_and_a_changed_byte_of_an_image_change_the_hash(tmp_path):
    folder = rectangles(tmp_path / "a")
    before = content_sha256(open_source(folder, outlines=False))
    label = folder / "labels/train/3.txt"
    text = label.read_text()
    label.write_text(text.replace("0", "1", 1))
    assert content_sha256(open_source(folder, outlines=False)) != before
    label.write_text(text)
    image = folder / "images/val/1.png"
    content = bytearray(image.read_bytes())
    content[-20] ^= 1  # of the same length
    image.write_bytes(content)
    assert content_sha256(open_source(folder, outlines=False)) != before


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nothing", "does not exist: name a folder with a data.yaml"),
        (lambda folder: folder, "has no data.yaml"),
        (lambda folder: edited(folder, val="images/elsewhere"), "images/elsewhere does not exist"),
        (lambda folder: edited(folder, train=None), "has no split train; it has val"),
        (lambda folder: unlabelled(folder), "none of its training images has labels"),
        (lambda folder: folder / "a.json", "does not exist: name a COCO JSON file"),
    ],
)
def test_a_source_that_cannot_be_learned_from_is_said_in_one_sentence(tmp_path, make, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        open_source(make(tmp_path), outlines=False)
    assert words in str(raised.value)


def edited(folder, **changes):
    file = rectangles(folder / "set") / "data.yaml"
    content = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return file


def unlabelled(folder):
    file = rectangles(folder / "set") / "data.yaml"
    for label in (folder / "set/labels/train").iterdir():
        label.unlink()
    return file
