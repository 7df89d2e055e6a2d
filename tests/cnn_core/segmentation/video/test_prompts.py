"""Which objects of a video are followed, from which frame on: out of what detect found, or a table of one's own."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from cnn_core.annotations.tables import objects_table, write_objects
from cnn_core.images.clips import CUT_SHORT, Clip, clip_parts, natural, shortfall
from cnn_core.images.media import list_media
from cnn_core.segmentation.video.prompts import (
    first_prompts,
    group_by_frame,
    prompt_classes,
    unreachable_prompts,
    video_prompts,
)
from tests.helpers.video_files import clips, frames, write_folder, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Clip:
    return clips(write_video(tmp_path_factory.mktemp("v") / "clip.avi", frames(6, 16, 32)[0]))[0]


def detected(folder, rows) -> None:
    """What detect writes: rows of (image_id, x1, class, track)."""
    folder.mkdir()
    columns = [
        {"image_id": i, "class_id": c, "class_name": "ab"[c], "x1": x, "y1": 1, "x2": x + 9, "y2": 9, "score": 0.5}
        | {"track_id": track}
        for i, x, c, track in rows
    ]
    write_objects(folder / "part-00000.parquet", objects_table(columns))
    (folder / "manifest.json").write_text(json.dumps({"classes": ["a", "b"]}))


def summaries(prompts) -> list[tuple]:
    return [(p.frame, p.object_id, p.box and p.box[0], p.about["class_name"]) for p in prompts]


def test_a_track_is_followed_from_its_first_frame(tmp_path, clip):
    rows = [("clip#000002", 5, 0, 4), ("clip#000003", 6, 0, 4), ("clip#000004", 1, 1, 9), ("other#000001", 1, 1, 1)]
    detected(tmp_path / "d", [*rows, ("clip#000002", 20, 1, None)])
    assert summaries(video_prompts(tmp_path / "d", clip, "boxes", alone=True)) == [(1, 4, 5, "a"), (3, 9, 1, "b")]
    assert prompt_classes(tmp_path / "d") == ["a", "b"]


def test_without_tracks_those_of_the_first_frame_with_any_are_followed(tmp_path, clip):
    detected(tmp_path / "d", [("clip#000003", 5, 0, None), ("clip#000003", 7, 1, None), ("clip#000004", 1, 1, None)])
    prompts = video_prompts(tmp_path / "d", clip, "boxes", alone=True)
    assert summaries(prompts) == [(2, 1, 5, "a"), (2, 2, 7, "b")]
    assert prompts[0].about["prompt_score"] == 0.5
    (point,) = {p.points for p in video_prompts(tmp_path / "d", clip, "points", alone=True) if p.object_id == 1}
    assert point == ((9.5, 5.0),)


def test_a_table_says_which_frames(tmp_path, clip):
    table = pd.DataFrame(
        {"frame": [4, 0, 0, 9], "object": ["cat", "cat", "dog", "cat"], "x1": 1, "y1": 1, "x2": [5, 6, 7, 8], "y2": 9}
    )
    table.to_csv(tmp_path / "p.csv", index=False)
    prompts = video_prompts(tmp_path / "p.csv", clip, "boxes", alone=True)
    assert [(p.frame, p.object_id, p.box[2]) for p in prompts] == [(0, 1, 6), (0, 2, 7), (4, 1, 5), (9, 1, 8)]
    assert [p.frame for p in unreachable_prompts(prompts, 6)] == [9]
    with pytest.raises(ValueError, match="no column image_id or file to say which of the videos"):
        video_prompts(tmp_path / "p.csv", clip, "boxes", alone=False)
    for name in ("clip", "clip.avi", clip.part.path):
        table.assign(file=name).to_json(tmp_path / "p.json", orient="records")
        assert len(video_prompts(tmp_path / "p.json", clip, "boxes", alone=False)) == 4
    table.assign(file="other.avi").to_json(tmp_path / "p.json", orient="records")
    assert video_prompts(tmp_path / "p.json", clip, "boxes", alone=False) == []


def test_objects_may_bear_any_name(tmp_path, clip):
    names = ["NA", "null", "nan", "None", "1e400", "99999999999999999999"]
    table = pd.DataFrame({"frame": range(6), "object": names, "class_name": names, "x1": 1, "y1": 1, "x2": 9, "y2": 9})
    table.to_csv(tmp_path / "p.csv", index=False)
    prompts = video_prompts(tmp_path / "p.csv", clip, "boxes", alone=True)
    assert [(p.frame, p.object_id) for p in prompts] == [(number, number + 1) for number in range(6)]
    assert [p.about["class_name"] for p in prompts] == names


def test_points_of_an_object_belong_together(tmp_path, clip):
    rows = [
        {"frame": 2, "object": 7, "x": 3, "y": 4, "label": 1},
        {"frame": 2, "object": 7, "x": 8, "y": 9, "label": 0},
        {"frame": 2, "object": 3, "x": 1, "y": 2, "label": 1},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    first, second = video_prompts(tmp_path / "p.parquet", clip, "points", alone=True)
    assert (first.object_id, first.points, first.labels, first.box) == (3, ((1, 2),), (1,), None)
    assert (second.object_id, second.points, second.labels) == (7, ((3, 4), (8, 9)), (1, 0))


def test_frames_are_also_told_by_their_names(tmp_path, clip):
    table = pd.DataFrame({"file": ["clip.avi#000003"], "x1": 1, "y1": 1, "x2": 9, "y2": 9})
    table.to_csv(tmp_path / "p.csv", index=False)
    assert summaries(video_prompts(tmp_path / "p.csv", clip, "boxes", alone=False)) == [(2, 1, 1, "object")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"frame": [-1], "x1": 1, "y1": 1, "x2": 5, "y2": 9}, "frame must be a whole number from 0, not -1"),
        ({"frame": ["x"], "x1": 1, "y1": 1, "x2": 5, "y2": 9}, "frame must be a whole number from 0, not x"),
        ({"frame": [1], "x1": 1, "y1": 1, "x2": 5}, "no column y2"),
        ({"frame": [1, 1], "object": [2, 2], "x1": [1, 2], "y1": 1, "x2": 5, "y2": 9}, "an object has two boxes"),
        ({"x1": [1], "y1": 1, "x2": 5, "y2": 9}, "no column image_id or file"),
        ({"frame": [1e300], "x1": 1, "y1": 1, "x2": 5, "y2": 9}, "frame must be a whole number from 0, not 1e"),
        ({"frame": [1, 2], "object": ["cat", None], "x1": 1, "y1": 1, "x2": 5, "y2": 9}, "object is missing in 1 rows"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, clip, rows, words):
    pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ValueError, match=words):
        video_prompts(tmp_path / "p.csv", clip, "boxes", alone=True)


def test_first_prompts():
    from cnn_core.segmentation.video.prompts import VideoPrompt

    prompts = [VideoPrompt(frame=f, object_id=n) for f, n in ((3, 1), (0, 2), (3, 2), (5, 1))]
    begins = first_prompts(group_by_frame(prompts))
    assert {frame: list(own) for frame, own in begins.items()} == {0: [2], 3: [1]}


def test_a_folder_is_a_clip_in_the_order_of_people(tmp_path):
    for name in ("one", "two"):
        write_folder(tmp_path / "shots" / name, frames(11, 16, 32)[0])
    write_video(tmp_path / "shots" / "film.avi", frames(3, 16, 32)[0])
    media = list_media(str(tmp_path / "shots"), vid_stride=1)
    assert [part.path for part in clip_parts(media, folders=False)] == [str(tmp_path / "shots/film.avi")]
    one, two, film = (Clip(part) for part in clip_parts(media, folders=True))
    assert [Clip(part).part.first for part in clip_parts(media, folders=True)] == [0, 0, 0]
    assert [part.first for part in clip_parts(media, folders=True)] == [0, 11, 22]
    assert (one.name, two.name, film.name) == ("one", "two", "film")
    assert one.image_ids == [f"one/frame{number}" for number in range(11)]
    assert film.image_ids == ["film#000001", "film#000002", "film#000003"]
    assert sorted(["b10", "b9", "a", "b"], key=natural) == ["a", "b", "b9", "b10"]
    assert {"one", str(tmp_path / "shots" / "one")} <= one.names


def test_a_stride_takes_every_second_frame(tmp_path):
    video = write_video(tmp_path / "clip.avi", frames(6, 16, 32)[0], fps=10)
    (clip,) = clips(video, vid_stride=2)
    assert (len(clip), clip.fps, len(list(clip))) == (3, 5.0, 3)
    every = [frame.image for frame in clips(video)[0]]
    assert np.array_equal([frame.image for frame in clip][1], every[3])


def test_a_truncated_video_is_noticed(tmp_path):
    video = write_video(tmp_path / "clip.avi", frames(40, 16, 32)[0])
    (clip,) = clips(video)
    assert shortfall(clip, len(list(clip))) is None
    assert shortfall(clip, 38) is None  # headers are not that exact
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (clip,) = clips(video)
    read = len(list(clip))
    assert 0 < read < 38
    fault = shortfall(clip, read)
    assert fault is not None
    assert fault.reason == CUT_SHORT
    assert fault.detail.startswith(f"its header says 40 frames, and {read} can be read")
