"""Ultralytics' weights from a local stand-in for its server, through its own client and a real DVC repository."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnn_core.downloads.ultralytics import fetch_yolo as download
from flows.fetch import fetch_weights, run_with

pytestmark = pytest.mark.xdist_group("fetch_yolo")

WEIGHTS = b"PK\x03\x04" + bytes(200_000)  # Ultralytics takes less than 100 kB for an error page


class Weights(BaseHTTPRequestHandler):
    """Answers every request with the bytes (or the status) that the test has put on the server."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("YOLO_OFFLINE", "true")  # as in a stage; fetch alone lifts it, and here the test puts it back


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Weights)
    server.status, server.content = 200, WEIGHTS
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/yolo11n.pt"


@pytest.mark.slow
def test_weights_come_with_their_origin_and_are_tracked(small: Path, server: ThreadingHTTPServer) -> None:
    target = fetch_weights("yolo11n.pt", small, url=url_of(server))
    assert target == small / "data/weights/yolo11n.pt"
    assert target.read_bytes() == WEIGHTS
    origin = json.loads((target.parent / "yolo11n.json").read_text())
    assert origin.pop("ultralytics")
    assert origin == {
        "file": "yolo11n.pt",
        "origin": url_of(server),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    names = sorted(path.name for path in target.parent.iterdir())
    assert names == [".gitignore", "yolo11n.json", "yolo11n.pt", "yolo11n.pt.dvc"]


@pytest.mark.slow
def test_no_network_names_the_file_and_its_place(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "cnn_core").symlink_to(repository / "cnn_core")
    with pytest.raises(ValueError, match=r"yolo11n\.pt could not be fetched") as error:
        fetch_weights("yolo11n.pt", tmp_path)
    words = "by hand from the release assets of Ultralytics on GitHub and put it at data/weights/yolo11n.pt"
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "data/weights").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": 404}, "the server answered 404"),
        ({"content": b"<html>a log-in page</html>" + bytes(200_000)}, "what came is no weights file"),
    ],
)
def test_another_file_than_promised_is_refused_and_what_was_there_stays(
    tmp_path: Path, server: ThreadingHTTPServer, change: dict, words: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    (tmp_path / "yolo11n.pt").write_text("kept")
    with pytest.raises(ValueError, match=words) as error:
        download("yolo11n.pt", tmp_path, url=url_of(server))
    assert "put it at" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["yolo11n.pt"]
    assert (tmp_path / "yolo11n.pt").read_text() == "kept"


SEGMENTERS = [
    *(f"sam_{size}.pt" for size in "bl"),
    "mobile_sam.pt",
    *(f"sam{version}_{size}.pt" for version in ("2", "2.1") for size in "tsbl"),
    *(f"FastSAM-{size}.pt" for size in "sx"),
]


@pytest.mark.parametrize("name", ["yolo11n.pt", "yolo11x-seg.pt", "yolov8s.pt", *SEGMENTERS])
def test_official_names_come_with_their_hash(tmp_path: Path, server: ThreadingHTTPServer, name: str) -> None:
    file = download(name, tmp_path, url=url_of(server))
    assert file.read_bytes() == WEIGHTS
    note = json.loads(file.with_suffix(".json").read_text())
    assert (note["file"], note["sha256"]) == (name, hashlib.sha256(WEIGHTS).hexdigest())
    assert file.with_suffix(".json").name == f"{name.removesuffix('.pt')}.json"  # sam2.1_t.json, not sam2.json


def test_fetched_weights_that_changed_are_refused(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    import torch

    from cnn_core.segmentation.sam.weights import read_weights

    key = "image_encoder.patch_embed.seq.0.c.weight"  # by which a MobileSAM is known
    content = io.BytesIO()
    torch.save({key: torch.zeros(32, 3, 3, 3), "more": torch.zeros(30_000)}, content)
    server.content = content.getvalue()
    file = download("mobile_sam.pt", tmp_path, url=url_of(server))
    assert read_weights(file).name == "mobile_sam"
    torch.save({key: torch.ones(32, 3, 3, 3)}, file)
    fetched = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(ValueError, match=rf"{fetched} was fetched .*gridflow fetch mobile_sam.pt"):
        read_weights(file)
    download("mobile_sam.pt", tmp_path, url=url_of(server))
    assert read_weights(file).name == "mobile_sam"


def test_a_kill_between_file_and_note_leaves_no_note_of_another_file(
    tmp_path: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_core.downloads import common as fetching

    download("sam_b.pt", tmp_path, url=url_of(server))
    server.content = WEIGHTS + b"newer"
    monkeypatch.setattr(fetching, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        download("sam_b.pt", tmp_path, url=url_of(server))
    assert (tmp_path / "sam_b.pt").read_bytes() == server.content
    assert not (tmp_path / "sam_b.json").exists()


def test_an_unknown_name_suggests_a_near_one(tmp_path: Path, repository: Path) -> None:
    known = r"fetch gets digits, scenes, Ultralytics' weights .* not called 'yolo11nn\.pt'; did you mean yolo11n\.pt\?$"
    with pytest.raises(ValueError, match=known):
        fetch_weights("yolo11nn.pt", repository)
    with pytest.raises(ValueError, match="not called 'yolo11nn"):
        download("yolo11nn.pt", tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("yolo11n.pt", "--set detect.weights=data/weights/x --set detect.source=FOLDER detect"),
        ("mobile_sam.pt", "--set segment.weights=data/weights/x"),
        ("alexnet", "--recipe real --set train.scenes.weights=data/weights/x"),
        ("digits", "--recipe real --set ingest.digits.source=data/weights/x"),
    ],
)
def test_it_says_how_to_run_with_what_came(name: str, words: str) -> None:
    assert words in run_with(name, Path("data/weights/x"))
