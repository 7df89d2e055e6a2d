"""Download torchvision's own weights of one network to a folder.

``python -m cnn_core.downloads.torchvision BUILDER FOLDER`` writes

    FOLDER/BUILDER.pth    the state dict as torchvision publishes it
           BUILDER.json   its origin and its SHA-256; written last

The exit code is 3 when the download failed and 4 when there is no such network, with a sentence on standard output.
"""

from __future__ import annotations

import http.client
import pickle
import socket
import sys
import urllib.error
from pathlib import Path

from cnn_core.classification.architectures.torchvision_model import builders, unknown_builder
from cnn_core.downloads.common import UnknownNameError, command_line, folder_beside, replace
from cnn_core.files import file_sha256

_SILENCE_S = 60.0  # a server that sends nothing for so long counts as gone


def fetch_weights(builder: str, folder: str | Path, *, url: str | None = None) -> Path:
    """Download the DEFAULT weights of a torchvision network; they replace former ones in one move.

    Args:
        url: another address of the same file; its name must keep the digits of its SHA-256.

    Raises:
        UnknownNameError: there is no such builder.
        ValueError: the file could not be downloaded or is not the one that its name promises. What was there before
            stays.
    """
    if builder not in builders():
        raise UnknownNameError(f"the network {unknown_builder(builder)}")
    import torchvision

    weights = torchvision.models.get_model_weights(builder).DEFAULT
    url, target = url or weights.url, Path(folder) / f"{builder}.pth"
    with folder_beside(target) as partial:
        try:
            file = _download(url, partial)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, http.client.HTTPException) as error:
            raise ValueError(
                f"torchvision's weights of {builder} could not be fetched ({_reason(error)}); download {url} by hand "
                f"and put it at {target}"
            ) from None
        origin = {
            "builder": builder,
            "weights": str(weights),
            "url": url,
            "sha256": file_sha256(file),
            "torchvision": torchvision.__version__,
        }
        return replace(file, target, origin)


def _download(url: str, folder: Path) -> Path:
    """Download the file into an empty folder; check its hash, and that it is a state dict."""
    from torch.hub import load_state_dict_from_url

    load_state_dict_from_url(url, str(folder), map_location="cpu", check_hash=True, weights_only=True)
    (file,) = folder.iterdir()
    return file


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection: {error.reason}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def main() -> int:
    socket.setdefaulttimeout(_SILENCE_S)
    return command_line(
        "cnn_core.downloads.torchvision",
        __doc__,
        name="the name of a torchvision network, such as alexnet",
        url="another address of the file; its name must stay",
        fetch=fetch_weights,
    )


if __name__ == "__main__":
    sys.exit(main())
