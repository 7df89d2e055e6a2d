"""Folders of classes, tables beside images and Parquet files, as people and publishers have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnn_core.data.image_sources import open_images
from cnn_core.data.kinds import kind_of
from tests.helpers.image_files import encoded, put, scene, zipped

CLASSES = ("cat", "dog", "owl")
DATA = [encoded(scene(number, (16, 16))) for number in range(18)]
Write = Callable[[Path], object]


def read(path: Path) -> tuple[dict[str, list[str | None]], dict[str, str], tuple[str, ...], dict[str, int]]:
    """Part -> labels by name, id -> reason of the refused, the classes, and what was left out."""
    assert kind_of(path) == "images"
    with open_images(path, threads=1) as source:
        parts: dict[str, list[str | None]] = {}
        refused: dict[str, str] = {}
        for batch in source.batches():
            labels = [None] * len(batch.ids) if batch.labels is None else batch.labels.tolist()
            if labels:
                parts.setdefault(batch.part, []).extend(None if n is None else source.classes[n] for n in labels)
            refused |= {entry.id: entry.reason for entry in batch.refused}
        assert source.total == sum(map(len, parts.values())) + len(refused)
        assert (source.published_val, source.published_test) == tuple(
            part if part in parts else None for part in ("val", "test")
        )
        return parts, refused, tuple(source.classes), dict(source.left_out)


def folders(*parts: str) -> Write:
    """Six images a part, in a folder for each class."""

    def write(folder: Path) -> None:
        for number, data in enumerate(DATA[: 6 * len(parts)]):
            put(folder / parts[number // 6] / CLASSES[number % 3] / f"{number}.png", data)

    return write


SIX = [*"cdocdo"]
NAMED = {"c": "cat", "d": "dog", "o": "owl"}
LABELS = sorted(NAMED[letter] for letter in SIX)

FOLDERS = {
    "classes alone": (folders("."), ["train"]),
    "classes below folders": (folders("archive/flowers/flowers"), ["train"]),
    "train, val, test": (folders("train", "val", "test"), ["train", "val", "test"]),
    "train, valid, test": (folders("TRAIN", "VALID", "TEST"), ["train", "val", "test"]),
    "Training, Testing": (folders("Training", "Testing"), ["train", "test"]),
    "training_set, test_set": (folders("x/training_set/training_set", "x/test_set/test_set"), ["train", "test"]),
    "train, validation": (folders("data/train", "data/validation"), ["train", "val"]),
    "seg_train, seg_test": (folders("seg_train/seg_train", "seg_test/seg_test"), ["train", "test"]),
    "trainSet, testSet": (folders("trainSet", "testSet"), ["train", "test"]),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("write", "parts"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_a_class(tmp_path: Path, write: Write, parts: list[str], packed: bool) -> None:
    write(tmp_path / "source")
    source = zipped(tmp_path / "source", tmp_path / "a.zip") if packed else tmp_path / "source"
    found, refused, classes, left_out = read(source)
    assert {part: sorted(labels) for part, labels in found.items()} == dict.fromkeys(parts, LABELS)
    assert (refused, classes, left_out) == ({}, CLASSES, {})


def test_classes_called_as_a_part_is(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        put(tmp_path / name / "1.png", encoded(scene(len(name), (16, 16))))
    assert read(tmp_path)[2] == ("bus", "car", "train")


def test_numbers_sort_as_numbers_and_a_flat_test_folder_is_unlabelled(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        put(tmp_path / f"train/{number}/1.png", DATA[number])
    put(tmp_path / "test/1.png", DATA[0])
    parts, _, classes, _ = read(tmp_path)
    assert classes == ("2", "9", "10")
    assert parts == {"train": ["10", "2", "9"], "unlabelled": [None]}


def images(folder: Path, ending: str = ".png") -> list[str]:
    for number, data in enumerate(DATA):
        put(folder / f"a{number:02d}{ending}", data)
    return [f"a{number:02d}" for number in range(18)]


def table(header: str, row: Callable[[str, str, int], str], name: str = "train.csv", inside: str = "train") -> Write:
    """All images in one folder, and a table with a row for each."""

    def write(folder: Path) -> None:
        names = images(folder / inside)
        lines = [row(name, CLASSES[number % 3], number) for number, name in enumerate(names)]
        put(folder / name, "\n".join([*([header] if header else []), *lines]).encode())

    return write


TABLES = {
    "id without ending": table("id,label", lambda name, label, _: f"{name},{label}"),
    "breed": table("id,breed", lambda name, label, _: f"{name},{label}", "labels.csv"),
    "file and class": table("filename;class", lambda name, label, _: f"{name}.png;{label}", "meta.csv", "images"),
    "label first": table("target\timage", lambda name, label, _: f"{label}\t{name}.png", "train.tsv"),
    "with the folder": table("path,species", lambda name, label, _: f"images/{name}.png,{label}", inside="images"),
    "another root": table("path,label", lambda name, label, _: f"/kaggle/input/x/{name}.png,{label}"),
    "Windows": table("path,label", lambda name, label, _: f"train\\{name}.png,{label}"),
    "no header": table("", lambda name, label, _: f"{name}.png,{label}"),
    "more columns": table("id,width,label,comment", lambda name, label, n: f'{name},{n},{label},"a, {n}"'),
    "the only other column": table("picture,what it shows", lambda name, label, _: f"{name}.png,{label}"),
    "one-hot": table(
        "image_id,cat,dog,owl", lambda name, label, n: f"{name},{n % 3 == 0:d},{n % 3 == 1:d},{n % 3 == 2:d}"
    ),
    "text": table("", lambda name, label, _: f"{name}.png {label}", "labels.txt", "images"),
    "beside the images": table("file_name,label", lambda name, label, _: f"{name}.png,{label}", "train/metadata.csv"),
    "shelves": table("image_id,dx", lambda name, label, _: f"{name},{label}", "HAM10000_metadata.csv"),
}


@pytest.mark.parametrize(("write"), TABLES.values(), ids=TABLES)
def test_a_folder_of_images_and_a_table(tmp_path: Path, write: Write, request: pytest.FixtureRequest) -> None:
    write(tmp_path)
    if request.node.callspec.id == "shelves":  # two folders of images that are no classes
        for number in range(9):
            path = tmp_path / f"train/a{number:02d}.png"
            (tmp_path / "part_1").mkdir(exist_ok=True)
            path.rename(tmp_path / "part_1" / path.name)
    parts, refused, classes, left_out = read(tmp_path)
    assert sorted(parts["train"]) == sorted([*CLASSES] * 6)
    assert (refused, classes, left_out) == ({}, CLASSES, {})


def test_tables_of_parts_a_column_of_parts_and_a_list_without_labels(tmp_path: Path) -> None:
    names = images(tmp_path / "one/images")
    for part, rows in (("train", names[:9]), ("val", names[9:12]), ("test", names[12:15])):
        lines = [f"{name},{int(name[1:]) % 3}.0" for name in rows]
        put(tmp_path / f"one/{part}.csv", "\n".join(["id,label", *lines]).encode())
    put(tmp_path / "one/sample_submission.csv", "\n".join(["id,label", *(f"{name},0" for name in names)]).encode())
    parts, _, classes, left_out = read(tmp_path / "one")
    assert {part: len(labels) for part, labels in parts.items()} == {"train": 9, "val": 3, "test": 3}
    assert classes == ("0", "1", "2")
    assert left_out == {"images in no row of the tables": 3, ".csv": 1}
    images(tmp_path / "two/images")
    lines = [f"{name}.png,{CLASSES[n % 3]},{('train', 'valid', 'test')[n // 6]}" for n, name in enumerate(names)]
    put(tmp_path / "two/all.csv", "\n".join(["filepaths,labels,data set", *lines]).encode())
    assert {part: len(labels) for part, labels in read(tmp_path / "two")[0].items()} == {
        "train": 6,
        "val": 6,
        "test": 6,
    }
    put(tmp_path / "two/test.csv", b"id\n")
    put(
        tmp_path / "three/train.csv",
        "\n".join(["id,label", *(f"{name},{n % 2}" for n, name in enumerate(names))]).encode(),
    )
    images(tmp_path / "three/train")
    put(tmp_path / "three/test/a00.png", encoded(scene(77)))
    put(tmp_path / "three/test.csv", b"id\na00\n")
    parts, _, classes, _ = read(tmp_path / "three")
    assert (len(parts["train"]), parts["unlabelled"], classes) == (18, [None], ("0", "1"))


def test_what_is_wrong_in_a_table_is_counted(tmp_path: Path) -> None:
    names = images(tmp_path / "train")
    lines = [f"{name},{CLASSES[n % 3]}" for n, name in enumerate(names[:12])]
    lines += ["gone,cat", "a12,", "a13", "a00,dog", "a01,dog"]
    put(tmp_path / "train.csv", "\n".join(["id,label", *lines]).encode())
    parts, refused, _, left_out = read(tmp_path)
    assert refused == {
        "train.csv:14": "file of the table is missing",
        "train/a12.png": "label missing",
        "train.csv:16": "wrong column count",
        "train/a00.png": "conflicting labels",
    }
    assert len(parts["train"]) == 11
    assert left_out == {"images in no row of the tables": 5, "rows that name an image again": 1}


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda folder: images(folder / "photos"), "photos has 18 images but neither folders of two classes"),
        (
            lambda folder: [images(folder), put(folder / "train.csv", b"id,label\nx,1\ny,2\n")],
            r"\(train.csv names 2 files, none of which is there\), so nothing to learn from",
        ),
        (lambda folder: put(folder / "notes.txt", b"nothing"), "has no images"),
    ],
)
def test_images_without_labels_are_one_sentence(tmp_path: Path, write: Write, words: str) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=words), open_images(tmp_path):
        pass


def hugging_face(path: Path, labels: list, names: tuple[str, ...] | None, data: list = DATA) -> None:
    """A file as ``datasets`` writes it: a struct of bytes and path, and the features in the schema's metadata."""
    cells = [{"bytes": each, "path": f"{number}.png"} for number, each in enumerate(data[: len(labels)])]
    content = pa.table({"image": cells, "label": labels})
    label = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "string", "_type": "Value"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content.replace_schema_metadata({"huggingface": json.dumps(info)}), path)


