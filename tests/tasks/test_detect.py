"""The stage `detect` as a process: what Ultralytics gives, bad images beside good ones, kills, memory."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from tests.helpers import stages
from tests.helpers.detector_files import agree, photograph, write_detector
from tests.helpers.stages import finish, kill

OUT = "data/predictions/detector"
SECTION = {
    "weights": "weights.pt",
    "source": "photos",
    "match": "*",
    "imgsz": 0,
    "conf": 0.25,
    "iou": 0.7,
    "max_det": 3000,
    "classes": [],
    "agnostic_nms": False,
    "half": "auto",
    "int8": False,
    "backend": "torch",
    "vid_stride": 1,
    "tracker": "none",
    "save_txt": False,
    "pictures": 0,
}

pytestmark = pytest.mark.slow


def start(folder: Path, *, batch: int = 0, local_images: int = 1000, **changes: object) -> subprocess.Popen[str]:
    (folder / "params.yaml").write_text(yaml.safe_dump({"detect": {"detector": SECTION | changes}}))
    runtime = {"GRIDFLOW_USE_GPU": "false", "GRIDFLOW_CPUS_PER_WORKER": "0", "GRIDFLOW_MICRO_BATCH": str(batch)}
    runtime["GRIDFLOW_LOCAL_IMAGES"] = str(local_images)
    return stages.start(folder, stage="detect detector", **runtime)


def results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """images, objects, bad"""
    out = folder / OUT
    objects = pd.concat([pd.read_parquet(path) for path in sorted(out.glob("part-*.parquet"))])
    return pd.read_parquet(out / "images.parquet"), objects, pd.read_parquet(out / "bad.parquet")


def write_photos(folder: Path, count: int, side: int = 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        height = side if number % 3 else side * 3 // 4
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), photograph(height, side, number))


def test_the_stage_gives_what_ultralytics_gives_and_lists_the_broken(tmp_path: Path) -> None:
    weights = write_detector(tmp_path / "weights.pt", imgsz=160)
    write_photos(tmp_path / "photos", 38, side=160)
    good = sorted(path.name for path in (tmp_path / "photos").iterdir())
    whole = (tmp_path / "photos/00001.jpg").read_bytes()
    (tmp_path / "photos/broken-1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos/broken-2.png").write_bytes(b"no image")
    (tmp_path / "photos/00001.txt").write_text("0 0.5 0.5 0.1 0.1")
    output = finish(start(tmp_path, save_txt=True, pictures=2))
    assert "2 images of photos could not be read" in output
    metrics = json.loads((tmp_path / "data/metrics/detect-detector.json").read_text())
    assert (metrics["listed"], metrics["images"], metrics["bad"], metrics["left_out"]) == (41, 38, 2, 1)
    images, objects, bad = results(tmp_path)
    assert sorted(Path(file).name for file in images["file"]) == good
    assert sorted(Path(file).name for file in bad["file"]) == ["broken-1.jpg", "broken-2.png"]
    assert list(bad["reason"]) == ["damaged image", "not an image"]

    from ultralytics import YOLO

    reference, count = YOLO(weights), 0
    for name in good:
        (result,) = reference.predict(tmp_path / "photos" / name, max_det=3000, verbose=False)
        rows = objects[objects["file"] == f"photos/{name}"]
        assert agree(result, rows[["x1", "y1", "x2", "y2"]].to_numpy(), rows["score"], rows["class_id"]), name
        count += len(rows)
    assert count > 100
    entries = json.loads((tmp_path / OUT / "coco.json").read_text())
    assert len(entries) == count
    numbers = dict(zip(images["file"], range(1, 39), strict=True))
    assert all(numbers[f"photos/{entry['file_name']}"] == entry["image_id"] for entry in entries)
    assert len(list((tmp_path / OUT / "pictures").iterdir())) == 2
    assert len(list((tmp_path / OUT / "labels").iterdir())) == 38
    finish(start(tmp_path, local_images=0))  # Ray's actors give the same
    pd.testing.assert_frame_equal(results(tmp_path)[1], objects)
    assert set(objects["model_sha256"]) == {json.loads((tmp_path / OUT / "manifest.json").read_text())["model_sha256"]}


@pytest.mark.parametrize("local_images", [1000, pytest.param(0, marks=pytest.mark.nightly)])
def test_a_killed_run_goes_on_with_what_is_missing(tmp_path: Path, local_images: int) -> None:
    """Begun by one process beside the stage and gone on with by Ray, and the other way round."""
    write_detector(tmp_path / "weights.pt", imgsz=64)
    write_photos(tmp_path / "photos", 900)
    process = start(tmp_path, local_images=local_images)
    parts = tmp_path / ".gridflow/state"
    deadline = time.monotonic() + 300
    while len(done := list(parts.glob("detect-*/parts/part-*"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if local_images:
        process.kill()  # what it has started ends with it, and lets go of the run
        process.wait()
    else:
        kill(process)
    done = {path: path.stat().st_mtime_ns for path in parts.glob("detect-*/parts/part-*")}
    assert 2 <= len(done) < 8, "killed in mid-run"
    assert not (tmp_path / OUT).exists()
    output = finish(start(tmp_path, local_images=1000 - local_images))
    assert "were done before the interruption" in output
    images, objects, bad = results(tmp_path)
    assert list(images["image_id"]) == [f"{number:05d}" for number in range(900)]
    assert not len(bad)
    assert set(objects["image_id"]) <= set(images["image_id"])
    assert not list(parts.glob("detect-*")), "deleted once the output is there"


def peak_memory(folder: Path, source: str) -> float:
    """The most bytes that the stage's processes with pixels or results had: its driver and its actor."""
    process = start(folder, source=source, batch=64)  # of so small images, many at a time
    peak = {"driver": 0, "actor": 0}
    while process.poll() is None:
        for name, found in _processes(process.pid):
            peak[name] = max(peak[name], found)
        time.sleep(0.2)
    finish(process)
    assert peak["actor"] > 0
    return sum(peak.values())


