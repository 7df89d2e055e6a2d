"""Prompts from detect's output and from a user's own file: which image they are of, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_core.annotations.tables import objects_table, write_objects
from cnn_core.files import write_json
from cnn_core.images.media import Media, Part, list_media
from cnn_core.segmentation.prompts.table import PromptTable, check_prompts, names_elsewhere, write_prompts

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
    assert (summary.images, summary.prompts, summary.elsewhere, summary.classes) == (2, 3, [], ["cat", "dog"])
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
    assert (summary.images, summary.prompts, summary.elsewhere) == (1, 1, [])
    assert set(table(["a", "b"])) == {"a"}
    summary, table = written([{"image_id": "b", **nothing}], media, name="own.parquet")
    assert (summary.images, summary.prompts) == (0, 0)
    assert table(["b"]) == {}


def test_images_that_are_elsewhere_are_counted(media):
    summary, _ = written([{"image_id": name, **BOX} for name in ("zoo", "a", "zoo", "far")], media)
    assert (summary.images, summary.elsewhere) == (1, ["zoo", "far"])
    with pytest.raises(ValueError, match="names no image of the source: zoo is not there"):
        written([{"image_id": "zoo", **BOX}], media)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([{"image": "a", **BOX}], "boxes", "has no column image_id or file; it has image, x1, y1, x2, y2"),
        ([{"image_id": "a"}], "boxes", r"it needs x1, y1, x2, y2 \(or x, y, w, h\) and/or x, y; it has image_id"),
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
        ([{"image_id": "a", **BOX}, {"image_id": None, **BOX}], "boxes", "image_id is missing in 1 rows"),
        ([{"image_id": "a", **BOX, "class_id": 10**9}], "boxes", "class_id must be a whole number from 0 to 999,999"),
        ([{"image_id": "a", **BOX, "track_id": 1.5}], "boxes", "track_id must be a whole number, not 1.5"),
        ([{"image_id": "a", **BOX, "track_id": "left"}], "boxes", "track_id must be a number, not left"),
        ([{"image_id": "a", **BOX, "score": "high"}], "boxes", "score must be a number, not high"),
        ([{"image_id": "a", "x": 1, "y": 2, "w": 3}], "boxes", "has x, y and w: call the sides of a box w and h"),
        ([{"image_id": "a", "x": 1, "y": 2, "width": 3, "height": 4}], "points", "call the sides of a box w and h"),
        ([{"image_id": "a", **dict.fromkeys(BOX, 0.5)}], "boxes", "x1, y1, x2, y2 lie between 0 and 1, as shares"),
        ([{"image_id": "a", "x": 0.2, "y": 0.1, "w": 0.5, "h": 0.4}], "boxes", "x, y, w, h lie between 0 and 1"),
        ([{"image_id": "a", "x": 0.2, "y": 1}], "points", "x, y lie between 0 and 1, as shares of the image do"),
    ],
)
def test_wrong_tables_say_what_is_wrong(media, rows, kind, message):
    with pytest.raises(ValueError, match=message):
        written(rows, media, kind)


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_x_y_w_h_are_a_box_and_no_point(media, kind):
    _, table = written([{"image_id": "a", "x": 50, "y": 40, "w": 100, "h": 120}], media, kind)
    ((_, arrays),) = table(["a"])["a"].groups()
    if kind == "boxes":
        assert arrays["boxes"].tolist() == [[50, 40, 150, 160]]
    else:
        assert arrays["points"].tolist() == [[[100, 100]]]


def test_a_box_of_one_pixel_is_no_share(media):
    _, table = written([{"image_id": "a", "x1": 0, "y1": 0, "x2": 1, "y2": 1}], media)
    assert set(table(["a"])) == {"a"}


@pytest.mark.parametrize("named", [{"image_id": "a.jpg"}, {"image_id": "photos/a.jpg"}, {"file": "a"}])
def test_an_id_and_a_files_name_stand_for_each_other(media, named):
    summary, table = written([{**named, **BOX}], media)
    assert (summary.images, summary.elsewhere) == (1, [])
    assert set(table(["a"])) == {"a"}


def test_coco_results_are_prompts(media):
    """As detect itself writes them, and as pycocotools does: with a number instead of the file's name."""
    result = {"image_id": 2, "category_id": 3, "bbox": [50, 40, 100, 120], "score": 0.9, "file_name": "a.jpg"}
    summary, table = written([result], media, name="coco.json")
    assert summary.images == 1
    ((about, arrays),) = table(["a"])["a"].groups()
    assert arrays["boxes"].tolist() == [[50, 40, 150, 160]]
    assert (about[0]["class_id"], about[0]["class_name"], about[0]["prompt_score"]) == (3, "category 3", 0.9)
    Path("photos/000000000139.jpg").touch()
    numbered = {name: value for name, value in result.items() if name != "file_name"} | {"image_id": 139}
    _, table = written([numbered], list_media("photos"), name="coco.json")
    assert set(table(["000000000139"])) == {"000000000139"}


