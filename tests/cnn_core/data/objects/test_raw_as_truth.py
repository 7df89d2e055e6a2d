"""A RAW set of objects is a source like the set that it was ingested from: the same files, boxes and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnn_core.annotations.tables import BOX, read_annotations
from cnn_core.annotations.truth import measured_truth, read_truth
from cnn_core.data.ingestion import IngestParams
from cnn_core.data.objects.ingestion import ingest_objects
from cnn_core.detection.training.data import open_source
from cnn_core.segmentation.evaluation.prompted_masks import read_masked_truth
from cnn_core.segmentation.training.data import load_masks
from cnn_core.synthetic.house_numbers import compose
from tests.data.test_composed import params as compose_params
from tests.data.test_composed import write_digits
from tests.helpers.detection_sets import detector_params, rectangles
from tests.helpers.stages import finish, start


def ingested(source: Path, folder: Path) -> Path:
    params = IngestParams(
        source=str(source),
        kind="auto",
        val_fraction=0.1,
        test_fraction=0.1,
        seed=0,
        max_bad_fraction=0.0,
        near_duplicates=False,  # the pictures look alike
    )
    ingest_objects(folder.name, params, folder)
    return folder


def extents(text: str) -> np.ndarray:
    """Class and box of each line; Ultralytics takes a polygon's extent for its box."""
    rows = []
    for line in text.splitlines():
        label, *values = map(float, line.split())
        points = np.reshape(values, (-1, 2))
        if len(points) == 2:
            points = np.stack([points[0] - points[1] / 2, points[0] + points[1] / 2])
        rows.append([label, *points.min(axis=0), *points.max(axis=0)])
    return np.array(rows)


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("composed")
    write_digits(folder / "digits")
    compose(compose_params(folder / "digits"), folder / "numbers")
    return folder / "numbers"


@pytest.fixture(scope="module")
def raw(composed, tmp_path_factory) -> Path:
    return ingested(composed, tmp_path_factory.mktemp("raw") / "numbers")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_composed_set_is_the_same_as_raw(composed, raw, split):
    direct, through = read_annotations(composed, split), read_truth(raw, split)
    assert [Path(file).name for file in through[0]["file"]] == [Path(file).name for file in direct[0]["file"]]
    for one, other in zip(direct[0]["file"], through[0]["file"], strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()
    assert through[2] == direct[2]
    for column in ("class_id", "class_name", "rle"):
        assert through[1][column].tolist() == direct[1][column].tolist()
    assert np.array_equal(through[1][BOX].to_numpy(), direct[1][BOX].to_numpy())


def test_detectors_and_segmenters_learn_the_same_from_raw(composed, raw):
    for outlines in (False, True):
        direct, through = (open_source(source, outlines=outlines) for source in (composed, raw))
        assert direct.names == through.names
        for part in ("train", "val"):
            pairs = list(zip(getattr(direct, part), getattr(through, part), strict=True))
            assert all(Path(one).read_bytes() == Path(other).read_bytes() for one, other in pairs)
            for one, other in pairs:
                assert extents(direct.labels[one]) == pytest.approx(extents(through.labels[other]), abs=1e-6)
                assert not outlines or direct.labels[one] == through.labels[other]
    direct, through = (load_masks(source, "train", imgsz=96) for source in (composed, raw))
    assert np.array_equal(direct.images, through.images)
    assert direct.rles == through.rles


def test_the_report_and_an_evaluation_read_raw_from_any_folder(composed, raw, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images, objects, _ = measured_truth(raw.parent, raw.name, "test", "none.csv")
    assert len(images) == 4
    assert all(Path(file).is_file() for file in images["file"])
    assert len(read_masked_truth(raw, "test")[1]) == len(objects)


def test_a_split_that_raw_lacks_is_named(tmp_path):
    raw = ingested(rectangles(tmp_path / "set"), tmp_path / "raw")
    with pytest.raises(ValueError, match="no images of the split 'test'; it has train, val"):
        read_truth(raw, "test")


@pytest.mark.nightly
def test_ingest_and_then_train_detector_give_the_figures_of_the_direct_source(tmp_path):
    figures = []
    source = rectangles(tmp_path / "set", train=48, val=8)
    for name in ("direct", "raw"):
        folder = tmp_path / name
        folder.mkdir()
        section = {"source": str(source), "kind": "auto", "val_fraction": 0.1, "test_fraction": 0.1, "seed": 0}
        section |= {"max_bad_fraction": 0.0, "near_duplicates": False}
        trained = detector_params(source="data/raw/things" if name == "raw" else str(source), epochs=3)
        (folder / "params.yaml").write_text(
            yaml.safe_dump({"ingest": {"things": section}, "train_detector": {"detector": trained}})
        )
        if name == "raw":
            finish(start(folder, stage="ingest things"))
        finish(start(folder, stage="train_detector detector"))
        metrics = json.loads((folder / "data/metrics/train_detector-detector.json").read_text())
        figures.append([metrics[key] for key in ("mAP50", "mAP50-95", "images", "listed")])
    assert figures[0] == pytest.approx(figures[1], abs=1e-4)