def _processes(pid: int) -> list[tuple[str, int]]:
    try:
        driver = psutil.Process(pid)
        children = [child for child in driver.children(recursive=True) if "MapWorker" in " ".join(child.cmdline())]
        return [("driver", driver.memory_info().rss)] + [("actor", child.memory_info().rss) for child in children]
    except psutil.Error:
        return []


@pytest.mark.nightly
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    write_detector(tmp_path / "weights.pt", imgsz=32)
    write_photos(tmp_path / "photos", 100, side=32)
    for name, count in (("few", 2_000), ("many", 20_000)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number:05d}.jpg").hardlink_to(tmp_path / f"photos/{number % 100:05d}.jpg")
    few, many = peak_memory(tmp_path, "few"), peak_memory(tmp_path, "many")
    assert len(results(tmp_path)[0]) == 20_000
    assert many < 1.1 * few, f"{few / 2**20:.0f} MB for 2,000 images, {many / 2**20:.0f} MB for 20,000"


def test_missing_weights_are_one_sentence_that_says_what_to_fetch(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 1)
    output = finish(start(tmp_path, weights="data/weights/yolo11n.pt"), code=1)
    assert output.count("error:") == 1
    assert "gridflow fetch yolo11n.pt" in output
    assert "Traceback" not in output


def test_objects_are_followed_through_a_video_as_ultralytics_follows_them(tmp_path: Path) -> None:
    weights = write_detector(tmp_path / "weights.pt", imgsz=160)
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 128))
    scene = photograph(200, 260, 11)
    for number in range(30):
        writer.write(scene[number : number + 128, number : number + 160].copy())
    writer.release()

    from ultralytics import YOLO

    more = {"max_det": SECTION["max_det"], "verbose": False}
    for tracker in ("bytetrack", "botsort"):
        finish(start(tmp_path, source="clip.avi", tracker=tracker, conf=0.1))
        images, objects, _ = results(tmp_path)
        frames = YOLO(weights).track(tmp_path / "clip.avi", tracker=f"{tracker}.yaml", conf=0.1, **more)
        assert len(images) == len(frames) == 30
        followed = 0
        for image_id, frame in zip(images["image_id"], frames, strict=True):
            rows = objects[objects["image_id"] == image_id]
            assert np.allclose(rows[["x1", "y1", "x2", "y2"]], frame.boxes.xyxy.numpy(), atol=0.1)
            if frame.boxes.id is not None:
                assert list(rows["track_id"]) == frame.boxes.id.int().tolist()
                followed += len(rows)
        assert followed > 20
