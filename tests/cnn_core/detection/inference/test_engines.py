"""Engines: which one runs where, exports made once and shared, and what cannot be had is said."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cnn_core.detection.inference import engines, exports, openvino_engine
from cnn_core.detection.inference.engines import check_backend, open_engine, pick_backend
from tests.helpers.detector_files import photograph, write_detector

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FREE = {"precision": "float32", "device": CPU, "threads": 2, "imgsz": 0}


def test_auto_is_the_fastest_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"openvino"}
    monkeypatch.setattr(engines, "_installed", lambda backend: backend in installed)
    monkeypatch.setattr(engines.platform, "machine", lambda: "x86_64")
    assert pick_backend("auto", CPU) == "openvino"
    assert pick_backend("auto", GPU) == "torch"
    installed |= {"tensorrt"}
    assert pick_backend("auto", GPU) == "tensorrt"
    assert pick_backend("onnx", GPU) == "onnx"
    monkeypatch.setattr(engines.platform, "machine", lambda: "aarch64")
    assert pick_backend("auto", CPU) == "torch"


@pytest.mark.parametrize(
    ("backend", "precision", "words"),
    [
        ("tensorrt", "float32", "tensorrt"),
        ("torch", "int8", "int8 is for the backend openvino"),
        ("torch", "half", "half on a CPU is for the backend openvino"),
    ],
)
def test_what_cannot_be_had_is_said(backend: str, precision: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_backend(backend, precision, CPU)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("weights") / "small.pt", imgsz=64)


def test_torch_needs_no_export(weights: Path) -> None:
    engine = open_engine(weights, backend="torch", cache=weights.parent / "none", **FREE)
    assert (engine.name, engine.info.task, engine.info.imgsz, engine.streams) == ("torch", "detect", 64, 1)
    assert not (weights.parent / "none").exists()
    raw, protos = engine(np.stack([photograph(64, 96)] * 2))
    assert raw.shape == (2, 84, 126)
    assert protos is None


@pytest.mark.slow
def test_an_export_is_made_once_by_one_of_many(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], exports._export
    monkeypatch.setattr(exports, "_export", lambda *args: (made.append(1), real(*args)))
    cache = weights.parent / "engines"
    found: list[engines.Engine] = []
    many = [
        threading.Thread(target=lambda: found.append(open_engine(weights, backend="openvino", cache=cache, **FREE)))
        for _ in range(3)
    ]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    assert len(found) == 3
    assert len(made) == 1
    assert not list(cache.glob(".*partial"))
    # Somebody's own export: the folder itself as weights.
    own = open_engine(next(path for path in cache.iterdir() if path.is_dir()), backend="auto", cache=cache, **FREE)
    image = photograph(64, 96)[None]
    assert torch.equal(own(image)[0], found[0](image)[0])
    assert own.info.names == found[0].info.names


@pytest.mark.slow
def test_float32_is_float32_and_half_is_not(weights: Path) -> None:
    """OpenVINO's own default is bfloat16 where the processor has it."""
    image = photograph(64, 96)[None]
    cache = weights.parent / "engines"
    truth, _ = open_engine(weights, backend="torch", cache=cache, **FREE)(image)
    single, _ = open_engine(weights, backend="openvino", cache=cache, **FREE)(image)
    assert (truth - single)[:, 4:].abs().max() < 2e-3
    half, _ = open_engine(weights, backend="openvino", cache=cache, **{**FREE, "precision": "half"})(image)
    if openvino_engine._has_bfloat16():
        assert (truth - half)[:, 4:].abs().max() > 10 * (truth - single)[:, 4:].abs().max()


@pytest.mark.slow
def test_int8_is_calibrated_on_the_images_given(weights: Path) -> None:
    cache, settings = weights.parent / "engines", {**FREE, "precision": "int8"}
    with pytest.raises(ValueError, match="int8 needs images"):
        open_engine(weights, backend="openvino", cache=cache, **settings)
    images = [photograph(64, 64, number) for number in range(8)]
    engine = open_engine(weights, backend="openvino", cache=cache, calibration=lambda _: images, **settings)
    truth, _ = open_engine(weights, backend="torch", cache=cache, **FREE)(images[0][None])
    quantised, _ = engine(images[0][None])
    assert quantised.shape == truth.shape
    assert not torch.equal(truth, quantised)


@pytest.mark.slow
def test_the_first_call_is_made_alone_and_the_later_ones_together(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first calls at once can wait for each other for ever (seen once in some hundred runs)."""
    pytest.importorskip("openvino")
    device = torch.device("cpu")
    options = {"precision": "float32", "device": device, "threads": 2, "cache": weights.parent / "alone", "imgsz": 64}
    engine = open_engine(weights, backend="openvino", **options)
    assert isinstance(engine, openvino_engine.OpenVinoEngine)
    inside, most = 0, [0]
    infer, count = engine._infer, threading.Lock()

    def watched(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        nonlocal inside
        with count:
            inside += 1
            most[0] = max(most[0], inside)
        time.sleep(0.2)
        found = infer(images)
        with count:
            inside -= 1
        return found

    monkeypatch.setattr(engine, "_infer", watched)
    for expected in (1, 2):
        most[0] = 0
        threads = [threading.Thread(target=engine, args=(np.zeros((1, 64, 64, 3), np.uint8),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most[0] == expected
