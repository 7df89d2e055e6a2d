"""What a source is: every kind lists the same images, in parts that lose none and repeat none."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_core.images.decoding import BadImage
from cnn_core.images.lookup import SourceImages
from cnn_core.images.media import list_media
from cnn_core.images.reader import Reader, pixels, sizes_together

SIDE = 24


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE + number, SIDE), (number * 9, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def imread(path: str) -> np.ndarray | None:
    return cv2.imread(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images/deep").mkdir(parents=True)
    for number in range(7):
        (tmp_path / "images" / ("deep" if number % 2 else "") / f"{number}.png").write_bytes(png(number))
    (tmp_path / "images/notes.txt").write_text("no image")
    return tmp_path / "images"


def widths(source: object, size: int = 3) -> list[int]:
    read = Reader()
    entries = [entry for part in list_media(str(source)).parts(size) for entry in read(part)]
    assert [entry.number for entry in entries] == list(range(len(entries)))
    assert len({entry.image_id for entry in entries}) == len(entries)
    return sorted(pixels(entry, imread).shape[1] - SIDE for entry in entries)


def test_a_folder_a_zip_and_parquet_list_the_same_images(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folder).as_posix())
    table = pd.DataFrame({"id": [str(file) for file in files], "image": [file.read_bytes() for file in files]})
    (tmp_path / "tables").mkdir()
    table[:4].to_parquet(tmp_path / "tables/a.parquet")
    table[4:].to_parquet(tmp_path / "tables/b.parquet")
    table.drop(columns="id").to_parquet(tmp_path / "one.parquet")
    nested = pd.DataFrame({"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]})
    nested.to_parquet(tmp_path / "nested.parquet")
    for name in ("images", "all.zip", "tables", "one.parquet", "nested.parquet"):
        for size in (1, 3, 100):
            assert widths(tmp_path / name, size) == list(range(7)), name


def test_files_of_one_size_come_together_and_none_is_lost(folder: Path) -> None:
    for number in range(3):  # of the same sizes as the first three
        (folder / f"again-{number}.png").write_bytes(png(number))
    (folder / "broken.png").write_bytes(b"no image")
    (part,) = list_media(str(folder)).parts(20)
    given, sorted_ = list(Reader()(part)), sizes_together(Reader()(part))
    assert sorted(entry.number for entry in sorted_) == [entry.number for entry in given]
    assert Path(sorted_[0].file).name == "broken.png", "no size, no error: whoever decodes it says what is wrong"
    widths = [pixels(entry, imread).shape[1] - SIDE for entry in sorted_[1:]]
    assert widths == [0, 0, 1, 1, 2, 2, 3, 4, 5, 6]
    same = [entry.number for entry, width in zip(sorted_[1:], widths, strict=True) if width == 0]
    assert same == sorted(same), "within a size as they were"


def test_files_that_are_no_images_are_left_out_and_counted(folder: Path) -> None:
    media = list_media(folder)
    assert media.count == 7
    assert media.left_out == {".txt": 1}


def test_the_signature_changes_with_a_file(folder: Path) -> None:
    before = list_media(folder).signature
    assert list_media(folder).signature == before
    (folder / "0.png").write_bytes(png(3))
    assert list_media(folder).signature != before


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_nothing_there_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"name a folder, a \.zip"):
        list_media(tmp_path / name)


def test_files_are_chosen_by_a_pattern_at_any_depth(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder).as_posix())
    for source in (folder, tmp_path / "all.zip"):
        found = {match: list_media(source, match=match) for match in ("*", "*.png", "[0-2].png", "deep/*")}
        assert {match: media.count for match, media in found.items()} == {
            "*": 7,
            "*.png": 7,
            "[0-2].png": 3,
            "deep/*": 3,
        }
        others = {"*.png": 1, "[0-2].png": 5, "deep/*": 5}
        expected = [{f"that do not match {match}": count} for match, count in others.items()]
        assert [media.left_out for media in found.values()] == [{".txt": 1}, *expected]
        with pytest.raises(ValueError, match=r"no file in .* matches '\*\.gif'"):
            list_media(source, match="*.gif")


def test_a_pattern_is_no_source_and_what_to_name_instead_is_said(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"name the folder 'photos/2024' .* any depth: '\*\.jpg'$"):
        list_media("photos/2024/**/*.jpg")
    with pytest.raises(ValueError, match=r"name the folder '\.' .* any depth: '\[ab\]/x\.png'$"):
        list_media("[ab]/x.png")
    (folder / "odd[1].png").write_bytes(png(1))
    assert list_media(folder / "odd[1].png").count == 1


def write_video(path: Path, count: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), number * 10, np.uint8))
    writer.release()


@pytest.mark.parametrize(("stride", "values"), [(1, range(0, 200, 10)), (3, range(20, 180, 30))])
def test_a_videos_frames_are_read_in_parts_and_after_a_resumption(tmp_path: Path, stride: int, values: range) -> None:
    write_video(tmp_path / "clip.avi", 20)
    media = list_media(tmp_path / "clip.avi", vid_stride=stride)
    parts = media.parts(4)
    for skipped in (0, 1):
        read = Reader(vid_stride=stride)
        entries = [entry for part in parts[skipped:] for entry in read(part)]
        seen = [round(float(pixels(entry, imread).mean())) for entry in entries]
        assert np.allclose(seen, list(values)[4 * skipped :], atol=2)
        assert entries[0].image_id == f"clip#{4 * skipped + 1:06d}"


def test_a_video_that_cannot_be_opened_is_one_bad_image(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    (part,) = list_media(tmp_path).parts(10)
    (entry,) = Reader()(part)
    with pytest.raises(BadImage, match="no frame"):
        pixels(entry, imread)


def broken(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am no image", "not an image"),
        (broken("JPEG")[:1000], "damaged image"),
        (broken("PNG")[:1000], "damaged image"),
    ],
)
def test_a_bad_image_is_refused_with_its_reason_by_path_and_by_bytes(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    pd.DataFrame({"image": [data]}).to_parquet(tmp_path / "a.parquet")
    for source in (tmp_path / "a.jpg", tmp_path / "a.parquet"):
        (part,) = list_media(source).parts(1)
        (entry,) = Reader()(part)
        with pytest.raises(BadImage) as fault:
            pixels(entry, imread)
        assert fault.value.reason == reason


def test_a_good_jpeg_with_something_behind_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(broken("JPEG") + b"a camera's own data")
    (part,) = list_media(tmp_path).parts(1)
    (entry,) = Reader()(part)
    assert pixels(entry, imread).shape == (64, 64, 3)


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a", "a"], "image": [png(0), png(1)]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="an id twice"):
        list_media(tmp_path / "a.parquet")


def test_a_list_of_images_is_a_source(folder: Path, tmp_path: Path) -> None:
    files = ["images/0.png", str(folder / "deep/1.png"), "images/2.png", "images/gone.png", "images/0.png"]
    (tmp_path / "list.txt").write_text("\n".join(files) + "\n")
    media = list_media(tmp_path / "list.txt")
    assert (media.count, media.left_out) == (4, {"lines that name a file again": 1})
    (part,) = media.parts(10)
    entries = list(Reader()(part))
    assert [pixels(entry, imread).shape[1] - SIDE for entry in entries[:3]] == [0, 1, 2]
    with pytest.raises(BadImage, match="cannot be read: No such file"):
        pixels(entries[3], imread)
    assert SourceImages(media).by_file[entries[1].file] == entries[1].image_id


def test_a_linked_folder_is_no_empty_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    (folder / "cam").symlink_to(tmp_path / "cam")
    with pytest.raises(ValueError, match="images/cam is a link to the folder"):
        list_media(folder)


def test_too_many_pixels_are_refused_by_the_header_whoever_decodes(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8000, 8000), np.uint8)).save(tmp_path / "bomb.png")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "bomb.png", "bomb.png")
    for source in ("bomb.png", "all.zip"):
        (part,) = list_media(tmp_path / source).parts(1)
        (entry,) = Reader()(part)
        with pytest.raises(BadImage, match="too many pixels: 8000x8000"):
            pixels(entry, lambda _: pytest.fail("decoded"))


def test_12_bits_in_16_are_not_black(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        Image.fromarray(np.full((40, 50), 4000, np.uint16)).save(tmp_path / name)
        (part,) = list_media(tmp_path / name).parts(1)
        assert pixels(*Reader()(part), imread).min() > 240
