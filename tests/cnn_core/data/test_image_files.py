"""Any folder of images as a network's input."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from cnn_core.data import image_files
from cnn_core.data.image_files import read_folder, read_paths
from cnn_core.images.decoding import decode_square


def encoded(width=30, height=20, mode="RGB", form="PNG"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def files():
    return {"a.png": encoded(), "deep/b.jpg": encoded(form="JPEG"), "c.png": encoded()[:60], "notes.txt": b"no image"}


def names_of(path, shape=(3, 16, 16)):
    files = read_folder(path, shape)
    blocks = list(files.blocks)
    names = [name for block in blocks for name in block.names]
    refused = {entry.id: entry.reason for block in blocks for entry in block.refused}
    assert files.count == len(names) + len(refused)
    assert files.left_out == {".txt": 1}
    assert all(block.images.shape == (len(block.names), *shape) for block in blocks)
    return names, refused


def test_a_folder_and_a_zip_give_the_same(tmp_path, files):
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert names_of(tmp_path / "folder") == names_of(tmp_path / "all.zip")
    names, refused = names_of(tmp_path / "folder", (1, 16, 16))
    assert names == ["a.png", "deep/b.jpg"]
    assert refused == {"c.png": "damaged image"}


def test_an_image_becomes_its_middle_square():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = (255, 0, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    square = decode_square(buffer.getvalue(), 20)
    assert (square == np.array([255, 0, 0]).reshape(3, 1, 1)).all()
    assert decode_square(buffer.getvalue(), 20, "L").tolist() == [[[76] * 20] * 20]


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"has no images: name a folder or a \.zip of images"):
        read_folder(tmp_path, (3, 16, 16))
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"has no images \(there are 1 \.txt\)"):
        read_folder(tmp_path, (3, 16, 16))


def test_a_list_names_images_wherever_they_lie(tmp_path, monkeypatch):
    """Relative to the list or to the current folder; a file that is gone counts as refused, a repeated one as told."""
    for name in ("set/a.png", "elsewhere/b.png", "here/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    lines = ["a.png", "~/b.png", "c.png", "gone.png", "a.png"]
    (tmp_path / "set/list.txt").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "set/list.csv").write_text("label,file\n" + "".join(f"x,{line}\n" for line in lines))
    for name in ("list.txt", "list.csv"):
        files = read_paths([tmp_path / "set" / name], (3, 16, 16))
        (block,) = files.blocks
        assert block.names == [f"{tmp_path}/set/a.png", f"{tmp_path}/elsewhere/b.png", "c.png"]
        assert {entry.id: entry.reason for entry in block.refused} == {f"{tmp_path}/set/gone.png": "cannot be read"}
        assert (files.count, files.left_out) == (4, {"lines that name a file again": 1})


def test_few_bytes_wait_for_decoding_however_large_the_files(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encoded())
    monkeypatch.setattr(image_files, "BLOCK_BYTES", 2 * len(encoded()))
    assert [len(block.names) for block in read_folder(tmp_path, (3, 16, 16)).blocks] == [2, 2, 2]
