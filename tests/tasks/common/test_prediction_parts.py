"""What a person pointed at is counted in full: read, refused, left out, promised by a header."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cnn_core.images.media import list_media
from cnn_core.images.reader import Reader
from tasks.common.prediction_parts import account, log_left_out


def clip(path: Path, frames: int) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return path.read_bytes()


def test_frames_that_only_a_header_promises_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = clip(tmp_path / "clip.avi", 40)
    (tmp_path / "clip.avi").write_bytes(whole[: len(whole) * 6 // 10])
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
