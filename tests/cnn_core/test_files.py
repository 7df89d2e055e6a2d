"""Names that come from data never lead out of the folder in which they are put, and never meet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cnn_core.files import are_generated, is_composed, safe_file_name

PARTS = st.sampled_from(
    ["", ".", "..", "a", "a.jpg", "a-0123456789abcdef", "/", "\\", "~", "é" * 90, "x" * 300, "\x00"]
)
NAMES = st.one_of(st.lists(PARTS, max_size=40).map("/".join), st.text(max_size=600))


@pytest.mark.parametrize("name", ["a", "sub/a", "clip#000012", "part-00000:7", "v1.2/b", "a b'c\"d", "日本/写真"])
def test_a_plain_name_stays(name: str) -> None:
    assert safe_file_name(name) == name


@given(NAMES)
@example("../../etc/passwd")
@example("\ud800")
@example("a\n")
def test_nothing_leads_out_of_its_folder(name: str) -> None:
    path = os.path.normpath(f"/root/folder/{safe_file_name(name)}.jpg")
    assert path.startswith("/root/folder/")
    assert "\\" not in path
    assert len(os.fsencode(path)) < 4_096
    assert all(len(os.fsencode(part)) <= 240 for part in path.split("/"))


@given(st.lists(NAMES, min_size=2, max_size=2, unique=True))
@example(["a//b", "a/b"])
@example(["..", safe_file_name("..")])
def test_two_names_never_share_a_file(names: list[str]) -> None:
    first, second = (os.path.normpath(safe_file_name(name) + ".jpg") for name in names)
    assert first != second
    assert not first.startswith(f"{second}/")  # nor is one of them the folder of the other


def test_the_names_of_a_hostile_set_are_files(tmp_path: Path) -> None:
    hostile = [
        "../x",
        "/etc/passwd",
        "",
        ".",
        "..",
        "a",
        "a.jpg/b",
        "a/",
        "é" * 200,
        "a\x00b",
        "\udcff",
        "\ud800",
        "/" * 900,
    ]
    for name in hostile:
        file = tmp_path / "out" / f"{safe_file_name(name)}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name, encoding="utf-8", errors="surrogatepass")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == len(hostile)
    assert all(file.is_relative_to(tmp_path / "out") for file in files)


def test_generated_pictures_are_known_by_their_names() -> None:
    assert are_generated(["seg_test/sea/photo.jpg", "seg_test/sea/generated-00001.jpg"])
    assert not are_generated(["seg_test/generated-sea/photo.jpg", "train.csv:3"])


def test_a_composed_set_is_known_by_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").touch()
    assert not is_composed(tmp_path)
    for content, composed in ('{"generated": true}', True), ('{"images": []}', False), ("[1, 2]", False):
        (tmp_path / "manifest.json").write_text(content)  # a set of others may have a file of that name
        assert is_composed(tmp_path) == is_composed(tmp_path / "data.yaml") == composed