@pytest.mark.parametrize("packed", [False, True])
def test_parquet_files_of_hugging_face(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "source/data"
    hugging_face(folder / "train-00000-of-00002.parquet", [0, 1, 2, 0], ("owl", "cat", "dog", "elk"))
    hugging_face(folder / "train-00001-of-00002.parquet", [1, 2], ("owl", "cat", "dog", "elk"), DATA[4:])
    hugging_face(folder / "validation-00000-of-00001.parquet", [2], ("owl", "cat", "dog", "elk"), DATA[6:])
    hugging_face(folder / "test-00000-of-00001.parquet", [-1, -1], ("owl", "cat", "dog", "elk"), DATA[7:])
    source = zipped(tmp_path / "source", tmp_path / "a.zip") if packed else tmp_path / "source"
    put(tmp_path / "source/README.md", b"about")
    parts, refused, classes, left_out = read(source)
    assert parts == {
        "train": ["owl", "cat", "dog", "owl", "cat", "dog"],
        "val": ["dog"],
        "unlabelled": [None, None],
    }
    assert (refused, classes, left_out) == ({}, ("owl", "cat", "dog"), {} if packed else {".md": 1})


def test_parquet_files_of_others_and_their_faults(tmp_path: Path) -> None:
    rows = {"img": [*DATA[:4], b"no image", None], "y": ["10", "9", "2", None, "2", "9"]}
    pq.write_table(pa.table(rows), tmp_path / "all.parquet")
    parts, refused, classes, _ = read(tmp_path)
    assert parts == {"train": ["10", "9", "2"]}
    assert classes == ("2", "9", "10")
    assert refused == {
        "train/000004": "in no class folder",
        "train/000005": "not an image",
        "train/000006": "no bytes in the table",
    }
    whole = (tmp_path / "all.parquet").read_bytes()
    put(tmp_path / "all.parquet", whole[:-40])
    with (
        pytest.raises(ValueError, match=r"all.parquet is no whole Parquet file .*: get it again"),
        open_images(tmp_path),
    ):
        pass


def test_a_thousand_classes(tmp_path: Path) -> None:
    for number in range(1000):
        put(tmp_path / f"c{number}/1.png", DATA[0])
    assert len(read(tmp_path)[2]) == 1000
