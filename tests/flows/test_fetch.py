"""``gridflow fetch`` against a local stand-in for Kaggle, through the real kagglehub client and real DVC."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("fetch")


class Kaggle(BaseHTTPRequestHandler):
    """Answers every request with the archive (or the status) that the test has put on the server."""

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        # The client asks for a dataset's newest version first.
        version = self.path.endswith("/GetDataset")
        body = json.dumps({"currentVersionNumber": 2}).encode() if version else self.server.archive
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json" if version else "application/zip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def kaggle() -> Iterator[ThreadingHTTPServer]:
    # the port is the Kaggle client's own for its environment "TEST"
    server = ThreadingHTTPServer(("127.0.0.1", 7777), Kaggle)
    server.status, server.asked, server.archive = 200, [], archive(train="label,pixel0\n1,2\n", test="pixel0\n3\n")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def scenes(*parts: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for part in parts:
            zipped.writestr(f"{part}/{part}/{'' if part == 'seg_pred' else 'sea/'}1.jpg", part)
    return buffer.getvalue()


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(f"{name}.csv", text)
    return buffer.getvalue()


@pytest.fixture
def fetch(small: Path, run: Callable, repository: Path, tmp_path: Path) -> Callable:
    def call(*arguments: str, credentials: bool = True, code: int | None = 0):
        known = {"KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": "0" * 32} if credentials else {}
        home = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path), "PYTHONPATH": str(repository)}
        return run("gridflow", "fetch", *arguments, cwd=small, code=code,
                   KAGGLE_API_ENVIRONMENT="TEST", **home, **known)  # fmt: skip

    return call


def test_fetch_downloads_tracks_and_says_how_to_run(fetch: Callable, kaggle: ThreadingHTTPServer, small: Path) -> None:
    done = fetch("digits")
    assert (small / "data/sources/digits-kaggle/test.csv").read_text() == "pixel0\n3\n"
    assert "digits-kaggle" in (small / "data/sources/digits-kaggle.dvc").read_text()
    assert "--set ingest.digits.source=data/sources/digits-kaggle" in done.stdout
    assert kaggle.asked
    assert sorted(path.name for path in (small / "data/sources/digits-kaggle").iterdir()) == ["test.csv", "train.csv"]


def test_a_second_fetch_brings_the_new_version(fetch: Callable, kaggle: ThreadingHTTPServer, small: Path) -> None:
    fetch("digits")
    before = (small / "data/sources/digits-kaggle.dvc").read_text()
    kaggle.archive = archive(train="label,pixel0\n1,2\n", test="pixel0\n4\n")
    fetch("digits")
    assert (small / "data/sources/digits-kaggle/test.csv").read_text() == "pixel0\n4\n"
    assert (small / "data/sources/digits-kaggle.dvc").read_text() != before


def test_fetch_brings_a_dataset(fetch: Callable, kaggle: ThreadingHTTPServer, small: Path) -> None:
    kaggle.archive = scenes("seg_train", "seg_test", "seg_pred")
    done = fetch("scenes", credentials=False)  # a public dataset needs none
    folder = small / "data/sources/scenes-kaggle"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "seg_pred/seg_pred/1.jpg",
        "seg_test/seg_test/sea/1.jpg",
        "seg_train/seg_train/sea/1.jpg",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["seg_pred", "seg_test", "seg_train"]
    assert "scenes-kaggle" in (small / "data/sources/scenes-kaggle.dvc").read_text()
    assert "--set ingest.scenes.source=data/sources/scenes-kaggle" in done.stdout
    assert [path.rpartition("/")[2] for path in kaggle.asked] == ["GetDataset", "DownloadDataset"]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b"", ["answered 403 for puneet6060/intel-image-classification", "kaggle.json"]),
        (404, b"", ["answered 404", "seg_train, seg_test and seg_pred of the dataset"]),
        (200, scenes("seg_train", "seg_pred"), ["came without seg_test", "by hand into data/sources/scenes-kaggle/"]),
        (200, b"<html>no archive</html>", ["archive of puneet6060/intel-image-classification is damaged", "by hand"]),
    ],
    ids=["refused", "not there", "without a part", "no archive"],
)
def test_a_dataset_that_does_not_come_is_one_sentence(
    fetch: Callable, kaggle: ThreadingHTTPServer, small: Path, run: Callable, status: int, body: bytes, words: list
) -> None:
    former = small / "data/sources/scenes-kaggle/seg_train/kept.jpg"
    former.parent.mkdir(parents=True)
    former.write_text("kept")
    run("dvc", "add", "-q", "data/sources/scenes-kaggle", cwd=small)
    kaggle.status, kaggle.archive = status, body
    done = fetch("scenes", code=1)
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr
    assert former.read_text() == "kept"
    assert [path.name for path in (small / "data/sources").iterdir() if path.is_dir()] == ["scenes-kaggle"]


@pytest.mark.parametrize(
    ("status", "files", "credentials", "words"),
    [
        (403, {"train": "", "test": ""}, True, ["403", "accept the rules", "data/sources/digits-kaggle"]),
        (200, {"train": "label\n"}, True, ["without test.csv"]),
        (200, {"train": "", "test": ""}, False, ["credentials", "kaggle.json"]),
    ],
)
def test_a_refusal_is_one_sentence_and_keeps_what_was_there(
    fetch: Callable,
    kaggle: ThreadingHTTPServer,
    small: Path,
    run: Callable,
    status: int,
    files: dict,
    credentials: bool,
    words: list,
) -> None:
    former = small / "data/sources/digits-kaggle/train.csv"
    former.parent.mkdir(parents=True)
    former.write_text("kept")
    run("dvc", "add", "-q", "data/sources/digits-kaggle", cwd=small)
    kaggle.status, kaggle.archive = status, archive(**files)
    done = fetch("digits", credentials=credentials, code=1)
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr
    assert former.read_text() == "kept"


@pytest.mark.parametrize("fetched", [False, True], ids=["a person's", "changed since"])
def test_a_folder_that_a_fetch_would_lose_is_kept(
    fetch: Callable, kaggle: ThreadingHTTPServer, small: Path, fetched: bool
) -> None:
    if fetched:
        fetch("digits")
    file = small / "data/sources/digits-kaggle/train.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("label,pixel0\n7,7\n")
    del kaggle.asked[:]
    done = fetch("digits", code=1)
    assert "data/sources/digits-kaggle is not as a fetch brought it" in done.stderr
    assert file.read_text() == "label,pixel0\n7,7\n"
    assert not kaggle.asked


def test_weights_of_a_person_are_kept(fetch: Callable, small: Path) -> None:
    file = small / "data/weights/alexnet.pth"
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert "data/weights/alexnet.pth is not as a fetch brought it" in fetch("alexnet", code=1).stderr
    assert file.read_text() == "mine"


def test_no_network_says_what_to_put_where(fetch: Callable) -> None:
    done = fetch("digits", code=1)  # nothing listens
    assert "could not be reached" in done.stderr
    assert "by hand into data/sources/digits-kaggle/" in done.stderr


def test_an_unknown_name_lists_the_known(fetch: Callable) -> None:
    assert "gridflow fetch gets digits" in fetch("letters", code=1).stderr
