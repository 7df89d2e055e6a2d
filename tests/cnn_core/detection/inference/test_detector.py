"""The detector gives what Ultralytics gives for one image at a time, whatever the batch and whatever runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cnn_core.annotations.masks import decode_mask
from cnn_core.detection.inference.detector import Detector
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import DetectorParams
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import list_media
from cnn_core.images.reader import Reader
from tests.helpers.detector_files import agree, photograph, write_detector
from tests.helpers.examples import run_examples

SIDE = 96
SHAPES = [(72, 96), (96, 72), (96, 96), (144, 192), (54, 96), (200, 120), (24, 240), (32, 48)]
NETWORK = "cnn_core/detection/training/networks/small.yaml"


def parameters(**changes: object) -> DetectorParams:
    values = {"imgsz": 0, "conf": 0.25, "iou": 0.7, "max_det": 3000, "classes": (), "agnostic_nms": False}
    return DetectorParams(**{**values, "half": "auto", "int8": False, **changes})


def detector(weights: Path, backend: str = "torch", batch: int = 0, **changes: object) -> Detector:
    return Detector(
        weights,
        parameters(**changes),
        backend=backend,
        device=torch.device("cpu"),
        threads=1,
        cache=weights.parent / "engines",
        settings=weights.parent,
        batch=batch,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("weights") / "small.pt", NETWORK, imgsz=SIDE)


@pytest.fixture(scope="module")
def reference(weights: Path):
    """What Ultralytics predicts; a model of its own for each set of options, which it would keep for the next call."""
    from ultralytics import YOLO

    models: dict[str, YOLO] = {}

    def call(image, **options):
        if (key := str(options)) not in models:
            models[key] = YOLO(weights)
        return models[key].predict(image, verbose=False, max_det=3000, **options)[0]

    return call


def photographs(count: int) -> list[np.ndarray]:
    return [photograph(*SHAPES[number % len(SHAPES)], number) for number in range(count)]


def test_batches_change_nothing(weights: Path, reference) -> None:
    images = photographs(24)
    results = [reference(image) for image in images]
    assert sum(map(len, results)) > 100
    for batch in (1, 5):
        for result, found in zip(results, detector(weights, batch=batch)(images), strict=True):
            assert agree(result, found.boxes, found.scores, found.classes)
            assert (found.height, found.width) == result.orig_shape


@pytest.mark.parametrize(
    "options",
    [
        {"conf": 0.6, "iou": 0.3, "imgsz": 96},
        {"agnostic_nms": True},
        {"classes": [3, 23, 37]},
        {"imgsz": 200},  # no multiple of the stride
    ],
)
def test_the_parameters_mean_what_they_mean_there(weights: Path, reference, options: dict) -> None:
    images = photographs(8)
    own = options | ({"classes": tuple(options["classes"])} if "classes" in options else {})
    for image, found in zip(images, detector(weights, **own)(images), strict=True):
        assert agree(reference(image, **options), found.boxes, found.scores, found.classes)


def test_files_of_every_kind_are_read_as_ultralytics_reads_them(weights: Path, reference, tmp_path: Path) -> None:
    image = Image.fromarray(photograph(120, 160, 3)[..., ::-1])
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=turned)
    image.convert("L").save(tmp_path / "grey.png")
    image.convert("P").save(tmp_path / "palette.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.save(tmp_path / "plain.bmp")
    image.save(tmp_path / "plain.webp")
    image.save(tmp_path / "plain.tif")
    deep = photograph(120, 160, 5).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "deep.tif"), deep)
    (part,) = list_media(tmp_path).parts(100)
    seen = list(detector(weights).stream(Reader()(part)))
    assert len(seen) == 10
    for entry, _, found in seen:
        assert isinstance(found, Detections), entry.file
        result = reference(entry.file)
        assert result.orig_shape == (found.height, found.width), entry.file
        assert agree(result, found.boxes, found.scores, found.classes), entry.file
    assert sum(len(found.boxes) for _, _, found in seen) > 20


def test_a_bad_image_keeps_its_place_and_harms_nobody(weights: Path, tmp_path: Path) -> None:
    for number, image in enumerate(photographs(9)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "4.png").write_bytes(b"rubbish")
    (part,) = list_media(tmp_path).parts(100)
    seen = list(detector(weights, batch=4).stream(Reader()(part)))
    assert [entry.number for entry, _, _ in seen] == list(range(9))
    assert [number for number, (_, _, found) in enumerate(seen) if isinstance(found, BadImage)] == [4]


def test_few_images_are_in_memory_at_a_time(weights: Path) -> None:
    given = 0

    def entries():
        nonlocal given
        from cnn_core.images.media import Entry

        for number in range(300):
            given += 1
            shape = (32, 64) if number % 7 else (64, 32 + number % 5 * 8)  # a shape that comes seldom
            yield Entry(image_id=str(number), file="", number=number, content=photograph(*shape, number))

    small = detector(weights, imgsz=64, batch=4)
    ahead = max(given - entry.number for entry, _, _ in small.stream(entries()))
    assert ahead < 100


def test_the_examples_of_the_docstring_run(weights: Path, tmp_path: Path) -> None:
    model = tmp_path / "data/models/detector"
    model.mkdir(parents=True)
    shutil.copy(weights, model / "model.pt")
    (model / "model.json").write_text("{}")
    cv2.imwrite(str(tmp_path / "photo.jpg"), photograph(480, 640))
    run_examples(Detector, tmp_path)


def test_a_class_that_is_not_there_is_named(weights: Path) -> None:
    with pytest.raises(ValueError, match="classes has 80"):
        detector(weights, classes=(80,))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_the_backends_agree_in_float32(weights: Path, reference, backend: str) -> None:
    images = photographs(24)
    for image, found in zip(images, detector(weights, backend)(images), strict=True):
        assert agree(reference(image), found.boxes, found.scores, found.classes)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_segmenter_adds_masks_in_the_pixels_of_the_original(tmp_path: Path, backend: str) -> None:
    from ultralytics import YOLO

    weights = write_detector(tmp_path / "seg.pt", "yolo11n-seg.yaml", imgsz=SIDE)
    images, count = photographs(10), 0
    model = YOLO(weights)
    for image, found in zip(images, detector(weights, backend)(images), strict=True):
        (result,) = model.predict(image, verbose=False, max_det=3000, retina_masks=True)
        assert agree(result, found.boxes, found.scores, found.classes)
        if len(result) != 1 and len({round(float(score), 4) for score in found.scores}) != len(result):
            continue  # equal scores come in any order
        for mask, rle in zip(result.masks.data.numpy() if len(result) else [], found.masks, strict=True):
            same = decode_mask(rle, found.height, found.width) == mask.astype(bool)
            assert same.mean() > 0.999
            count += 1
    assert count > 5


def test_a_network_of_ten_channels_refuses_a_photograph_and_goes_on(tmp_path: Path) -> None:
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    model = YOLO(NETWORK)
    model.model = DetectionModel(NETWORK, ch=10, nc=80, verbose=False)
    model.model.names, model.model.args, model.model.task = {n: str(n) for n in range(80)}, {}, "detect"
    model.save(tmp_path / "ten.pt")
    cv2.imwrite(str(tmp_path / "a.jpg"), photograph(60, 80, 0))
    ten = detector(tmp_path / "ten.pt")
    [(_, image, refused)] = list(ten.stream(Reader()(list_media(tmp_path / "a.jpg").parts(1)[0])))
    assert image is None
    assert isinstance(refused, BadImage)
    assert refused.detail == "the image has 3 channels, and the network takes 10"
    with pytest.raises(ValueError, match="3 channels, and the network takes 10"):
        ten([photograph(60, 80, 0)])


def test_a_table_of_another_layout_is_refused() -> None:
    """As an export of RT-DETR gives it: 300 rows of centre, size, score and class in shares of the picture."""
    from cnn_core.detection.inference.steps import suppress
    from cnn_core.detection.yolo import NetworkInfo

    info = NetworkInfo(
        names={0: "a", 1: "b"}, stride=32, task="detect", sha256="", imgsz=64, fixed=None, channels=3, end2end=False
    )
    with pytest.raises(ValueError, match="a table of 300 x 6, and a detector of 2 classes has 6 values"):
        suppress(torch.rand(1, 300, 6), parameters(), info)
    assert len(suppress(torch.rand(1, 6, 84), parameters(), info)) == 1


def test_a_box_in_the_letterboxs_border_is_left_out() -> None:
    from cnn_core.detection.inference.steps import in_original

    rows = torch.tensor(
        [[2.0, 2, 30, 9, 0.9, 0], [2, 20, 30, 40, 0.8, 0], [10, 30, 10, 40, 0.7, 0]]
    )  # 10 rows of border
    boxes, _ = in_original(rows, None, (64, 64), (44, 64))
    assert boxes[:, 4].tolist() == pytest.approx([0.8])
    assert (boxes[:, 2] > boxes[:, 0]).all()
    assert (boxes[:, 3] > boxes[:, 1]).all()


def test_the_side_of_a_static_export_is_not_ignored(weights: Path, tmp_path: Path) -> None:
    from ultralytics import YOLO

    shutil.copy(weights, tmp_path / "own.pt")
    exported = YOLO(tmp_path / "own.pt").export(format="onnx", imgsz=64, dynamic=False, verbose=False)
    with pytest.raises(ValueError, match=r"imgsz is 96, but .*own\.onnx takes 64 x 64 pixels only: set imgsz to 0"):
        detector(Path(exported), backend="onnx", imgsz=96)
    assert detector(Path(exported), backend="onnx", imgsz=64).info.fixed == (64, 64)
