"""The stage `segment` as a process: prompts by what was detected, kills, and what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import objects_table, write_objects
from cnn_core.files import write_json
from tests.helpers.detector_files import photograph
from tests.helpers.paths import ROOT
from tests.helpers.sam_files import write_sam
from tests.helpers.video_files import frames, write_video

OUT = "data/predictions/segmenter"
SECTION = {
    "weights": "mobile_sam.pt",
    "source": "photos",
    "match": "*",
    "prompt": "boxes",
    "prompts": "detect",
    "imgsz": 128,
    "conf": 0.0,
    "multimask_output": False,
    "half": "auto",
    "everything": {
        "points_stride": 2,
        "conf_thres": 0.5,
        "stability_score_thresh": 0.1,
        "stability_score_offset": 0.95,
        "iou": 0.7,
        "crop_n_layers": 0,
        "crop_overlap_ratio": 0.341,
        "crop_downscale_factor": 1,
        "crop_nms_thresh": 0.7,
        "min_mask_region_area": 0,
    },
    "backend": "torch",
    "vid_stride": 1,
    "pictures": 2,
    "cutouts": 3,
    "video": {
        "folders": False,
        "backwards": True,
        "non_overlap_masks": True,
        "max_cond_frames_in_attn": 4,
        "memory_frames": 8,
        "patience": 0,
    },
}

pytestmark = pytest.mark.slow


def start(folder: Path, *, local_images: int = 1000, **changes: object) -> subprocess.Popen[str]:
    (folder / "params.yaml").write_text(yaml.safe_dump({"segment": {"segmenter": SECTION | changes}}))
    more = {"PYTHONPATH": str(ROOT), "GRIDFLOW_STATE": str(folder / ".gridflow/state"), "GRIDFLOW_USE_GPU": "false"}
    more["GRIDFLOW_LOCAL_IMAGES"] = str(local_images)
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tasks.segment", "segmenter"],
        cwd=folder,
        env=os.environ | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def kill(process: subprocess.Popen[str]) -> None:
    """All of it at once, as when the machine goes down: this process and the children that it started."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for child in children:
        child.kill()
    process.wait()


def photos(folder: Path, count: int) -> None:
    """And what `detect` found in them: two boxes in each but every seventh."""
    write_sam(folder, "mobile_sam")
    (folder / "photos").mkdir()
    (folder / "detect").mkdir()
    rows = []
    for number in range(count):
        cv2.imwrite(str(folder / f"photos/{number:04d}.jpg"), photograph(60, 80, number % 5))
        named = {"image_id": f"{number:04d}", "file": f"photos/{number:04d}.jpg"}
        for place in range(2 if number % 7 else 0):
            corners = {"x1": 5.0, "y1": 5.0, "x2": 40.0 + place, "y2": 50.0}
            rows.append({**named, **corners, "class_id": place, "class_name": "ab"[place], "score": 0.5 + place / 4})
    half = len(rows) // 4 * 2
    for number, part in enumerate((rows[:half], rows[half:])):
        write_objects(folder / f"detect/part-{number:05d}.parquet", objects_table(part))
    write_json(folder / "detect/manifest.json", {"classes": ["a", "b"]})


def results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """images, objects"""
    parts = sorted((folder / OUT).glob("part-*.parquet"))
    return pd.read_parquet(folder / OUT / "images.parquet"), pd.concat([pd.read_parquet(part) for part in parts])


@pytest.mark.nightly
def test_a_killed_run_goes_on_and_nothing_is_lost_or_twice(tmp_path):
    photos(tmp_path, 160)
    whole = (tmp_path / "photos/0000.jpg").read_bytes()
    (tmp_path / "photos/cut.jpg").write_bytes(whole[: len(whole) // 2])
    process = start(tmp_path, local_images=0)  # on Ray; one process beside the stage goes on
    state = tmp_path / ".gridflow/state"
    deadline = time.monotonic() + 300
    while len([path for path in state.glob("segment-*/parts/part-*") if path.is_dir()]) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill(process)
    done = [path for path in state.glob("segment-*/parts/part-*") if path.is_dir()]
    assert 2 <= len(done) < 11, "killed in mid-run"
    assert not (tmp_path / OUT).exists()
    output = finish(start(tmp_path))
    assert "were done before the interruption" in output
    assert "1 images of photos could not be read" in output
    images, objects = results(tmp_path)
    assert list(images["image_id"]) == [f"{number:04d}" for number in range(160)]
    expected = [(f"{number:04d}", place) for number in range(160) if number % 7 for place in range(2)]
    assert list(zip(objects["image_id"], objects["prompt_id"], strict=True)) == expected
    assert list(objects["prompt_score"].unique()) == [0.5, 0.75]
    assert list(objects["class_name"][:2]) == ["a", "b"]
    entries = json.loads((tmp_path / OUT / "coco.json").read_text())
    assert len(entries) == len(objects)
    for entry, row in zip(entries[:5], objects.itertuples(), strict=False):
        mask = decode_mask(entry["segmentation"]["counts"], *entry["segmentation"]["size"])
        assert mask.shape == (60, 80)
        assert mask.sum() == row.area
        assert np.isclose(entry["score"], row.score)
    assert len(list((tmp_path / OUT / "pictures").iterdir())) == 2
    assert len(list((tmp_path / OUT / "cutouts").iterdir())) == 4
    assert len(pd.read_parquet(tmp_path / OUT / "bad.parquet")) == 1
    manifest = json.loads((tmp_path / OUT / "manifest.json").read_text())
    assert manifest["classes"] == ["a", "b"]
    assert manifest["counts"] == {"images": 160, "objects": len(expected), "bad": 1, "dropped": 0}
    assert not list(state.glob("segment-*")), "deleted once the output is there"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "data/weights/sam2.1_t.pt"}, "gridflow fetch sam2.1_t.pt"),
        ({"prompts": "data/predictions/detector"}, "do not exist: run `dvc repro detect`"),
        ({"prompts": "far.csv"}, "names no image of the source: far is not there"),
    ],
)
def test_what_is_missing_is_one_sentence(tmp_path, changes, said):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.jpg"), photograph(40, 40))
    for name in ("mobile_sam.pt", "detect"):
        (tmp_path / name).mkdir()
    for name in ("mobile_sam.pt/model.pt", "mobile_sam.pt/model.json", "detect/part-00000.parquet"):
        (tmp_path / name).touch()
    (tmp_path / "far.csv").write_text("image_id,x1,y1,x2,y2\nfar,1,2,3,4\n")
    output = finish(start(tmp_path, **changes), code=1)
    assert output.count("error:") == 1
    assert said in output
    assert "Traceback" not in output


def test_a_video_that_is_not_tracked_and_ends_early_is_told(tmp_path):
    photos(tmp_path, 0)
    video = write_video(tmp_path / "photos/film.avi", frames(40)[0])
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    output = finish(start(tmp_path, prompt="everything", prompts="data/weights/none", pictures=0, cutouts=0))
    metrics = json.loads((tmp_path / "data/metrics/segment-segmenter.json").read_text())
    assert 0 < metrics["images"] < 38
    assert metrics["images"] + metrics["bad"] + metrics["missing_frames"] == 40
    assert f"{metrics['missing_frames']} of the 40 images of photos are frames that a video's header promises" in output
