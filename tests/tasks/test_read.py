"""The stage read: what it leaves, the ways it measures, the images it joins, and what it says is missing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cnn_core.annotations.tables import read_annotations, read_objects
from tasks import read
from tasks.common.predictions import in_other_ids, read_predictions, same_images
from tests.helpers.model_folders import digit_model
from tests.helpers.prediction_files import found_in, numbers_set, write_predictions

TEXTS = ["12", "9", "405", ""]
VALUES = {
    "source": "segment", "images": "set/images/test", "boxes": "detect", "truth": "set", "split": "test",
    "weights": "model", "tta": 1, "ink": "contrast", "islands": 0.2, "combine": "cnn", "conf": 0.25,
    "duplicate_iou": 0.5, "match_iou": 0.5, "worst": 4,
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    set_ = numbers_set(tmp_path / "set", TEXTS)
    images, truth, _ = read_annotations(set_, "test")
    images = images.assign(image_id=[name.rpartition("/")[2] for name in images["image_id"]])
    images = images[["image_id", "file", "width", "height"]]
    masks = found_in(truth, masks=True)
    again = masks[:1].assign(class_id=7, class_name="7", prompt_score=0.3, prompt_id=9)  # the first digit once more
    write_predictions(tmp_path / "segment", images, pd.concat([masks, again]))
    write_predictions(tmp_path / "detect", images, found_in(truth, masks=False)[1:])  # the first is missed
    digit_model(tmp_path / "model")
    return tmp_path


def run(**changes: object) -> dict:
    Path("params.yaml").write_text(yaml.safe_dump({"read": {"digits": VALUES | changes}}))
    read.main("digits")
    return json.loads(Path("data/metrics/read-digits.json").read_text())


class Oracle:
    """A classifier that knows each glyph's digit by the order that they come in."""

    def __init__(self, names: str) -> None:
        self.names = names

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (1, 28, 28)
        assert (images.max((1, 2, 3)) == 255).all()  # each has its ink
        found = np.full((len(images), 10), 0.01, np.float32)
        found[np.arange(len(images)), list(map(int, self.names[-len(images) :]))] = 0.91
        return found


def test_it_reads_and_measures_three_ways(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read.Classifier, "__call__", Oracle("129405").__call__, raising=True)
    monkeypatch.setattr(read.Classifier, "names", "129405", raising=False)
    metrics = run()
    assert (metrics["images"], metrics["digits"], metrics["dropped"]) == (4, 6, 1)
    assert (metrics["true_digits"], metrics["found_and_read"], metrics["plates_right"]) == (6, 1, 1)
    ways = metrics["ways"]
    assert set(ways) == {"masks", "boxes", "true_masks"}
    assert ways["boxes"]["detector"]["found_and_read"] == pytest.approx(5 / 6)
    assert ways["boxes"]["detector"]["plates_right"] == 3 / 4
    assert set(ways["masks"]) == {"cnn", "detector", "product"}
    assert ways["true_masks"]["cnn"]["found"] == 1
    plates = pd.read_csv("data/predictions/digits-read/plates.csv", dtype=str, keep_default_na=False)
    assert plates["text"].tolist() == TEXTS
    assert plates["image_id"].tolist() == ["000001", "000002", "000003", "000004"]
    digits = read_objects("data/predictions/digits-read/digits.parquet")
    assert digits["class_name"].tolist() == list("129405")
    assert digits["position"].tolist() == [0, 1, 0, 0, 1, 2]
    assert digits["score"].tolist() == pytest.approx([0.91] * 6)
    assert {"detected", "sure", "cnn", "file", "prompt_id"} <= set(digits)
    manifest = json.loads(Path("data/predictions/digits-read/manifest.json").read_text())
    assert manifest["counts"] == {"images": 4, "digits": 6}
    assert Image.open("data/plots/read-digits-examples.png").width > 600


def test_without_a_truth_and_a_detector_it_only_reads(place: Path) -> None:
    metrics = run(truth="data/weights/none", boxes="data/weights/none", combine="product")
    assert "ways" not in metrics
    assert metrics["digits"] == 6
    assert len(pd.read_csv("data/predictions/digits-read/plates.csv")) == 4


