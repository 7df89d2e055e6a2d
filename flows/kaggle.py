"""Download data sets from Kaggle with kagglehub; say what to do when Kaggle refuses."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_CREDENTIALS = (
    "put kaggle.json (Kaggle > Settings > API > Create new token) "
    "into ~/.kaggle/, or set KAGGLE_USERNAME and KAGGLE_KEY"
)
_WHEN_REFUSED = {
    "competition": "accept the rules on the competition's page and check your credentials; ",
    "dataset": f"{_CREDENTIALS}; ",
}


@dataclass(frozen=True, kw_only=True)
class KaggleSource:
    """A Kaggle competition's files or a Kaggle dataset, and where they go."""

    kind: Literal["competition", "dataset"]
    handle: str  # as in Kaggle's address: digit-recognizer, owner/name
    folder: str  # its name in data/sources/
    parameter: str  # which names the folder in a run
    files: tuple[str, ...]  # files and folders that the download must bring


def download(source: KaggleSource, folder: Path) -> None:
    """Download a source and unpack it into ``folder``, which need not exist.

    After an error the folder's content is incomplete.

    Raises:
        ValueError: Kaggle refused, could not be reached or sent something else; the sentence says
            what to do.
    """
    import kagglehub
    import requests
    from kagglehub.exceptions import UnauthenticatedError

    download_from = kagglehub.competition_download if source.kind == "competition" else kagglehub.dataset_download
    try:
        download_from(source.handle, output_dir=str(folder))
    except UnauthenticatedError:
        raise ValueError(f"Kaggle needs your credentials: {_CREDENTIALS}; {_by_hand(source)}") from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        hint = _WHEN_REFUSED[source.kind] if status in (401, 403) else ""
        raise ValueError(f"Kaggle answered {status} for {source.handle}: {hint}{_by_hand(source)}") from error
    except requests.RequestException as error:
        raise ValueError(f"Kaggle could not be reached ({type(error).__name__}); {_by_hand(source)}") from error
    except (zipfile.BadZipFile, ValueError) as error:  # kagglehub's ValueError: an unknown type of archive
        raise ValueError(f"Kaggle's archive of {source.handle} is damaged ({error}); {_by_hand(source)}") from error
    if absent := [name for name in source.files if not (folder / name).exists()]:
        raise ValueError(f"Kaggle's {source.handle} came without {', '.join(absent)}; {_by_hand(source)}")
    shutil.rmtree(folder / ".complete", ignore_errors=True)  # kagglehub's marker


def _by_hand(source: KaggleSource) -> str:
    *first, last = source.files
    return (
        f"or download {', '.join(first)} and {last} of the {source.kind} {source.handle} by hand into "
        f"data/sources/{source.folder}/ and run with --set {source.parameter}=data/sources/{source.folder}"
    )
