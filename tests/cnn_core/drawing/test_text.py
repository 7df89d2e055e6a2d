"""Names of classes in pictures: whatever they hold, a picture is drawn, and is no wider than it has to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cnn_core.annotations.masks import encode_mask
from cnn_core.drawing.boxes import draw_box
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.drawing.masks import overlay
from cnn_core.drawing.text import LONGEST, drawable
from cnn_core.drawing.video import VideoPicture
from tests.helpers.names import AWKWARD


@given(st.text())
def test_any_text_becomes_one_line_that_is_not_too_long(text: str) -> None:
    line = drawable(text)
    assert len(line) <= LONGEST
    assert not set(line) & set("\n\r\0\u2028")
    assert line == text or len(text) > LONGEST or not text.isprintable()


@pytest.mark.parametrize("name", [*AWKWARD, "\ud800", ""])
def test_a_name_stands_on_its_box_and_its_mask(name: str) -> None:
    picture = Image.new("RGB", (200, 100))
    draw_box(ImageDraw.Draw(picture), (20, 30, 90, 90), (22, 163, 74), text=name)
    assert np.asarray(picture).any()
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:30] = True
    row = {"class_id": 0, "class_name": name, "prompt_id": 1, "score": 0.5, "area": 200, "rle": encode_mask(mask)}
    row |= {"x1": 10.0, "y1": 10.0, "x2": 30.0, "y2": 20.0}
    assert overlay(np.zeros((40, 60, 3), np.uint8), [row], by_class=True).size == (660, 440)


def test_a_contact_sheet_of_all_names(tmp_path: Path) -> None:
    rows = [np.zeros((len(AWKWARD), 1, 8, 8), np.uint8)]
    contact_sheet(tmp_path / "a.png", rows, title="names", captions=[AWKWARD], headings=AWKWARD)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width < len(AWKWARD) * 12 * LONGEST


def test_a_contact_sheet_of_a_thread_of_pixels(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "a.png", [[np.zeros((3, 1, 2000), np.uint8)]], title="thin")
    assert (tmp_path / "a.png").is_file()


def test_a_video_with_names(tmp_path: Path) -> None:
    mask = np.ones((32, 48), bool)
    row = {"track_id": 1, "rle": encode_mask(mask), "x1": 0.0, "y1": 0.0, "x2": 48.0, "y2": 32.0}
    with VideoPicture(tmp_path / "a.mp4", 5.0) as video:
        for name in AWKWARD:
            video.add(np.zeros((32, 48, 3), np.uint8), [{**row, "class_name": name}])
    assert (tmp_path / "a.mp4").stat().st_size > 0
