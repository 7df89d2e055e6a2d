"""The reader of scenes: every layout that people have, the same batches from all of them, and clear errors."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_core.data.image_sources import open_images
from tests.helpers.image_files import CLASSES, encoded, intel, put, scene, zipped


def read(path: Path, **options: int) -> tuple[list[tuple], dict[str, tuple[str, str]]]:
    """(id, part, label, sha256) of every image, and id -> (reason, detail) of the refused."""
    with open_images(path, **options) as source:
        batches = list(source.batches())
        total = source.total
    found, refused = [], {}
    for batch in batches:
        labels = [None] * len(batch.ids) if batch.labels is None else batch.labels.tolist()
        found += [
            (id_, batch.part, label, picture.sha256)
            for id_, label, picture in zip(batch.ids, labels, batch.images, strict=True)
        ]
        refused |= {entry.id: (entry.reason, entry.detail) for entry in batch.refused}
    assert total == len(found) + len(refused)
    return found, refused


def test_every_layout_gives_the_same(tmp_path):
    plain = intel(tmp_path / "plain", doubled=False)
    doubled = intel(tmp_path / "doubled")
    shutil.copytree(doubled, tmp_path / "wrapped/archive")
    put(tmp_path / "wrapped/readme.txt", b"not of the set")
    (tmp_path / "plain/seg_train").rename(tmp_path / "plain/Seg_Train")
    layouts = [
        plain,
        doubled,
        tmp_path / "wrapped",
        zipped(plain, tmp_path / "plain.zip"),
        zipped(doubled, tmp_path / "doubled.zip"),
        zipped(doubled, tmp_path / "wrapped.zip", "archive/"),
    ]
    first, refused = read(layouts[0])
    assert refused == {}
    assert len(first) == 6 * 12 + 6 * 3 + 4
    assert first[0][:3] == ("seg_train/buildings/0.jpg", "train", 0)
    assert first[71][:3] == ("seg_train/street/9.jpg", "train", 5)
    assert first[-1][:3] == ("seg_pred/3.jpg", "unlabelled", None)
    for layout in layouts[1:]:
        assert read(layout) == (first, {}), layout


def test_the_number_of_threads_changes_nothing(tmp_path):
    source = intel(tmp_path, train=30)
    put(source / "seg_train/seg_train/sea/bad.jpg", b"bad")
    assert read(source, threads=1) == read(source, threads=7)


def test_nested_folders_stay_in_the_id_and_hidden_files_stay_out(tmp_path):
    source = intel(tmp_path, doubled=False)
    put(source / "seg_train/sea/2019/june/a.png", encoded(scene(999)))
    put(source / "seg_pred/more/b.png", encoded(scene(998)))
    for name in (".DS_Store", "._0.jpg", ".cache/0.jpg"):
        put(source / "seg_train/sea" / name, b"hidden")
    ids = {id_: label for id_, _, label, _ in read(source)[0]}
    assert len(ids) == 96
    assert ids["seg_train/sea/2019/june/a.png"] == 4
    assert ids["seg_pred/more/b.png"] is None


def test_own_classes(tmp_path):
    for name in ("zebra", "ant", "Cow"):
        put(tmp_path / "seg_train" / name / "1.png", encoded(scene(len(name))))
    with open_images(tmp_path) as source:
        assert (source.classes, source.published_test, source.warnings) == (("Cow", "ant", "zebra"), None, ())
        (batch,) = source.batches()
    assert batch.labels.tolist() == [0, 1, 2]


def test_what_is_meant_to_be_an_image_and_is_none_is_refused_by_name(tmp_path):
    source = intel(tmp_path)
    put(source / "seg_train/seg_train/sea/Thumbs.db", b"\xd0\xcf\x11\xe0")
    put(source / "seg_test/seg_test/sea/notes.txt", b"of the publisher")
    put(source / "seg_pred/seg_pred/empty.jpg", b"")
    put(source / "seg_train/seg_train/loose.png", encoded(scene(1)))
    found, refused = read(source)
    assert len(found) == 94
    assert {id_: reason for id_, (reason, _) in refused.items()} == {
        "seg_pred/empty.jpg": "empty file",
        "seg_train/loose.png": "in no class folder",
    }


def remove(*names: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        for name in names:
            shutil.rmtree(source / name)

    return change


def empty(name: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        shutil.rmtree(source / name)
        (source / name).mkdir()

    return change


WARN = {
    "nothing": (lambda source: None, []),
    "no seg_test": (remove("seg_test"), []),
    "no seg_pred": (remove("seg_pred"), []),
    "no Intel class at all": (
        lambda source: [
            (source / part / name).rename(source / part / f"my {name}")
            for part in ("seg_train", "seg_test")
            for name in CLASSES
        ],
        [],
    ),
    "empty seg_test": (empty("seg_test"), ["seg_test has no images of any class: the test part is cut from seg_train"]),
    "class missing in seg_test": (remove("seg_test/sea"), ["there are no images in seg_test/sea"]),
    "class empty in seg_test": (empty("seg_test/sea"), ["there are no images in seg_test/sea"]),
    "Intel classes missing": (
        remove("seg_train/sea", "seg_test/sea", "seg_train/forest", "seg_test/forest"),
        ["of the six Intel classes there is no forest, sea"],
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("change", "words"), WARN.values(), ids=WARN)
def test_warnings(tmp_path, change, words, packed):
    source = intel(tmp_path / "source", train=1, test=1, doubled=False)
    change(source)
    with open_images(zipped(source, tmp_path / "a.zip") if packed else source) as opened:
        assert len(opened.warnings) == len(words)
        assert all(word in warning for word, warning in zip(words, opened.warnings, strict=True))


ERRORS = {
    "class empty in seg_train": (empty("seg_train/sea"), ["no images in seg_train/sea: put images there"]),
    "class missing in seg_train": (remove("seg_train/sea", "seg_train/forest"), [
        "has seg_test/forest, seg_test/sea but not seg_train/forest, seg_train/sea"]),
    "no seg_train": (remove("seg_train"), ["has seg_pred, seg_test but no folder to learn from"]),
    "empty seg_train": (lambda source: (empty("seg_train")(source), remove("seg_test")(source)), [
        "seg_train has no folders of classes"]),
    "twice": (lambda source: put(source / "seg_train/seg_train/sea/0.jpg", b"x"), [
        "has seg_train/sea/0.jpg and seg_train/seg_train/sea/0.jpg, one image by their names"]),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("change", "words"), ERRORS.values(), ids=ERRORS)
def test_errors(tmp_path, change, words, packed):
    source = intel(tmp_path / "source", train=1, test=1, doubled=False)
    change(source)
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        read(zipped(source, tmp_path / "a.zip") if packed else source)
    assert all(word in str(caught.value) for word in words)


def test_two_folders(tmp_path):
    intel(tmp_path / "a", train=1)
    intel(tmp_path / "b", train=1)
    with pytest.raises(ValueError, match=r"has a/seg_train and b/seg_train: name the one folder"):
        read(tmp_path)


def test_two_forms_of_one_classs_name_are_told(tmp_path):
    source = intel(tmp_path, doubled=False)
    (source / "seg_test/sea").rename(source / "seg_test/Sea")
    with pytest.raises(
        ValueError, match="has seg_test/Sea and seg_train/sea, which differ in upper and lower case only"
    ):
        read(source)


def test_two_levels_of_class_folders_are_told(tmp_path):
    source = intel(tmp_path, doubled=False)
    for number in range(4):
        put(source / f"seg_train/animals/{'cat' if number % 2 else 'dog'}/{number}.png", encoded(scene(3000 + number)))
        put(source / f"seg_train/plants/all/{number}.png", encoded(scene(3100 + number)))
    with open_images(source) as opened:
        (warning,) = [warning for warning in opened.warnings if "holds only folders" in warning]
        assert {"animals", "plants"} < set(opened.classes)
    assert warning.startswith("seg_train/animals holds only folders (cat, dog)")
    assert "plants" not in warning


def test_what_is_no_image_is_left_out_by_its_ending_and_a_bad_image_is_not(tmp_path):
    source = intel(tmp_path, doubled=False)
    for name in ("0.xml", "Thumbs.db", "notes"):
        put(source / "seg_train/sea" / name, b"no image")
    put(source / "seg_train/sea/page.jpg", b"<html>404</html>")
    put(source / "seg_train/sea/nameless", encoded(scene(3000), "JPEG"))
    put(source / "readme.md", b"about")
    found, refused = read(source)
    assert refused.keys() == {"seg_train/sea/page.jpg"}
    assert "seg_train/sea/nameless" in {row[0] for row in found}
    with open_images(source) as opened:
        assert opened.left_out == {".xml": 1, ".db": 1, "no ending": 1, ".md": 1}
        assert opened.total + sum(opened.left_out.values()) == sum(path.is_file() for path in source.rglob("*"))


def test_a_linked_class_folder_is_not_called_empty(tmp_path):
    source = intel(tmp_path / "source", doubled=False)
    (source / "seg_train/sea").rename(tmp_path / "elsewhere")
    (source / "seg_train/sea").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="seg_train/sea is a link to the folder"):
        read(source)
