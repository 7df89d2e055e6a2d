"""Training by Ultralytics' trainers in our way: exact resume, bfloat16, metrics, errors in one sentence."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from cnn_core.detection import yolo
from cnn_core.detection.training.job import architecture, build
from cnn_core.detection.training.train import check_start, final_weights, sample_pictures, save_network
from tests.helpers.detection_sets import CLASSES, rectangles
from tests.helpers.detector_training import job_of, params_of, trained


@pytest.fixture(scope="session", autouse=True)
def _quiet(tmp_path_factory):
    yolo.quiet(tmp_path_factory.mktemp("ultralytics"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rectangles(tmp_path_factory.mktemp("set"))


def test_a_resumed_training_ends_with_the_same_weights_and_history(tmp_path, data):
    params = params_of(precision="bfloat16", ema_decay=0.9)
    job = job_of(params, tmp_path, data)
    whole = trained(job, tmp_path)
    rest = trained(job, tmp_path, resume=whole[0])
    assert [record["epoch"] for record in rest[-1]["history"]] == [1, 2, 3]
    assert len(rest) == 2
    for name, tensor in whole[-1]["ema"].items():
        assert torch.allclose(tensor, rest[-1]["ema"][name], atol=1e-6), name
    times = ("images_per_s", "seconds")
    for one, other in zip(whole[-1]["history"], rest[-1]["history"], strict=True):
        assert {k: v for k, v in one.items() if k not in times} == pytest.approx(
            {k: v for k, v in other.items() if k not in times}, abs=1e-5
        )
    assert not whole[0]["finished"]
    assert whole[-1]["finished"]
    assert trained(job, tmp_path, resume=whole[-1]) == []


def test_the_rate_goes_down_at_every_step_and_validation_comes_when_asked(tmp_path, data):
    params = params_of(val_every=2, warmup_epochs=0.0, lrf=0.0)
    job = job_of(params, tmp_path, data)
    history = trained(job, tmp_path)[-1]["history"]
    # 3 batches an epoch: the last one of epoch e starts at e - 1/3 of 3 epochs, on a cosine from lr0 to 0
    expected = [params.lr0 * (1 + torch.cos(torch.tensor((e - 1 / 3) / 3 * torch.pi)).item()) / 2 for e in (1, 2, 3)]
    assert [record["lr"] for record in history] == pytest.approx(expected)
    assert ["mAP50" in record for record in history] == [False, True, True]


def test_the_metrics_are_those_of_ultralytics_validator_on_the_saved_model(tmp_path, data):
    params = params_of(epochs=12, precision="bfloat16", mosaic=0.0, lr0=0.01)
    job = job_of(params, tmp_path, data)
    last = trained(job, tmp_path)[-1]
    save_network(tmp_path / "model.pt", job, final_weights(job, last), imgsz=last["imgsz"])
    from ultralytics import YOLO

    model = YOLO(tmp_path / "model.pt")
    measured = model.val(data=str(data / "data.yaml"), plots=False, verbose=False, workers=0, project=str(tmp_path))
    assert measured.results_dict["metrics/mAP50-95(B)"] == pytest.approx(last["best"]["mAP50-95"], abs=1e-4)
    assert measured.results_dict["metrics/mAP50(B)"] == pytest.approx(last["best"]["mAP50"], abs=1e-4)
    assert last["best"]["mAP50"] > 0.1  # or it would be no comparison
    loaded = yolo.load_network(tmp_path / "model.pt")
    assert (list(loaded.names.values()), loaded.imgsz, loaded.task) == (list(CLASSES), 64, "detect")


def test_best_keeps_the_best_epoch_and_last_the_last(tmp_path, data):
    params = params_of(select="best", epochs=6, lr0=0.01, mosaic=0.0)
    job = job_of(params, tmp_path, data)
    last = trained(job, tmp_path)[-1]
    best = max(last["history"], key=lambda record: record["mAP50-95"])
    assert last["best"]["mAP50-95"] == best["mAP50-95"]
    weights = final_weights(job, last)
    assert weights is last["best_weights"]
    if last["best"]["epoch"] < 6:
        assert any(not torch.equal(tensor, last["ema"][name]) for name, tensor in weights.items())


def test_bfloat16_is_computed_in_on_a_cpu_and_the_losses_in_float32():
    from cnn_core.detection.training.trainer import compute_in

    network = build(architecture("cnn_core/detection/training/networks/small.yaml", "none"), 2).train()
    types, judged = [], []
    network.model[2].conv.register_forward_hook(lambda _, __, output: types.append(output.dtype))
    network.loss = lambda _, predictions: judged.extend(
        value.dtype for value in predictions.values() if hasattr(value, "dtype")
    )
    images = torch.rand(2, 3, 64, 64)
    compute_in(network, torch.bfloat16, torch.device("cpu"))
    network({"img": images})
    assert types == [torch.bfloat16]
    assert set(judged) == {torch.float32}
    network(images)  # a plain prediction, as the validation makes it
    assert types[1] == torch.float32


def test_precision_reaches_the_training(tmp_path, data, monkeypatch):
    from cnn_core.detection.training import trainer

    asked = []
    monkeypatch.setattr(trainer, "compute_in", lambda _, dtype, __: asked.append(dtype))
    for precision in ("bfloat16", "float32"):
        params = params_of(epochs=1, precision=precision)
        trained(job_of(params, tmp_path, data), tmp_path)
    assert asked == [torch.bfloat16, None]


def test_weights_are_taken_over_and_the_architecture_with_them(tmp_path, data):
    params = params_of(epochs=1)
    job = job_of(params, tmp_path, data)
    last = trained(job, tmp_path)[-1]
    save_network(tmp_path / "a.pt", job, last["ema"], imgsz=64)
    again = params_of(epochs=1, model="weights", weights=str(tmp_path / "a.pt"))
    job = job_of(again, tmp_path, data)
    taken, every = check_start(job)
    assert taken == every == len(last["ema"])
    other = params_of(model="yolo11n.yaml", weights=str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match="set model to weights"):
        check_start(job_of(other, tmp_path, data))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("yolo11q.yaml", "there is no model yolo11q.yaml"),
        ("yolo11n.pt", "name a yaml such as yolo11n.yaml"),
        ("https://example.com/a.yaml", "name a yaml"),
        ("yolo11n-cls.yaml", "is for the task 'classify'"),
        ("rtdetr-l.yaml", "rtdetr-l.yaml ends in RTDETRDecoder"),
        ("yolov8s-worldv2.yaml", "ends in WorldDetect"),
        ("yoloe-11s.yaml", "ends in YOLOEDetect"),
        ("weights", "model is weights, but weights is"),
    ],
)
def test_a_model_that_cannot_be_learned_is_said(model, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        architecture(model, "data/weights/none")
    assert words in str(raised.value)


def test_a_size_letter_chooses_the_size():
    small, large = (
        sum(p.numel() for p in build(architecture(f"yolo11{s}.yaml", "none"), 80).parameters()) for s in "ns"
    )
    assert (small, large) == (2624080, 9458752)  # as Ultralytics' yaml says


def test_a_diverged_training_says_so(tmp_path, data):
    params = params_of(box=1e38, warmup_epochs=0.0)
    with pytest.raises(ValueError, match=r"of epoch 1: training has diverged; lower lr0 \(now 0\.005\)"):
        trained(job_of(params, tmp_path, data), tmp_path)


def test_what_training_sees_is_shown_without_a_word(tmp_path, data, capfd):
    params = params_of()
    rows, captions = sample_pictures(job_of(params, tmp_path, data), across=4, down=2)
    assert [row.shape for row in rows] == [(4, 3, 64, 64)] * 2
    assert {word for row in captions for text in row for word in text.split(", ")} <= {*CLASSES, ""}
    assert capfd.readouterr() == ("", "")


def test_a_users_damaged_file_stays_as_it_is(tmp_path):
    source = rectangles(tmp_path / "set")
    whole = source / "images/train/0.png"
    cut = whole.with_suffix(".jpg")
    cv2.imwrite(str(cut), cv2.imread(str(whole)))
    whole.unlink()
    before = cut.read_bytes() + b"what a camera put behind"
    params = params_of()
    for content, learned in ((before, 12), (before[:300], 11)):
        cut.write_bytes(content)
        rows, _ = sample_pictures(job_of(params, tmp_path, source), across=12, down=1)
        assert rows[0].shape == (learned, 3, 64, 64)
        assert cut.read_bytes() == content


def test_images_that_are_left_out_are_told(tmp_path):
    source = rectangles(tmp_path / "set")
    damaged = [source / "images/train/2.png", source / "images/val/0.png"]
    for file in damaged:
        file.write_bytes(file.read_bytes()[:60])
    (source / "labels/train/5.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    params = params_of(epochs=1)
    job = job_of(params, tmp_path, source)
    left_out = trained(job, tmp_path)[-1]["left_out"]
    assert [Path(file).relative_to(source).as_posix() for file in left_out] == [
        "images/train/2.png",
        "images/val/0.png",
    ]
    assert all("ignoring" not in reason and ".png" not in reason for reason in left_out.values()), left_out
    assert [(Path(entry.file).name, entry.reason.partition(":")[0]) for entry in job.data.refused] == [
        ("5.txt", "there is no class 7")
    ]
    (source / "images/val").rename(tmp_path / "elsewhere")
    (source / "images/val").mkdir()
    (source / "images/val/0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 1 images of the split val .*0\.png: is not an image"):
        trained(job_of(params, tmp_path, source), tmp_path)


@pytest.mark.slow
def test_a_segmenter_learns_from_polygons(tmp_path):
    source = rectangles(tmp_path / "set", polygons=True)
    params = params_of(model="yolo11n-seg.yaml", epochs=2)
    last = trained(job_of(params, tmp_path, source), tmp_path)[-1]
    assert {"mask_mAP50", "mask_mAP50-95", "train_seg_loss"} <= last["history"][-1].keys()
    job = job_of(params, tmp_path, source)
    save_network(tmp_path / "model.pt", job, final_weights(job, last), imgsz=64)
    assert yolo.load_network(tmp_path / "model.pt").task == "segment"
