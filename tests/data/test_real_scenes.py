"""What we expect of real scenes: some hundred images of Kaggle's Intel set, where they lie beside the checkout."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cnn_core.data.ingestion import IngestParams, ingest
from cnn_core.data.raw import RawRows, read_manifest, read_quarantine, read_raw
from cnn_core.images.decoding import decode_rgb
from tasks.ingest import layouts

# Pairs that a person sees to be one photograph, or two frames of one burst.
IN_TRAIN = {
    "mountain/1743.jpg": "mountain/7865.jpg",
    "forest/4165.jpg": "forest/4306.jpg",
    "glacier/1013.jpg": "glacier/6528.jpg",
    "sea/3361.jpg": "sea/6354.jpg",
}
OF_TEST = {
    "forest/6099.jpg": "forest/11448.jpg",
    "glacier/855.jpg": "glacier/3647.jpg",
}
# Pairs that are much alike, and are not.
DIFFERENT = {"sea/12752.jpg": "sea/1570.jpg", "mountain/42.jpg": "mountain/6709.jpg"}
EACH = 30  # further images of each class and part


@pytest.fixture(scope="module")
def source(repository, tmp_path_factory) -> Path:
    path = repository / "../shared/data/intel-scenes.zip"
    if not path.exists():
        pytest.skip("the real images (../shared/data/intel-scenes.zip) are not on this machine")
    folder = tmp_path_factory.mktemp("scenes")
    train = {*IN_TRAIN, *IN_TRAIN.values(), *OF_TEST, *DIFFERENT, *DIFFERENT.values()}
    wanted = {f"seg_train/seg_train/{name}" for name in train}
    wanted |= {f"seg_test/seg_test/{name}" for name in OF_TEST.values()}
    taken: Counter[str] = Counter()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            place = name.rpartition("/")[0]
            taken[place] += 1
            if name in wanted or taken[place] <= EACH:
                archive.extract(name, folder)
    return folder


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "scenes"
    fractions = {"val_fraction": 0.2, "test_fraction": 0.1, "max_bad_fraction": 0.0}
    params = IngestParams(source=str(source), seed=0, near_duplicates=True, **fractions)
    ingest("scenes", layouts()["images"], params, folder)
    return folder


@pytest.fixture(scope="module")
def raw(made) -> RawRows:
    return read_raw(made)


def test_every_image_arrives_with_its_bytes(source, made, raw):
    manifest = read_manifest(made)
    assert manifest["classes"] == ["buildings", "forest", "glacier", "mountain", "sea", "street"]
    lost = "near-duplicates of test images are left out of train: 1 of forest, 1 of glacier"
    assert manifest["warnings"] == [lost]
    assert manifest["refused"]["total"] == 0
    assert manifest["rows_read"] == sum(path.is_file() for path in source.rglob("*"))
    for id_, image, label in zip(raw.ids, raw.images, raw.labels, strict=True):
        part, *inside = id_.split("/")
        assert image == (source / part / part).joinpath(*inside).read_bytes()
        assert label == (-1 if part == "seg_pred" else manifest["classes"].index(inside[0]))


def test_values(raw):
    pixels = [decode_rgb(image) for image in raw.images[::10]]
    assert {image.shape for image in pixels} == {(100, 100, 3)}
    means = np.array([image.mean() for image in pixels])
    assert 90 < means.mean() < 150
    assert np.std(pixels, axis=(1, 2)).min() > 3, "none is blank"


def test_the_publishers_test_part_is_the_test_split(raw):
    for id_, split in zip(raw.ids, raw.splits, strict=True):
        assert (split == "test") == id_.startswith("seg_test/")
        assert (split == "unlabelled") == id_.startswith("seg_pred/")
    assert {"train", "val"} < set(raw.splits)


def test_train_is_clean_of_test(made):
    found = {entry["id"]: entry["detail"] for entry in read_quarantine(made)}
    assert found.keys() == {f"seg_train/{name}" for name in OF_TEST}
    for train, test in OF_TEST.items():
        assert f"seg_test/{test}" in found[f"seg_train/{train}"]


def test_the_same_photograph_is_found_and_only_that(made, raw):
    assert read_manifest(made)["duplicates"]["near"] == len(IN_TRAIN) + len(OF_TEST)
    splits = dict(zip(raw.ids, raw.splits, strict=True))
    for first, second in IN_TRAIN.items():
        assert splits[f"seg_train/{first}"] == splits[f"seg_train/{second}"]
    assert all(f"seg_train/{name}" in splits for pair in DIFFERENT.items() for name in pair)
