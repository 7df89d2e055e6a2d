"""What a person pointed at is counted in full: read, refused, left out, promised by a header."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnn_core.annotations.masks import encode_mask
from cnn_core.files import write_json
from cnn_core.images.media import list_media
from cnn_core.images.reader import Reader
from tasks.common.prediction_parts import (
    DROPPED_PROMPTS,
    MASK_COLUMNS,
    account,
    gather,
    log_left_out,
    write_part,
    write_rows,
)
from tasks.common.predictions import MASKS, read_predictions

WORDS = ("NA", "N/A", "null", "None", "nan", "NaN", "<NA>", "#N/A", "true", "1", "1.0", "007", "inf", "object", "a,b")
NAMES = st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=9))
MASK = encode_mask(np.eye(4, dtype=bool))


def clip(path: Path, frames: int) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return path.read_bytes()


def test_frames_that_only_a_header_promises_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = clip(tmp_path / "clip.avi", 40)
    (tmp_path / "clip.avi").write_bytes(video[: len(video) * 6 // 10])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_text("")
    media, reader = list_media(tmp_path), Reader()
    read = sum(1 for part in media.parts(8) for _ in reader(part))
    counts = account(media, {"images": read, "bad": 0}, "clips")
    assert 10 < read < 38
    assert counts == {"listed": 42, "left_out": 2, "missing_frames": 40 - read}
    log_left_out(media, "clips")
    out = capsys.readouterr().out
    assert f"warning: {40 - read} of the 40 images of clips are frames that a video's header promises" in out
    assert "left out of clips: 1 .txt, 1 hidden" in out


def test_a_whole_source_has_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip(tmp_path / "clip.avi", 12)
    media = list_media(tmp_path)
    assert account(media, {"images": 11, "bad": 1}, "clips") == {"listed": 12, "left_out": 0, "missing_frames": 0}
    log_left_out(media, "clips")
    assert account(media, {"images": 10, "bad": 0}, "clips")["missing_frames"] == 2
    assert capsys.readouterr().out == "", "a header that is wrong by two frames is no news"


@settings(max_examples=6, database=None, derandomize=True)
@example([*WORDS[:5]], [*WORDS[5:10]])
@example([*WORDS[10:]], [*WORDS[:5]])
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True), st.lists(NAMES, min_size=5, max_size=5))
def test_names_come_back_from_the_output_as_they_went_in(tmp_path_factory, image_ids: list[str], classes: list[str]):
    root = tmp_path_factory.mktemp("parts")
    folders = []
    for number, image_id in enumerate(image_ids):
        folder = root / f"part-{number}"
        folder.mkdir()
        named = {"image_id": image_id, "file": f"folder/{image_id}"}
        row = {**named, "class_id": number, "class_name": classes[number], "x1": 0.0, "y1": 0.0, "x2": 4.0, "y2": 4.0}
        row |= {"score": 0.5, "rle": MASK, "area": 4, "stability": 1.0, "prompt_id": 0, "prompt_score": 0.5}
        bad = {"image_id": f"{image_id}!", "file": f"{image_id}!", "reason": classes[number], "detail": image_id}
        write_part(folder, [row | {"model_sha256": "00"}], [{**named, "width": 4, "height": 4}], [bad], MASK_COLUMNS)
        write_rows(folder / "dropped.parquet", [{**named, "prompt_id": 1, "reason": "none"}], DROPPED_PROMPTS)
        write_json(folder / "model.json", {"names": classes, "sha256": "00"})
        folders.append(folder)
    out = root / "out"
    out.mkdir()
    gathered = gather(folders, out, source="folder", truth="none", tables=("dropped",))
    assert gathered.classes == {name: classes[: len(image_ids)].count(name) for name in sorted(gathered.classes)}
    assert sum(gathered.classes.values()) == len(image_ids)
    write_json(out / "manifest.json", {"classes": classes, "model_sha256": "00"})
    predictions = read_predictions(out, made_by=MASKS)
    assert predictions.objects["class_name"].tolist() == classes[: len(image_ids)]
    assert predictions.images["image_id"].tolist() == image_ids
    assert predictions.bad["reason"].tolist() == classes[: len(image_ids)]
    assert pd.read_parquet(out / "dropped.parquet")["image_id"].tolist() == image_ids
    entries = json.loads((out / "coco.json").read_text())
    assert [entry["file_name"] for entry in entries] == [f"folder/{image_id}" for image_id in image_ids]
    refused = pd.read_csv(Path(out, "bad.csv"), dtype=str, keep_default_na=False)
    assert refused["detail"].str.strip().tolist() == [name.strip() for name in image_ids]
