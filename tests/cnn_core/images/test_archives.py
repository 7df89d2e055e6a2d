"""A folder and a .zip are seen alike, and nothing bad in an archive is followed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from cnn_core.images import archives
from cnn_core.images.archives import escapes, open_files


def read_all(path: Path, max_bytes: int = 1 << 20) -> dict[str, bytes]:
    found = {}
    with open_files(path, advice="put it there", max_bytes=max_bytes) as files:
        for name in files.names:
            with files.open(name) as file:
                found[name] = file.read()
    return found


def archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def test_folder_and_zip_show_the_same_files_without_the_hidden_ones(tmp_path):
    entries = {"b/train.csv": b"1", "a.csv": b"2", ".DS_Store": b"", "__MACOSX/._a.csv": b"", "b/.x/y.csv": b""}
    for name, data in entries.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    packed = archive(tmp_path / "a.zip", **entries)
    before = sorted(tmp_path.rglob("*"))
    assert read_all(tmp_path / "folder") == read_all(packed) == {"a.csv": b"2", "b/train.csv": b"1"}
    assert sorted(tmp_path.rglob("*")) == before, "nothing is extracted"


@pytest.mark.parametrize(
    ("name", "leads_out"),
    [
        ("../x", True),
        ("a/../../x", True),
        ("a/..", True),
        ("..\\x", True),
        ("/etc/passwd", True),
        ("\\x", True),
        ("\\\\host\\x", True),
        ("C:\\x", True),
        ("c:x", True),
        ("a/b.csv", False),
        ("a..b/x..csv", False),
        ("train.csv", False),
    ],
)
def test_escapes(name, leads_out):
    assert escapes(name) is leads_out


def test_a_zip_whose_entry_leads_out_is_refused_whole(tmp_path):
    path = archive(tmp_path / "a.zip", **{"train.csv": b"1", "../evil.csv": b"2"})
    with pytest.raises(ValueError, match=r"'\.\./evil\.csv', which leads out of the folder"):
        read_all(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_truncated_zip(tmp_path, keep):
    data = archive(tmp_path / "a.zip", **{"train.csv": bytes(range(256)) * 100}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r"a\.zip.*damaged or cut short.*get it again"):
        read_all(tmp_path / "a.zip")


def test_flipped_bytes_inside_a_zip(tmp_path):
    data = bytearray(archive(tmp_path / "a.zip", **{"train.csv": b"123456789" * 1000}).read_bytes())
    data[45:50] = b"\xff" * 5
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip/train\.csv is damaged or cut short .*get it again"):
        read_all(tmp_path / "a.zip")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = archive(tmp_path / "a.zip", **{"train.csv": bytes(3 << 20)})
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="would unpack to"):
        read_all(path)


def test_an_encrypted_zip_says_what_to_do(tmp_path):
    data = bytearray(archive(tmp_path / "a.zip", **{"train.csv": b"1"}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"train\.csv cannot be unpacked .*password.*unpack the \.zip yourself"):
        read_all(tmp_path / "a.zip")


def test_missing_and_wrong_paths_carry_the_advice(tmp_path):
    with pytest.raises(ValueError, match=r"none does not exist: put it there"):
        read_all(tmp_path / "none")
    (tmp_path / "train.csv").write_text("label\n")
    with pytest.raises(ValueError, match=r"train\.csv is a file, not a folder or a \.zip: put it there"):
        read_all(tmp_path / "train.csv")


def test_a_linked_folder_is_refused_by_name_and_links_to_files_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.csv").write_bytes(b"1")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/b.csv").symlink_to(tmp_path / "elsewhere/a.csv")
    (tmp_path / "set/gone.csv").symlink_to(tmp_path / "none")
    (tmp_path / "itself").symlink_to(tmp_path / "set")
    with open_files(tmp_path / "itself", advice="", max_bytes=1) as files:
        assert files.names == ["b.csv"]
        assert files.left_out == {"links that lead nowhere, or no files": 1}
    (tmp_path / "set/cam").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"set/cam is a link to the folder .*elsewhere, and DVC does not see"):
        read_all(tmp_path / "set")


def test_a_zip_of_windows_names_and_its_hidden_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("b\\train.csv", "__MACOSX\\b", "b\\.hidden"):
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            file.writestr(entry, b"1")
    with open_files(tmp_path / "a.zip", advice="", max_bytes=9) as files:
        assert (files.names, files.folders, files.left_out) == (["b/train.csv"], ["b"], {"hidden": 2})


def test_a_zip_of_far_too_many_entries_is_refused_before_they_are_listed(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.zip", **{f"{number}.csv": b"" for number in range(12)})
    monkeypatch.setattr(archives, "MAX_ENTRIES", 11)
    monkeypatch.setattr(zipfile, "ZipFile", lambda _: pytest.fail("listed"))
    with pytest.raises(ValueError, match=r"lists 12 files, more than the 11 that are read from one \.zip"):
        read_all(path)


def test_the_home_folder_may_be_called_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    archive(tmp_path / "a.zip", **{"train.csv": b"1"})
    assert read_all(Path("~/a.zip")) == {"train.csv": b"1"}


def test_a_name_that_is_not_utf8_is_left_out_by_name(tmp_path):
    """Of a file and of a folder; tables and DVC could not hold them."""
    (tmp_path / "good.jpg").write_bytes(b"1")
    for name in (b"caf\xe9.jpg", b"for\xeat/b.jpg"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"2")
    with open_files(tmp_path, advice="", max_bytes=1) as files:
        assert files.names == ["good.jpg"]
        assert files.folders == []
        assert files.left_out == {"files whose name is not UTF-8, such as caf\\xe9.jpg": 2}


def test_a_zip_with_a_name_that_is_not_utf8_is_refused_by_the_name(tmp_path):
    """It claims to be: names without that mark are read as code page 437."""
    packed = archive(tmp_path / "a.zip", **{"caf\u00e9.jpg": b"1"})
    packed.write_bytes(packed.read_bytes().replace("caf\u00e9.jpg".encode(), b"cafX\xe9.jpg"))
    with pytest.raises(ValueError, match=r"a\.zip has an entry .*cafX\\xe9\.jpg\. Pack it again"):
        read_all(packed)
