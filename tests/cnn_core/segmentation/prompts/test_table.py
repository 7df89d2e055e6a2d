"""Prompts from detect's output and from a user's own file: which image they are of, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cnn_core.annotations.tables import objects_table, write_objects
from cnn_core.files import write_json
from cnn_core.images.media import Media, list_media
from cnn_core.segmentation.prompts.table import PromptTable, check_prompts, write_prompts

BOX = {"x1": 1, "y1": 2, "x2": 5, "y2": 6}


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Media:
    """Five images, two of them with one name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.png", "c.jpg", "day/x.jpg", "night/x.jpg"):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return list_media("photos")


def written(rows: Any, media: Media, kind: Any = "boxes", name: str = "own.csv") -> tuple[Any, PromptTable]:
    frame = pd.DataFrame(rows)
    if name.endswith(".csv"):
        frame.to_csv(name, index=False)
    elif name.endswith(".json"):
        Path(name).write_text(json.dumps(rows))
    else:
        frame.to_parquet(name)
    return write_prompts(name, "prompts.parquet", media, kind), PromptTable("prompts.parquet")


@pytest.mark.parametrize("name", ["own.csv", "own.json", "own.parquet"])
def test_a_file_of_the_users_own(media, name):
    rows = [
        {"image_id": "b", **BOX, "class_name": "dog"},
        {"image_id": "a", **BOX, "class_name": "cat"},
        {"image_id": "b", "x1": 7.5, "y1": 8, "x2": 9, "y2": 10, "class_name": "cat"},
    ]
    summary, table = written(rows, media, name=name)
    assert (summary.images, summary.prompts, summary.elsewhere, summary.classes) == (2, 3, 0, ["cat", "dog"])
    found = table(["a", "b", "c"])
    assert set(found) == {"a", "b"}
    ((about, arrays),) = found["b"].groups()
    assert arrays["boxes"].tolist() == [[1, 2, 5, 6], [7.5, 8, 9, 10]]
    assert [(row["prompt_id"], row["class_id"], row["class_name"]) for row in about] == [(0, 1, "dog"), (1, 0, "cat")]
    assert about[0]["track_id"] is None
    assert np.isnan(about[0]["prompt_score"])
    assert table([]) == {}


def test_what_detect_found_keeps_its_class_score_and_track(media):
    folder = Path("detect")
    folder.mkdir()
    row = {"image_id": "a", "class_id": 3, "class_name": "3", **BOX, "score": 0.75, "file": "photos/a.jpg"}
    for number, rows in enumerate([[row, row | {"track_id": 8, "x2": 4}], [], [row | {"image_id": "c"}]]):
        write_objects(folder / f"part-{number:05d}.parquet", objects_table(rows))
    write_json(folder / "manifest.json", {"classes": list("0123")})
    summary = write_prompts(folder, "prompts.parquet", media, "boxes")
    assert (summary.images, summary.prompts, summary.classes) == (2, 3, list("0123"))
    ((about, arrays),) = PromptTable("prompts.parquet")(["a"])["a"].groups()
    assert [row["track_id"] for row in about] == [None, 8]
    assert [row["prompt_score"] for row in about] == [0.75, 0.75]
    assert [row["class_id"] for row in about] == [3, 3]
    assert arrays["boxes"][1].tolist() == [1, 2, 4, 6]
    write_prompts(folder, "prompts.parquet", media, "points")
    ((_, arrays),) = PromptTable("prompts.parquet")(["a"])["a"].groups()
    assert arrays["points"].tolist() == [[[3, 4]], [[2.5, 4]]], "a box's centre"
    assert set(arrays) == {"points", "labels"}


def test_points_of_one_object_belong_together(media):
    points = [("hat", 1, 1, 1), ("hat", 2, 2, 0), ("dog", 3, 3, None), ("hat", 4, 4, 1)]
    rows = [{"image_id": "a", "object": name, "x": x, "y": y, "label": label} for name, x, y, label in points]
    _, table = written(rows, media, "points")
    (first, one), (second, two) = table(["a"])["a"].groups()
    assert [row["prompt_id"] for row in first + second] == [0, 1]
    assert one["points"].tolist() == [[[1, 1], [2, 2], [4, 4]]]
    assert one["labels"].tolist() == [[1, 0, 1]]
    assert two["points"].tolist() == [[[3, 3]]]
    assert first[0]["class_name"] == "object"


def test_a_box_and_points_may_be_of_the_same_object(media):
    rows: list[dict[str, Any]] = [
        {"image_id": "a", "object": 1, **BOX},
        {"image_id": "a", "object": 1, "x": 3, "y": 3, "label": 0},
        {"image_id": "a", "object": 2, **BOX},
    ]
    _, table = written(rows, media)
    (_, both), (_, alone) = table(["a"])["a"].groups()
    assert both["boxes"].tolist() == alone["boxes"].tolist() == [[1, 2, 5, 6]]
    assert both["points"].tolist() == [[[3, 3]]]
    assert set(alone) == {"boxes"}