def test_coco_instances_are_prompts(media):
    image, category = {"id": 7, "file_name": "a.jpg", "width": 9, "height": 9}, {"id": 2, "name": "None"}
    boxes = [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]}]
    instances = {"images": [image], "categories": [category], "annotations": boxes}
    Path("own.json").write_text(json.dumps(instances))
    write_prompts("own.json", "prompts.parquet", media, "boxes")
    ((about, arrays),) = PromptTable("prompts.parquet")(["a"])["a"].groups()
    assert arrays["boxes"].tolist() == [[1, 2, 4, 6]]
    assert about[0]["class_name"] == "None"


def test_rows_without_an_object_are_objects_by_themselves(media):
    rows = [{"image_id": "a", "object": name, "x": x, "y": 3} for x, name in enumerate(["nan", None, None, "nan"], 2)]
    _, table = written(rows, media, "points")
    points = [arrays["points"].tolist() for _, arrays in table(["a"])["a"].groups()]
    assert sorted(points, key=len) == [[[[2, 3], [5, 3]]], [[[3, 3]], [[4, 3]]]]


WORDS = ("NA", "N/A", "null", "None", "nan", "NaN", "<NA>", "#N/A", "true", "1", "1.0", "007", "1e5", "inf", "object")
NAMES = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/\\."), min_size=1, max_size=9),
)


@settings(max_examples=25, database=None, derandomize=True)
@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.data())
@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_no_name_of_an_image_a_class_or_an_object_means_anything_to_us(tmp_path_factory, ending, names, data):
    folder = tmp_path_factory.mktemp("names")
    files = tuple(f"{name}.jpg" for name in names)
    span = Part(kind="files", path="p", start=0, stop=len(names), first=0, names=files, ids=tuple(names))
    rows = [
        {"image_id": name, **BOX, "class_name": data.draw(NAMES), "object": data.draw(NAMES)}
        for name in names
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    path = folder / f"own.{ending}"
    if ending == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif ending == "json":
        path.write_text(json.dumps(rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    media = Media(spans=(span,), left_out={}, signature="")
    summary = write_prompts(path, folder / "prompts.parquet", media, "boxes")
    assert summary.classes == sorted({row["class_name"] for row in rows})
    table = PromptTable(folder / "prompts.parquet")(names)
    assert set(table) == set(names)
    for name in names:
        mine = [row for row in rows if row["image_id"] == name]
        first_of_each = list({row["object"]: row["class_name"] for row in reversed(mine)}.items())
        about = [row for prompts, _ in table[name].groups() for row in prompts]
        assert sorted(row["class_name"] for row in about) == sorted(class_name for _, class_name in first_of_each)


def test_an_image_in_two_tables_of_detect_has_all_its_prompts(media):
    folder = Path("detect")
    folder.mkdir()
    row = {"image_id": "a", "class_id": 0, "class_name": "0", **BOX, "score": 0.75, "file": "photos/a.jpg"}
    for number, rows in enumerate([[row, row | {"x2": 4}], [row | {"x2": 3}]]):
        write_objects(folder / f"part-{number:05d}.parquet", objects_table(rows))
    write_json(folder / "manifest.json", {"classes": ["0"]})
    summary = write_prompts(folder, "prompts.parquet", media, "boxes")
    assert (summary.images, summary.prompts) == (1, 3)
    ((about, arrays),) = PromptTable("prompts.parquet")(["a"])["a"].groups()
    assert [row["prompt_id"] for row in about] == [0, 1, 2]
    assert arrays["boxes"][:, 2].tolist() == [5, 4, 3]


def test_what_is_neither_an_image_nor_a_frame_nor_a_video_is_named(media):
    rows = [{"file": name, **BOX, "frame": 1} for name in ("clip.avi", "a.jpg", "clop.avi", "clop.avi")]
    pd.DataFrame(rows).to_csv("own.csv", index=False)
    assert names_elsewhere("own.csv", media, {"clip.avi", "clip"}) == ["clop.avi"]


def test_files_that_are_no_tables(media):
    for name, content in (("own.json", "{"), ("own.json", "3"), ("own.parquet", "no"), ("own.csv", "")):
        Path(name).write_text(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a table of prompts"):
            write_prompts(name, "prompts.parquet", media, "boxes")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data/predictions/detector", "do not exist: run `dvc repro detect`, name a .parquet, .csv or .json"),
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
    assert (summary.images, summary.elsewhere) == (1, ["clip#000004"])
    pd.DataFrame({"image": [b"x", b"y"]}).to_parquet("set.parquet")
    summary, _ = written([{"image_id": "set:1", **BOX}, {"image_id": "set:2", **BOX}], list_media("set.parquet"))
    assert (summary.images, summary.elsewhere) == (1, ["set:2"])
