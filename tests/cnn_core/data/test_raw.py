"""RAW and AUGMENTED sets: what is written is read back, whole or not at all, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnn_core.data import raw
from cnn_core.data.augmented import arrays_writer, load_arrays, read_dataset
from cnn_core.data.raw import (
    RawRow,
    decode_images,
    raw_parts,
    read_images,
    read_manifest,
    read_quarantine,
    read_raw,
    write_raw,
)
from cnn_core.data.validation import Refusal
from cnn_core.files import whole_folder
from cnn_core.images.decoding import encode_png, pixels_sha256
from tests.helpers.pixel_files import digits

CLASSES = [str(label) for label in range(10)]
QUARANTINE = [Refusal(id="train/77", reason="pixel missing", detail="pixel1 is nan")]


def raw_rows(count: int) -> list[RawRow]:
    images, labels = digits(count)
    splits = ["train", "train", "val", "test", "unlabelled"]
    return [
        RawRow(
            id=f"train/{row + 1:05d}",
            image=encode_png(images[row]),
            label=-1 if splits[row % 5] == "unlabelled" else int(labels[row]),
            split=splits[row % 5],
            width=28,
            height=28,
            sha256=pixels_sha256(images[row]),
        )
        for row in range(count)
    ]


def file_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_few_images_are_read_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "PART_BYTES", 2 << 20)
    noise = np.random.default_rng(0).integers(0, 256, (48, 512, 1024), dtype=np.uint8)
    rows = [dataclasses.replace(row, image=pixels.tobytes()) for row, pixels in zip(raw_rows(48), noise, strict=True)]
    write_raw(tmp_path / "raw", rows, [], {"set": "x", "classes": CLASSES})  # 25 MB in parts of 2 MB
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        images = read_images(tmp_path / "raw", {rows[3].id, rows[40].id, "train/none"})
    finally:
        pa.set_memory_pool(before)
    assert images == {rows[3].id: rows[3].image, rows[40].id: rows[40].image}
    assert pool.max_memory() < 15_000_000


def test_raw_round_trip(tmp_path):
    rows, (images, labels) = raw_rows(23), digits(23)
    manifest = write_raw(tmp_path / "raw/digits", rows, QUARANTINE, {"set": "digits", "classes": CLASSES})
    assert read_manifest(tmp_path / "raw/digits") == manifest
    assert manifest["counts"] == {"train": 10, "val": 5, "test": 4, "unlabelled": 4}
    assert manifest["class_counts"]["val"] == {name: 3 if name == "2" else 2 if name == "7" else 0 for name in CLASSES}
    everything, val = read_raw(tmp_path / "raw/digits"), read_raw(tmp_path / "raw/digits", "val")
    assert everything.ids == [row.id for row in rows], "in source order"
    assert everything.splits == [row.split for row in rows]
    assert (decode_images(everything.images)[:, 0] == images).all()
    assert everything.labels.dtype == np.int64
    assert val.labels.tolist() == labels[2::5].tolist()
    assert set(val.splits) == {"val"}
    assert val.sha256 == [pixels_sha256(image) for image in images[2::5]]
    assert (read_raw(tmp_path / "raw/digits", "unlabelled").labels == -1).all()
    assert read_quarantine(tmp_path / "raw/digits") == [
        {"id": "train/77", "reason": "pixel missing", "detail": "pixel1 is nan"}
    ]


def test_raw_is_cut_into_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "PART_ROWS", 4)
    write_raw(tmp_path / "raw", raw_rows(10), [], {"classes": CLASSES})
    sizes = [pq.read_metadata(part).num_rows for part in sorted((tmp_path / "raw").glob("part-*.parquet"))]
    assert sizes == [4, 4, 2]
    assert read_raw(tmp_path / "raw").ids == [row.id for row in raw_rows(10)]


def test_parts_are_written_as_the_rows_come_and_fit_in_memory(tmp_path, monkeypatch):
    rows = raw_rows(12)
    monkeypatch.setattr(raw, "PART_BYTES", 3 * max(len(row.image) for row in rows))
    seen = []

    def coming():
        for row in rows:
            seen.append(len(list((tmp_path / ".raw.partial").glob("part-*"))))
            yield row

    write_raw(tmp_path / "raw", coming(), [], {"classes": CLASSES})
    assert seen[-1] >= 3, "earlier parts are on the disk before the last row is asked for"
    parts = list(raw_parts(tmp_path / "raw", "train"))
    assert len(parts) >= 4
    assert [id_ for part in parts for id_ in part.ids] == read_raw(tmp_path / "raw", "train", images=False).ids
    assert read_raw(tmp_path / "raw", "train", images=False).images == []


def test_the_contracts_columns(tmp_path):
    write_raw(tmp_path / "raw", raw_rows(5), [], {"classes": CLASSES})
    names = pq.read_schema(tmp_path / "raw/part-00000.parquet").names
    assert names == ["id", "image", "label", "split", "width", "height", "sha256"]
    assert pq.read_schema(tmp_path / "raw/quarantine.parquet").names == ["id", "reason", "detail"]
    assert pq.read_metadata(tmp_path / "raw/quarantine.parquet").num_rows == 0


def test_the_same_rows_give_the_same_bytes_and_other_rows_another_hash(tmp_path):
    moved = [dataclasses.replace(row, split="train") for row in raw_rows(20)]
    hashes = [
        write_raw(tmp_path / name, rows, QUARANTINE, {"classes": CLASSES})["content_sha256"]
        for name, rows in (("a", raw_rows(20)), ("b", raw_rows(20)), ("c", raw_rows(20)[:-1]), ("d", moved))
    ]
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_missing_or_old_set_says_which_stage_makes_it(tmp_path):
    with pytest.raises(ValueError, match="the stage ingest writes it"):
        read_raw(tmp_path / "raw")
    write_raw(tmp_path / "raw", raw_rows(5), [], {"classes": CLASSES})
    manifest = tmp_path / "raw/manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 0'))
    with pytest.raises(ValueError, match="schema version 0, not 1: run the stage ingest again"):
        read_raw(tmp_path / "raw")
    with pytest.raises(ValueError, match="'training' is no split"):
        read_raw(tmp_path / "raw", "training")


def test_decode_modes_and_sizes():
    grey = np.arange(80, dtype=np.uint8).reshape(8, 10)
    colour = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)
    assert (decode_images([encode_png(grey)]) == grey).all()
    assert decode_images([encode_png(grey)], "RGB").shape == (1, 3, 8, 10)
    assert (decode_images([encode_png(colour)], "RGB")[0].transpose(1, 2, 0) == colour).all()
    with pytest.raises(ValueError, match=r"image 1 has the shape \(1, 10, 8\), the first \(1, 8, 10\): set size"):
        decode_images([encode_png(grey), encode_png(grey.T.copy())])
    with pytest.raises(ValueError, match="no image to decode"):
        decode_images([])


def test_pixels_sha256_tells_shapes_apart():
    pixels = np.arange(12, dtype=np.uint8)
    assert pixels_sha256(pixels.reshape(3, 4)) != pixels_sha256(pixels.reshape(4, 3))
    assert pixels_sha256(pixels.reshape(3, 4).T) == pixels_sha256(pixels.reshape(3, 4).T.copy())


def write_arrays(folder: Path, copies: int = 2) -> None:
    images, labels = digits(12)
    with arrays_writer(folder, name="digits", classes=CLASSES, shape=(1, 28, 28), copies=copies) as writer:
        train = writer.add("train", [f"train/{row}" for row in range(9)], labels[:9])
        for copy in range(1 + copies):
            train[copy * 9 : (copy + 1) * 9, 0] = images[:9] // (1 + copy)
        writer.add("val", ["train/9", "train/10", "train/11"], labels[9:])[:, 0] = images[9:]
        writer.add("test", [], labels[:0])


def test_arrays_round_trip(tmp_path):
    write_arrays(tmp_path / "augmented")
    images, labels = digits(12)
    train, val, test = (load_arrays(tmp_path / "augmented", split) for split in ("train", "val", "test"))
    assert isinstance(train.images, np.memmap)
    assert not train.images.flags.writeable
    assert train.images.shape == (27, 1, 28, 28)
    assert (train.images[:9, 0] == images[:9]).all()
    assert (train.images[18:, 0] == images[:9] // 3).all()
    assert train.labels.tolist() == labels[:9].tolist() * 3
    assert train.labels.dtype == np.int64
    assert (train.ids[0], train.ids[9:11]) == ("train/0", ["train/0+1", "train/1+1"])
    assert len(set(train.ids)) == 27
    assert (val.images[:, 0] == images[9:]).all()
    assert val.ids == ["train/9", "train/10", "train/11"]
    assert (test.images.shape, test.ids) == ((0, 1, 28, 28), [])
    dataset = read_dataset(tmp_path / "augmented")
    assert dataset["counts"] == {"train": 27, "val": 3, "test": 0}
    assert (dataset["originals"], dataset["copies"], dataset["shape"]) == (9, 2, [1, 28, 28])
    assert dataset["mean"] == pytest.approx([(images[:9] / 255).mean()], abs=1e-6)
    assert dataset["std"] == pytest.approx([(images[:9] / 255).std()], abs=1e-6)


def test_arrays_have_the_same_bytes_every_time(tmp_path):
    write_arrays(tmp_path / "a")
    write_arrays(tmp_path / "b")
    write_arrays(tmp_path / "c", copies=1)
    assert file_bytes(tmp_path / "a") == file_bytes(tmp_path / "b")
    hashes = [read_dataset(tmp_path / name)["content_sha256"] for name in "ac"]
    assert hashes[0] != hashes[1]


def test_missing_arrays_say_which_stage_makes_them(tmp_path):
    with pytest.raises(ValueError, match="the stage augment writes it"):
        load_arrays(tmp_path, "train")
    with pytest.raises(ValueError, match="'unlabelled' is no split of augmented data"):
        load_arrays(tmp_path, "unlabelled")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_former_folder(tmp_path, error):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/old").write_text("1")

    def fail() -> None:
        with whole_folder(tmp_path / "set") as partial:
            (partial / "new").write_text("2")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["set", "set/old"]


def test_a_success_replaces_the_folder_and_what_a_killed_run_left(tmp_path):
    for name in ("set", ".set.partial", ".set.former"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("1")
    with whole_folder(tmp_path / "set") as partial:
        assert list(partial.iterdir()) == []
        (partial / "new").write_text(json.dumps(2))
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["set", "set/new"]


def test_what_stood_there_survives_a_failure_at_the_last_step_and_a_kill_there(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/old").write_text("1")

    def fail() -> None:
        with whole_folder(tmp_path / "set") as partial:
            partial.rmdir()  # so that the last rename fails

    with pytest.raises(FileNotFoundError):
        fail()
    assert (tmp_path / "set/old").exists()
    (tmp_path / "set").rename(tmp_path / ".set.former")
    with pytest.raises(FileNotFoundError):
        fail()
    assert (tmp_path / "set/old").exists()
