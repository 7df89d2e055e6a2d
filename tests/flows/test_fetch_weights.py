"""torchvision's weights from a local stand-in for its server, through torch's own client and a real DVC repository."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision

from cnn_core.downloads.torchvision import fetch_weights as download
from flows.fetch import fetch_weights

pytestmark = pytest.mark.xdist_group("fetch_weights")

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


class Weights(BaseHTTPRequestHandler):
    """Answers every request with the bytes (or the status) that the test has put on the server."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.sent])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def _no_proxy_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Weights)
    buffer = io.BytesIO()
    torch.save({"features.0.bias": torch.arange(3.0)}, buffer)
    server.status, server.content, server.sent = 200, buffer.getvalue(), None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url_of(server: ThreadingHTTPServer) -> str:
    digest = hashlib.sha256(server.content).hexdigest()
    return f"http://127.0.0.1:{server.server_port}/alexnet-owt-{digest[:8]}.pth"


def test_weights_come_with_their_origin_and_are_tracked(small: Path, server: ThreadingHTTPServer) -> None:
    target = fetch_weights("alexnet", small, url=url_of(server))
    assert target == small / "data/weights/alexnet.pth"
    assert torch.equal(torch.load(target, weights_only=True)["features.0.bias"], torch.arange(3.0))
    assert json.loads((target.parent / "alexnet.json").read_text()) == {
        "builder": "alexnet",
        "weights": "AlexNet_Weights.IMAGENET1K_V1",
        "url": url_of(server),
        "sha256": hashlib.sha256(server.content).hexdigest(),
        "torchvision": torchvision.__version__,
    }
    names = sorted(path.name for path in target.parent.iterdir())
    assert names == [".gitignore", "alexnet.json", "alexnet.pth", "alexnet.pth.dvc"]


def test_no_network_names_the_file_and_its_place(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cnn_core").symlink_to(repository / "cnn_core")
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens
    with pytest.raises(ValueError, match="could not be fetched") as error:
        fetch_weights("alexnet", tmp_path)
    assert f"download {ALEXNET} by hand and put it at data/weights/alexnet.pth" in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "data/weights").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": 404}, "the server answered 404"),
        ({"content": b"<html>a log-in page</html>"}, "invalid hash value"),
        ({"sent": 100}, "could not be fetched"),
    ],
)
def test_another_file_than_promised_is_refused_and_what_was_there_stays(
    tmp_path: Path, server: ThreadingHTTPServer, change: dict, words: str
) -> None:
    url = url_of(server)
    for name, value in change.items():
        setattr(server, name, value)
    (tmp_path / "alexnet.pth").write_text("kept")
    with pytest.raises(ValueError, match=words) as error:
        download("alexnet", tmp_path, url=url)
    assert f"download {url} by hand" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["alexnet.pth"]
    assert (tmp_path / "alexnet.pth").read_text() == "kept"


class RunsCode:
    """When it is unpickled."""

    def __reduce__(self) -> tuple:
        return print, ("code from a file of weights",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    buffer = io.BytesIO()
    torch.save(RunsCode(), buffer)
    server.content = buffer.getvalue()
    with pytest.raises(ValueError, match="could not be fetched"):
        download("alexnet", tmp_path, url=url_of(server))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_suggests_a_near_one(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(
        ValueError, match=r"gridflow fetch gets digits, scenes, .* not 'alexnt'; did you mean alexnet\?$"
    ):
        fetch_weights("alexnt", repository)
    with pytest.raises(ValueError, match="not 'alexnt'; did you mean alexnet"):
        download("alexnt", tmp_path)


def test_the_repository_ignores_weights_but_not_their_pointers(repository: Path) -> None:
    def ignored(name: str) -> bool:
        command = ["git", "check-ignore", "-q", f"data/weights/{name}"]
        return subprocess.run(command, cwd=repository, check=False).returncode == 0

    assert [name for name in ("none", ".gitignore", "alexnet.pth.dvc", "alexnet.json") if ignored(name)] == []
    assert all(ignored(name) for name in ("alexnet.pth", "mine.pt", "mine.safetensors"))


def test_every_builder_has_default_weights_with_a_hash_in_their_name() -> None:
    for builder in torchvision.models.list_models(module=torchvision.models):
        url = torchvision.models.get_model_weights(builder).DEFAULT.url
        assert torch.hub.HASH_REGEX.search(url.rsplit("/", 1)[1]), builder
