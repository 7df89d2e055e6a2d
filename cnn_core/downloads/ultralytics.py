"""Download one of Ultralytics' official weights files to a folder.

``python -m cnn_core.downloads.ultralytics yolo11n.pt FOLDER`` writes

    FOLDER/yolo11n.pt     as Ultralytics publishes it
           yolo11n.json   its origin and its SHA-256; written last

The exit code is 3 when the download failed and 4 when there is no such file, with a sentence on standard output.
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from pathlib import Path

from cnn_core.detection.yolo import quiet
from cnn_core.downloads.common import UnknownNameError, command_line, folder_beside, replace
from cnn_core.files import file_sha256

# The first bytes of what torch.save writes, today and before torch 1.6, unlike a log-in page.
_STARTS = (b"PK", b"\x80\x02")


def fetch_yolo(name: str, folder: str | Path, *, url: str | None = None) -> Path:
    """Download official weights by the name of their file; they replace former ones in one move.

    Raises:
        UnknownNameError: this version of Ultralytics knows no such file.
        ValueError: it could not be downloaded or is no weights file. What was there before stays.
    """
    target = Path(folder) / name
    with folder_beside(target) as partial:
        quiet(partial)
        import ultralytics
        from ultralytics.utils import downloads

        official = sorted(asset for asset in downloads.GITHUB_ASSETS_NAMES if asset.endswith(".pt"))
        if name not in official:
            near = difflib.get_close_matches(name, official, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UnknownNameError(f"weights of Ultralytics are not called {name!r}{hint}")
        try:
            file = _download(name, partial, url)
        except (OSError, MemoryError) as error:  # what requests raises is an OSError too
            raise ValueError(_by_hand(name, target, _reason(error))) from None
        with file.open("rb") as opened:
            if not opened.read(2).startswith(_STARTS):
                raise ValueError(_by_hand(name, target, "what came is no weights file"))
        release = inspect.signature(downloads.attempt_download_asset).parameters["release"].default
        origin = {
            "file": name,
            "origin": url or f"release {release} of {downloads.GITHUB_ASSETS_REPO}",
            "sha256": file_sha256(file),
            "ultralytics": ultralytics.__version__,
        }
        return replace(file, target, origin)


def _download(name: str, folder: Path, url: str | None) -> Path:
    from ultralytics.utils.downloads import attempt_download_asset, safe_download

    os.environ["YOLO_OFFLINE"] = "false"  # this process alone may use the network
    file = folder / name
    if url:
        safe_download(url, file=name, dir=folder, min_bytes=1e5)
    else:
        attempt_download_asset(file)
    if not file.is_file():
        raise FileNotFoundError(f"Ultralytics brought no {name}")
    return file


def _reason(error: BaseException) -> str:
    # The server's status goes first: Ultralytics takes every failure for a missing connection when its own probe fails.
    status = getattr(getattr(error.__cause__, "response", None), "status_code", None)
    return f"the server answered {status}" if status else " ".join(str(error).replace("❌", "").split()).rstrip(".")


def _by_hand(name: str, target: Path, reason: str) -> str:
    return (
        f"Ultralytics' weights {name} could not be fetched ({reason}); download {name} by hand from the release assets "
        f"of Ultralytics on GitHub and put it at {target}"
    )


def main() -> int:
    return command_line(
        "cnn_core.downloads.ultralytics",
        __doc__,
        name="the file's name, such as yolo11n.pt",
        url="another address of the file",
        fetch=fetch_yolo,
    )


if __name__ == "__main__":
    sys.exit(main())
