"""Gets data sets by name into ``data/sources/`` and tracks them with DVC: ``python -m flows.fetch digits``.

The only part of Gridflow that uses the network; a run never does.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.graph import find_root


@dataclass(frozen=True, kw_only=True)
class KaggleSource:
    """A Kaggle competition's files, and where they go."""

    competition: str
    folder: str  # in data/sources/
    parameter: str  # that a run names the folder by
    files: tuple[str, ...]  # that have to be there after the download


SOURCES = {
    "digits": KaggleSource(
        competition="digit-recognizer",
        folder="digits-kaggle",
        parameter="ingest.digits.source",
        files=("train.csv", "test.csv"),
    )
}


def fetch(name: str, root: Path) -> Path:
    """Download a data set, put it in its folder in one move and track it with DVC; a folder that was there is replaced.

    Raises:
        ValueError: the name is unknown, Kaggle refused or could not be reached, or a file is missing. What was there
            before stays.
    """
    if name not in SOURCES:
        raise ValueError(f"{name!r} is not known; python -m flows.fetch gets {', '.join(SOURCES)}")
    source = SOURCES[name]
    target = root / "data" / "sources" / source.folder
    partial = target.with_name(f".{source.folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _download(source, partial)
        if absent := [file for file in source.files if not (partial / file).is_file()]:
            raise ValueError(f"Kaggle's {source.competition} came without {', '.join(absent)}; {_by_hand(source)}")
        shutil.rmtree(partial / ".complete", ignore_errors=True)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    track(target, root)
    return target


def track(path: Path, root: Path) -> None:
    """``dvc add``: the data goes to DVC's cache, a small pointer beside it goes to git.

    Raises:
        ValueError: DVC refused; its reason is in the sentence.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", str(path.relative_to(root))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the data lies in {path}, but DVC does not track it: {done.stderr.strip()}")


def _download(source: KaggleSource, folder: Path) -> None:
    import kagglehub
    import requests
    from kagglehub.exceptions import UnauthenticatedError

    try:
        kagglehub.competition_download(source.competition, output_dir=str(folder))
    except UnauthenticatedError:
        raise ValueError(
            "Kaggle needs your credentials: put kaggle.json (Kaggle > Settings > API > Create new token) "
            f"into ~/.kaggle/, or set KAGGLE_USERNAME and KAGGLE_KEY; {_by_hand(source)}"
        ) from None
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        hint = "accept the rules on the competition's page and check your credentials; " if status in (401, 403) else ""
        raise ValueError(f"Kaggle answered {status} for {source.competition}: {hint}{_by_hand(source)}") from error
    except requests.RequestException as error:
        raise ValueError(f"Kaggle could not be reached ({type(error).__name__}); {_by_hand(source)}") from error


def _by_hand(source: KaggleSource) -> str:
    files = " and ".join(source.files)
    return (
        f"or download {files} of the competition {source.competition} by hand into data/sources/{source.folder}/ "
        f"and run with --set {source.parameter}=data/sources/{source.folder}"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.fetch", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"one of {', '.join(SOURCES)}")
    try:
        root = find_root()
        for name in parser.parse_args().names:
            path = fetch(name, root).relative_to(root)
            print(f"{name}: {path}, tracked by DVC ({path}.dvc: commit it to keep the version)")
            print(f"Run with it: python -m flows.pipeline --recipe real --set {SOURCES[name].parameter}={path}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
