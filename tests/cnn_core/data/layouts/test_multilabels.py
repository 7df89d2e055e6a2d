"""Images of several labels: tables and Parquet files as people have them, and those that only look so."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnn_core.data.image_sources import open_images
from cnn_core.data.layouts.multilabels import SeveralLabelsError, has_several, labels_in, separator_of
from tests.helpers.image_files import encoded, put, scene

DATA = [encoded(scene(number, (16, 16))) for number in range(6)]
LABELS = [("cat",), ("cat", "dog"), (), ("dog", "owl"), ("cat", "dog", "owl"), ("owl",)]
NAMES = [f"a{number}" for number in range(6)]


def read(path: Path, *, multilabel: bool | None = True) -> dict[str, dict[str, tuple[str, ...] | None]]:
    """Part -> the labels of its images, by their ids."""
    with open_images(path, threads=1, multilabel=multilabel) as source:
        names = source.classes_of_label
        parts: dict[str, dict[str, tuple[str, ...] | None]] = {}
        for batch in source.batches():
            labels = [None] * len(batch.ids) if batch.labels is None else [names[n] for n in batch.labels.tolist()]
            parts.setdefault(batch.part, {}).update(zip(batch.ids, labels, strict=True))
            parts.setdefault("refused", {}).update({entry.id: (entry.reason, entry.detail) for entry in batch.refused})
        assert source.classes == ("cat", "dog", "owl")
        return {part: images for part, images in parts.items() if images}


def write(folder: Path, lines: list[str], name: str = "train.csv") -> Path:
    for image, data in zip(NAMES, DATA, strict=True):
        put(folder / f"images/{image}.png", data)
    put(folder / name, "\n".join(lines).encode())
    return folder


def one_column(separator: str, name: str = "labels", form: str = "{}") -> list[str]:
    return [f"image;{name}", *(f"{i};{form.format(separator.join(of))}" for i, of in zip(NAMES, LABELS, strict=True))]


BITS = [
    "image_id,cat,dog,owl",
    *(f"{i},{','.join(str(int(c in of)) for c in ('cat', 'dog', 'owl'))}" for i, of in zip(NAMES, LABELS, strict=True)),
]
TABLES = {
    "zeros and ones": BITS,
    "with decimals": [BITS[0], *(line.replace(",1", ",1.0").replace(",0", ",0.0") for line in BITS[1:])],
    "a bar": one_column("|"),
    "a space, as in Kaggle's Planet": one_column(" ", "tags"),
    "a comma": one_column(", "),
    "a semicolon": [f'{line.split(";", 1)[0]},"{line.split(";", 1)[1]}"' for line in one_column(";")],
    "a list of Python's": one_column("', '", form="['{}']"),
    "a row for each label": [
        "file,label",
        *(f"{image},{label}" for image, of in zip(NAMES, LABELS, strict=True) for label in (of or [""])),
    ],
}


@pytest.mark.parametrize("lines", TABLES.values(), ids=TABLES)
def test_tables_of_several_labels(tmp_path: Path, lines: list[str]) -> None:
    images = {f"images/{name}.png": labels for name, labels in zip(NAMES, LABELS, strict=True)}
    assert read(write(tmp_path, lines)) == {"train": images}


@pytest.mark.parametrize("name", [name for name in TABLES if name != "a row for each label"])
def test_a_table_that_looks_so_is_refused_with_what_to_set(tmp_path: Path, name: str) -> None:
    write(tmp_path, TABLES[name])
    with pytest.raises(SeveralLabelsError, match=r"train\.csv has .*: set multilabel to true"), open_images(tmp_path):
        pass


def test_rows_that_disagree_and_a_test_part_without_labels(tmp_path: Path) -> None:
    write(tmp_path, ["file,label", "a0,cat|dog", "a1,cat|owl", "a0,cat", "a3,dog|owl"])
    put(tmp_path / "test.csv", b"file\na4\na5")
    assert read(tmp_path) == {
        "refused": {"images/a0.png": ("conflicting labels", "the tables say cat and cat, dog")},
        "train": {"images/a1.png": ("cat", "owl"), "images/a3.png": ("dog", "owl")},
        "unlabelled": {"images/a4.png": None, "images/a5.png": None},
    }


def test_names_with_spaces_in_a_row_for_each_label(tmp_path: Path) -> None:
    rows = ["file,label", "a0,traffic light", "a0,car", "a1,traffic light", "a2,car", "a3,car"]
    with open_images(write(tmp_path, rows), threads=1, multilabel=True) as source:
        assert source.classes == ("car", "traffic light")
        (batch,) = source.batches()
        assert [source.classes_of_label[number] for number in batch.labels.tolist()] == [
            ("car", "traffic light"), ("traffic light",), ("car",), ("car",)
        ]  # fmt: skip


def test_test_labels_that_were_kept_back_are_no_images_without_labels(tmp_path: Path) -> None:
    rows = ["file,labels,split", "a0,cat|dog,train", "a1,owl,train", "a2,dog|owl,train", "a3,,test", "a4,,test"]
    assert read(write(tmp_path, rows))["unlabelled"] == {"images/a3.png": None, "images/a4.png": None}


def test_other_columns_of_zeros_and_ones_stop_no_set_of_one_label(tmp_path: Path) -> None:
    write(tmp_path, ["file,label", "a0,cat", "a1,dog", "a2,owl", "a3,cat"])
    put(tmp_path / "metadata.csv", b"file,flash,indoor\na0,1,1\na1,0,0\na2,1,0\na3,0,1")
    expected = {
        "images/a0.png": ("cat",),
        "images/a1.png": ("dog",),
        "images/a2.png": ("owl",),
        "images/a3.png": ("cat",),
    }
    assert read(tmp_path)["train"] == expected
    with open_images(tmp_path, threads=1) as source:
        assert source.classes == ("cat", "dog", "owl")


def test_a_column_that_tells_the_parts_is_no_class(tmp_path: Path) -> None:
    rows = ["file,cat,dog,owl,is_train", "a0,1,0,0,1", "a1,0,1,0,1", "a2,0,0,1,0", "a3,1,0,0,1"]
    with open_images(write(tmp_path, rows), threads=1) as source:
        assert source.classes == ("cat", "dog", "owl")


def test_a_parquet_list_of_other_numbers_is_no_label(tmp_path: Path) -> None:
    cells = [{"bytes": data, "path": None} for data in DATA]
    vectors = [[0.5, float(number)] for number in range(len(DATA))]
    labels = pa.array(["cat", "dog", "owl", "cat", "dog", "owl", "cat"][: len(DATA)])
    pq.write_table(pa.table({"image": cells, "label": labels, "embedding": vectors}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"image": cells[:2], "embedding": vectors[:2]}), tmp_path / "test.parquet")
    with open_images(tmp_path, threads=1) as source:
        assert source.classes == ("cat", "dog", "owl")


def test_folders_of_classes_have_one_label_an_image(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog", "owl")):
        put(tmp_path / f"{name}/1.png", DATA[number])
    with pytest.raises(ValueError, match="a folder for each class, so each image has one label"):
        read(tmp_path)


@pytest.mark.parametrize("form", ["Sequence", "List", "texts", "one text"])
def test_parquet_with_lists(tmp_path: Path, form: str) -> None:
    classes = ["cat", "dog", "owl"]
    cells = [{"bytes": data, "path": None} for data in DATA]
    columns: list = [list(labels) for labels in LABELS]
    feature: object = {"_type": form, "feature": {"names": classes, "_type": "ClassLabel"}}
    if form in ("Sequence", "List"):
        columns = [[classes.index(name) for name in labels] for labels in columns]
    if form == "one text":
        columns = ["|".join(labels) for labels in columns]
    table = pa.table({"image": cells, "labels": columns})
    info = {"info": {"features": {"image": {"_type": "Image"}, "labels": feature}}}
    if form in ("Sequence", "List"):
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "train.parquet")
    assert read(tmp_path) == {"train": {f"train/{n:06d}": labels for n, labels in enumerate(LABELS, start=1)}}
    with pytest.raises(SeveralLabelsError, match="set multilabel to true"), open_images(tmp_path):
        pass


@pytest.mark.parametrize(
    ("cells", "several"),
    [
        (["golden retriever", "pug", "border collie"], False),
        (["red car", "blue car", "red bike", "blue bike"], False),
        (["cat", "dog"], False),
        (["Smith, J.", "Jones, K."], False),
        (["Smith, John", "Smith, Anna", "Jones, Kim"], False),
        (["0,5", "1,5", "1,0"], False),
        (["missile", "projectile, missile", "cannon"], False),
        ([f"{value} of {suit}" for value in ("ace", "two", "ten") for suit in ("clubs", "hearts")] + ["joker"], False),
        (["cat, dog", "dog", "dog, owl", "cat", "owl, cat", "owl"], True),
        (["cat|dog", "cat", "dog"], True),
        (["clear primary", "haze primary water", "clear", "water primary", "haze", "clear water", "haze water"], True),
        (["1 5", "5", "1", "1 5 7", "7"], True),
    ],
)
def test_what_looks_like_several_labels(cells: list[str], several: bool) -> None:
    assert has_several(cells) == several


def test_the_separator_is_that_of_the_whole_column() -> None:
    cells = ["No Finding", "Effusion|Lung Mass"]
    assert [labels_in(cell, separator_of(cells)) for cell in cells] == [("No Finding",), ("Effusion", "Lung Mass")]
