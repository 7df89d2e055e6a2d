"""What a model has learned from is known by pixels: the claim that images are unseen is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cnn_core.files import MODEL_FILE
from cnn_core.images.seen import Overlap, claim, overlap, pixel_hashes, read_seen, write_seen
from tests.helpers.detector_files import photograph


def pictures(folder: Path, numbers: range, ending: str = "png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.{ending}" for number in numbers]
    for number, file in zip(numbers, files, strict=True):
        Image.fromarray(photograph(30, 40, number)).save(file)
    return [str(file) for file in files]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder that learned from the pictures 0 to 5 and was chosen by 6 and 7."""
    parts = {"train": pictures(tmp_path / "a", range(6)), "val": pictures(tmp_path / "a", range(6, 8))}
    (tmp_path / "model").mkdir()
    write_seen(tmp_path / "model", parts, start="none", threads=2)
    return tmp_path / "model"


def test_the_same_pixels_are_seen_under_any_name_and_format(tmp_path: Path, model: Path) -> None:
    mixed = pictures(tmp_path / "b", range(4, 12), "bmp")
    assert overlap(model, mixed, threads=2) == Overlap(train=2, val=2, is_complete=True)
    assert "learned from 2 and its epoch was chosen by 2" in claim(overlap(model, mixed, threads=2))
    new = overlap(model, pictures(tmp_path / "c", range(20, 24)), threads=2)
    assert claim(new) == "that it has never seen"


def test_without_a_list_nothing_is_claimed(tmp_path: Path) -> None:
    assert overlap(tmp_path / "yolo11n.pt", [], threads=1) is None
    assert "not known" in claim(None)


def test_the_images_of_the_first_weights_count_too(tmp_path: Path, model: Path) -> None:
    (tmp_path / "next").mkdir()
    parts = {"train": pictures(tmp_path / "b", range(30, 33))}
    write_seen(tmp_path / "next", parts, start=str(model / MODEL_FILE), threads=1)
    same = pictures(tmp_path / "c", range(8))
    assert overlap(tmp_path / "next", same, threads=1) == Overlap(train=6, val=2, is_complete=True)
    (tmp_path / "last").mkdir()
    write_seen(tmp_path / "last", parts, start=str(tmp_path / "yolo11n.pt"), threads=1)
    seen = overlap(tmp_path / "last", same, threads=1)
    assert seen == Overlap(train=0, val=0, is_complete=False)
    assert claim(seen) == "that its training has not seen; its first weights may have"


def test_a_damaged_file_is_in_no_list(tmp_path: Path) -> None:
    good = pictures(tmp_path / "a", range(1))
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert pixel_hashes([str(tmp_path / "bad.png"), *good], threads=2)[0] is None
    write_seen(tmp_path, {"train": [str(tmp_path / "bad.png"), *good]}, start="none", threads=1)
    table = read_seen(tmp_path)
    assert table is not None
    assert len(table) == 1
