"""Any folder of images as a network's input."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from cnn_core.data.image_files import as_square, read_folder


def encoded(width=30, height=20, mode="RGB", form="PNG"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def files():
    return {"a.png": encoded(), "deep/b.jpg": encoded(form="JPEG"), "c.png": encoded()[:60], "notes.txt": b"no image"}


def names_of(path, shape=(3, 16, 16)):
    count, blocks = read_folder(path, shape)
    blocks = list(blocks)
    names = [name for block in blocks for name in block.names]
    refused = {entry.id: entry.reason for block in blocks for entry in block.refused}
    assert count == len(names) + len(refused)
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
    assert refused == {"c.png": "damaged image", "notes.txt": "not an image"}


def test_an_image_becomes_its_middle_square():
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = (255, 0, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    square = as_square(buffer.getvalue(), (3, 20, 20))
    assert (square == np.array([255, 0, 0]).reshape(3, 1, 1)).all()
    assert as_square(buffer.getvalue(), (1, 20, 20)).tolist() == [[[76] * 20] * 20]


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"has no files: name a folder or a \.zip of images"):
        read_folder(tmp_path, (3, 16, 16))
