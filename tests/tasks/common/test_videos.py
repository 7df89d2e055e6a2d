"""The videos of `segment`: tables and a rendered video of each; prompts without a mask, bad frames, cut videos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import read_images, read_objects
from cnn_core.detection.yolo import quiet
from cnn_core.images.clips import CUT_SHORT
from cnn_core.images.media import list_media
from cnn_core.segmentation.video.prompts import VideoPrompt
from tasks import segment
from tasks.common.videos import VideoJob, VideoWorker, video_parts
from tasks.engine.workers import Resources
from tests.helpers.paths import ROOT
from tests.helpers.prediction_files import write_predictions
from tests.helpers.sam_files import write_sam
from tests.helpers.video_files import clips, frames, small_sam2, write_folder, write_video

EVERYTHING = {
    "points_stride": 4,
    "conf_thres": 0.5,
    "stability_score_thresh": 0.5,
    "stability_score_offset": 0.95,
    "iou": 0.7,
    "crop_n_layers": 0,
    "crop_overlap_ratio": 0.3,
    "crop_downscale_factor": 1,
    "crop_nms_thresh": 0.7,
    "min_mask_region_area": 0,
}


def values(**changes) -> dict:
    """The section ``segment``."""
    video = {"folders": False, "backwards": True, "non_overlap_masks": False, "max_cond_frames_in_attn": 4}
    return {
        "weights": "w.pt",
        "source": "clips",
        "match": "*",
        "prompt": "boxes",
        "prompts": "prompts.csv",
        "imgsz": 0,
        "conf": 0.0,
        "multimask_output": False,
        "half": "auto",
        "everything": EVERYTHING,
        "backend": "auto",
        "vid_stride": 1,
        "pictures": 1,
        "cutouts": 0,
        "video": video | {"memory_frames": 8, "patience": 0} | changes.pop("video", {}),
    } | changes


def params(**changes) -> segment.SegmentParams:
    from cnn_core.params import from_mapping

    weights = changes.pop("weights", None)
    made = from_mapping(segment.SegmentParams, values(**changes), "segment")
    object.__setattr__(made, "weights", weights)
    return made


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> VideoWorker:
    folder = tmp_path_factory.mktemp("worker")
    quiet(folder)
    where = Resources(actors=1, cpus=torch.get_num_threads(), gpus=0)
    return VideoWorker(params(weights=small_sam2()), ["a", "b"], str(folder), where)


def boxes(count: int, objects: int = 2, frame: int = 0) -> tuple[VideoPrompt, ...]:
    where = frames(count)[1][frame]
    about = {"class_id": 1, "class_name": "b", "prompt_score": 0.75}
    return tuple(VideoPrompt(frame=frame, object_id=n + 3, box=tuple(where[n]), about=about) for n in range(objects))


def work(worker, source, folder, *prompts):
    (part,) = video_parts(list_media(str(source), vid_stride=1), params(video={"folders": True}))
    folder.mkdir()
    counts = worker(VideoJob(part=part, prompts=prompts), folder)
    return counts, read_objects(folder / "objects.parquet"), pd.read_parquet(folder / "dropped.parquet")


def test_a_video_becomes_a_part_and_a_rendered_video(worker, tmp_path):
    video = write_video(tmp_path / "clip.avi", frames(6)[0])
    counts, objects, dropped = work(worker, video, tmp_path / "part", *boxes(6))
    assert counts == {"images": 6, "bad": 0}
    assert list(objects["image_id"]) == [f"clip#{n:06d}" for n in range(1, 7) for _ in (3, 4)]
    assert list(objects["track_id"]) == list(objects["prompt_id"]) == [3, 4] * 6
    assert set(objects["class_name"]) == {"b"}
    assert set(objects["prompt_score"]) == {0.75}
    assert set(objects["file"].str.rsplit("#").str[0]) == {str(video)}
    assert dropped.empty
    mask = decode_mask(objects["rle"][0], 48, 64)
    assert int(mask.sum()) == objects["area"][0]
    assert len(read_images(tmp_path / "part/images.parquet")) == 6
    assert json.loads((tmp_path / "part/model.json").read_text())["family"] == "sam2"
    (again,) = clips(tmp_path / "part/pictures/clip.mp4")
    shown = [frame.image for frame in again]
    assert len(shown) == 6
    assert shown[0].shape == (48, 64, 3)
    assert again.fps == 10
    plain = [frame.image for frame in clips(video)[0]]
    assert np.abs(shown[5].astype(int) - plain[5]).mean() > 5  # something is drawn
    assert sorted(path.name for path in (tmp_path / "part").iterdir() if path.name.startswith(".")) == []
    assert (tmp_path / "part/pictures/clip#000001.jpg").is_file()


def test_tables_in_pieces_are_the_same(worker, tmp_path, monkeypatch):
    source = write_folder(tmp_path / "shot", frames(5)[0])
    whole = work(worker, source, tmp_path / "one", *boxes(5))
    monkeypatch.setattr("tasks.common.video_tables.FRAMES", 2)
    pieces = work(worker, source, tmp_path / "two", *boxes(5))
    pd.testing.assert_frame_equal(whole[1], pieces[1])
    assert list(read_images(tmp_path / "two/images.parquet")["image_id"]) == [f"frame{n}" for n in range(5)]


def test_what_gives_no_mask_says_why(worker, tmp_path):
    source = write_folder(tmp_path / "shot", frames(6)[0])
    (source / "frame4.png").write_bytes(b"no image")
    outside = VideoPrompt(frame=1, object_id=50, box=(70, 1, 90, 9))
    lost = VideoPrompt(frame=4, object_id=51, box=(1, 1, 9, 9))
    late = VideoPrompt(frame=60, object_id=52, box=(1, 1, 9, 9))
    counts, objects, dropped = work(worker, source, tmp_path / "part", *boxes(6), outside, lost, late)
    assert counts == {"images": 5, "bad": 1}
    assert list(objects.groupby("track_id").size()) == [5, 5]
    assert {row.prompt_id: row.reason for row in dropped.itertuples()} == {
        50: "outside the image",
        51: "its frame cannot be read",
        52: "behind the last frame",
    }
    (bad,) = pd.read_parquet(tmp_path / "part/bad.parquet").itertuples()
    assert bad.image_id == "frame4"


def test_a_truncated_video_gives_what_could_be_read(worker, tmp_path):
    video = write_video(tmp_path / "clip.avi", frames(40, 48, 64)[0])
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 4])
    counts, objects, _ = work(worker, video, tmp_path / "part", *boxes(40, objects=1))
    assert 0 < counts["images"] < 20
    assert len(objects) == counts["images"]
    (bad,) = pd.read_parquet(tmp_path / "part/bad.parquet").itertuples()
    assert bad.reason == CUT_SHORT
    assert f"its header says 40 frames, and {counts['images']} can be read" in bad.detail


def test_an_unreadable_video_is_a_bad_one(worker, tmp_path):
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"no video at all" * 100)
    counts, objects, _ = work(worker, video, tmp_path / "part", *boxes(3, objects=1))
    assert counts == {"images": 0, "bad": 1}
    assert objects.empty
    (bad,) = pd.read_parquet(tmp_path / "part/bad.parquet").itertuples()
    assert bad.detail == "no frame of this video can be decoded"


def test_odd_and_changing_sizes_are_drawn(tmp_path):
    from cnn_core.drawing.video import VideoPicture

    with VideoPicture(tmp_path / "v.mp4", 5.0) as video:
        for height, width in ((33, 47), (33, 47), (40, 60)):
            video.add(np.full((height, width, 3), 90, np.uint8), [])
    (clip,) = clips(tmp_path / "v.mp4")
    assert [frame.image.shape for frame in clip] == [(32, 46, 3)] * 3


def run_stage(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    more = {"PYTHONPATH": str(ROOT), "GRIDFLOW_STATE": str(folder / ".gridflow/state"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tasks.segment", "segmenter"]
    return subprocess.run(
        command, cwd=folder, env=os.environ | more | environment, capture_output=True, text=True, check=False
    )


def test_boxes_of_frames_counted_at_another_stride_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips/one.avi", frames(4)[0])
    found = pd.DataFrame([{"image_id": "one#000001", "file": "clips/one.avi#000001", "width": 64, "height": 48}])
    write_predictions(tmp_path / "detect", found, [], listed={"match": "*", "vid_stride": 2})
    write_sam(tmp_path, "sam2.1_t")
    (tmp_path / "runtime.yaml").write_text((ROOT / "runtime.yaml").read_text())
    section = values(weights="sam2.1_t.pt", imgsz=128, prompts="detect")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"segment": {"segmenter": section}}))
    with pytest.raises(ValueError, match="detect counted a video's frames with vid_stride 2, here it is 1"):
        segment.main("segmenter")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_stage_follows_what_is_prompted_in_each_video(tmp_path):
    source = tmp_path / "clips"
    source.mkdir()
    for name, count in (("one", 5), ("two", 4)):
        write_video(source / f"{name}.avi", frames(count)[0])
    where = frames(5)[1]
    rows = [("one", 0, 1, *where[0, 0]), ("one", 2, 2, *where[2, 1]), ("two", 0, 1, *where[0, 0])]
    rows.append(("three", 0, 1, *where[0, 0]))
    pd.DataFrame(rows, columns=["image_id", "frame", "object", "x1", "y1", "x2", "y2"]).to_csv(
        tmp_path / "prompts.csv", index=False
    )
    write_sam(tmp_path, "sam2.1_t")
    section = values(weights="sam2.1_t.pt", imgsz=128)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"segment": {"segmenter": section}}))
    (tmp_path / "runtime.yaml").write_text((ROOT / "runtime.yaml").read_text())
    done = run_stage(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prompts.csv has prompts for 1 images that clips does not have: three" in done.stdout + done.stderr
    target = tmp_path / "data/predictions/segmenter"
    first, second = (read_objects(target / f"part-{number:05d}.parquet") for number in (0, 1))
    dropped = pd.read_parquet(target / "dropped.parquet")
    assert set(first["image_id"].str.split("#").str[0]) <= {"one"}
    assert set(first["track_id"]) | set(dropped["prompt_id"]) >= {1, 2}
    assert set(second["image_id"].str.split("#").str[0]) <= {"two"}
    for name, count in (("one", 5), ("two", 4)):
        capture = cv2.VideoCapture(str(target / f"pictures/{name}.mp4"))
        assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == count
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["counts"]["images"] == 9
    assert manifest["listed"] == {"match": "*", "vid_stride": 1}
    done = run_stage(tmp_path, GRIDFLOW_LOCAL_IMAGES="0")
    assert done.returncode == 0, done.stdout + done.stderr
    for number, found in enumerate((first, second)):  # Ray's actors give the same
        pd.testing.assert_frame_equal(read_objects(target / f"part-{number:05d}.parquet"), found)
    (tmp_path / "prompts.csv").write_text("image_id,frame,x1,y1,x2,y2\nthree,0,1,1,5,5\n")
    done = run_stage(tmp_path)
    assert done.returncode == 1
    assert "prompts.csv has no prompts for the videos of clips" in done.stderr