def test_of_a_video_it_reads_the_frames_that_were_segmented(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second frame has its digits elsewhere; at a stride of 2 those are skipped, and #000002 is the fourth."""
    frames = [cv2.imread(str(place / f"set/images/test/00000{number}.png")) for number in (1, 2, 3)]
    writer = cv2.VideoWriter(str(place / "film.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 10, (96, 96))
    for frame in frames:
        writer.write(np.roll(frame, 40, axis=1))
        writer.write(frame)
    writer.release()
    source = read_predictions("segment", made_by="segment")
    names = {f"00000{number}": f"film#00000{number}" for number in (1, 2, 3)}
    images, objects = in_other_ids(source.images, names), in_other_ids(source.objects, names)
    objects = objects.drop(columns=["file", "model_sha256"])
    write_predictions(place / "film", images, objects, listed={"match": "*", "vid_stride": 2})
    glyphs = []

    def classified(_: object, shown: np.ndarray) -> np.ndarray:
        glyphs.append(shown.astype(int))
        return Oracle("129405")(shown)

    monkeypatch.setattr(read.Classifier, "__call__", classified)
    alone = {"truth": "data/weights/none", "boxes": "data/weights/none"}
    run(**alone)
    assert run(source="film", images="film.avi", **alone)["digits"] == 6
    of_pictures, of_frames = glyphs
    assert np.abs(of_pictures - of_frames).mean() < 3  # a video's colours are rounded
    assert pd.read_csv("data/predictions/digits-read/plates.csv", dtype=str)["text"].tolist() == TEXTS[:3]
    with pytest.raises(ValueError, match=r"detect counted a video's frames with vid_stride 1, here it is 2: .* Set"):
        run(source="film", images="film.avi", truth="data/weights/none")


def test_an_image_that_could_not_be_read_counts_as_missed(place: Path) -> None:
    source = read_predictions("segment", made_by="segment")
    kept = source.images["image_id"] != "000003"
    bad = [{"image_id": "000003", "file": "set/images/test/000003.png", "reason": "damaged", "detail": ""}]
    objects = source.objects[source.objects["image_id"] != "000003"].drop(columns=["file", "model_sha256"])
    write_predictions(place / "some", source.images[kept], objects, bad=bad)
    (place / "set/images/test/notes.txt").write_text("of a person")
    metrics = run(source="some", boxes="data/weights/none")
    assert metrics["true_digits"] == 6
    counted = [metrics[key] for key in ("listed", "images", "bad", "left_out", "unsegmented")]
    assert counted == [5, 3, 1, 1, 0]
    assert metrics["found"] == pytest.approx(3 / 6)
    only = source.images["image_id"] == "000002"
    write_predictions(place / "one", source.images[only], objects[objects["image_id"] == "000002"])
    assert run(source="one")["true_digits"] == 1  # the others were not asked for


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "nowhere"}, "nowhere/manifest.json does not exist; the stage segment writes it"),
        ({"source": "detect"}, "detect holds objects without masks"),
        ({"boxes": "nowhere"}, "the stage detect writes it"),
        ({"weights": "nowhere"}, "nowhere/model.json does not exist; the stage train writes it"),
        ({"images": "nowhere"}, "source nowhere does not exist"),
        ({"images": "other"}, r"images of segment are not in other .*name the images that were segmented"),
        ({"truth": "nowhere"}, "nowhere does not exist: name a folder"),
        ({"split": "train"}, "no images of the split 'train'"),
    ],
)
def test_what_is_missing_is_one_sentence(place: Path, change: dict, words: str) -> None:
    (place / "other").mkdir()
    Image.new("RGB", (96, 96)).save(place / "other/x.png")
    with pytest.raises(ValueError, match=words):
        run(**change)
    assert not Path("data/predictions").exists()


def test_images_of_another_size_are_refused(place: Path) -> None:
    Image.new("RGB", (50, 50)).save(place / "set/images/test/000001.png")
    with pytest.raises(ValueError, match="not of the size"):
        run()


def table(**files: str) -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(files), "file": list(files.values())})


def test_images_are_joined_by_their_files() -> None:
    truth = table(t1="a/images/test/1.png", t2="a/images/test/2.png")
    named = ("p", "t")
    assert same_images(table(x="a/images/test/2.png", y="a/images/test/3.png"), truth, named=named) == {"x": "t2"}
    assert same_images(table(x="/else/images/test/1.jpg"), truth, named=named) == {"x": "t1"}
    assert same_images(table(x="else/1.png"), truth, named=named) == {"x": "t1"}
    with pytest.raises(ValueError, match=r"p and t have no image in common: the one is about b/7.png"):
        same_images(table(x="b/7.png"), truth, named=named)
    again = table(t1="a/images/test/1.png", t2="a/images/val/1.png")
    with pytest.raises(ValueError, match="no image in common"):
        same_images(table(x="else/1.png"), again, named=named)
    found = in_other_ids(pd.DataFrame({"image_id": ["x", "y"], "v": [1, 2]}), {"y": "t1"})
    assert found.to_dict("records") == [{"image_id": "t1", "v": 2}]