@pytest.mark.parametrize("file", ["photos/day/x.jpg", "day/x.jpg"])
def test_images_are_named_by_their_files_too(media, file):
    summary, table = written([{"file": file, **BOX}], media)
    assert summary.images == 1
    assert set(table(["day/x", "night/x"])) == {"day/x"}


def test_an_image_without_prompts_is_fine(media):
    nothing = dict.fromkeys(BOX)
    summary, table = written([{"image_id": "a", **BOX}, {"image_id": "b", **nothing}], media)
    assert (summary.images, summary.prompts, summary.elsewhere) == (1, 1, 0)
    assert set(table(["a", "b"])) == {"a"}
    summary, table = written([{"image_id": "b", **nothing}], media, name="own.parquet")
    assert (summary.images, summary.prompts) == (0, 0)
    assert table(["b"]) == {}


def test_images_that_are_elsewhere_are_counted(media):
    summary, _ = written([{"image_id": name, **BOX} for name in ("zoo", "a", "zoo", "far")], media)
    assert (summary.images, summary.elsewhere, summary.first_elsewhere) == (1, 2, "zoo")
    with pytest.raises(ValueError, match="names no image of the source: zoo is not there"):
        written([{"image_id": "zoo", **BOX}], media)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([{"image": "a", **BOX}], "boxes", "has no column image_id or file; it has image, x1, y1, x2, y2"),
        ([{"image_id": "a"}], "boxes", "it needs x1, y1, x2, y2 and/or x, y; it has image_id"),
        ([{"image_id": "a", "x1": 1, "y1": 1, "x2": 2}], "boxes", "has no column y2; a box needs x1, y1, x2, y2"),
        ([{"image_id": "a", "x": 1}], "points", "has no column y; a point needs x, y"),
        ([{"image_id": "a", **BOX, "x1": "left"}], "boxes", "x1 must be a number, not left"),
        ([{"image_id": "a", **BOX, "x1": float("inf")}], "boxes", "x1 must be a number, not inf"),
        ([{"image_id": "a", **BOX, "x2": None}], "boxes", "a box of image a lacks x2"),
        ([{"image_id": "a", "x": 1, "y": 1, "label": 2}], "points", r"label must be 1 .* or 0 .*, not 2"),
        ([{"image_id": "a", "x": 1, "y": 1}], "boxes", r"a point without a box \(image a\): set prompt to points"),
        ([{"image_id": "a", **BOX, "class_id": -1}], "boxes", "class_id must be a whole number from 0"),
        (
            [{"image_id": "a", **BOX, "class_id": 1, "class_name": name} for name in "xy"],
            "boxes",
            "class_id 1 has several names",
        ),
        (
            [{"image_id": "a", **BOX, "object": 1}, {"image_id": "a", **BOX, "x2": 9, "object": 1}],
            "boxes",
            "an object has two boxes",
        ),
        ([{"file": "x.jpg", **BOX}], "boxes", "x.jpg could be any of 2 images: name it with its folder"),
    ],
)
def test_wrong_tables_say_what_is_wrong(media, rows, kind, message):
    with pytest.raises(ValueError, match=message):
        written(rows, media, kind)


def test_files_that_are_no_tables(media):
    for name, content in (("own.json", "{"), ("own.json", "3"), ("own.parquet", "no"), ("own.csv", "")):
        Path(name).write_text(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a table of prompts"):
            write_prompts(name, "prompts.parquet", media, "boxes")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data/predictions/detect", "do not exist: run `dvc repro detect`, name a .parquet, .csv or .json"),
        ("data/weights/none", "stands for no prompts"),
        ("photos", "has no part-.*parquet: it is no output of the stage detect"),
        ("photos/a.jpg", "must end in .parquet, .csv or .json"),
    ],
)
def test_what_holds_no_prompts_is_told(media, name, message):
    with pytest.raises(ValueError, match=message):
        check_prompts(name)


def test_frames_of_a_video_and_rows_of_a_table_have_names(tmp_path, media):
    import cv2

    writer = cv2.VideoWriter("photos/clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(3):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    summary, _ = written([{"image_id": "clip#000003", **BOX}, {"image_id": "clip#000004", **BOX}], list_media("photos"))
    assert (summary.images, summary.first_elsewhere) == (1, "clip#000004")
    pd.DataFrame({"image": [b"x", b"y"]}).to_parquet("set.parquet")
    summary, _ = written([{"image_id": "set:1", **BOX}, {"image_id": "set:2", **BOX}], list_media("set.parquet"))
    assert (summary.images, summary.first_elsewhere) == (1, "set:2")
