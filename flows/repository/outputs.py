"""Bring the outputs of an earlier run out of DVC's cache or remote, by the commit that holds its dvc.lock."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import yaml

from cnn_core.data.class_changes import read_labels, remember
from cnn_core.locks import temporary_folder, wait_for_lock
from flows.repository.git import git
from flows.repository.graph import StageNode
from tasks.engine.runtime import VERSIONS, main_checkout


def outputs(root: Path, commit: str) -> dict[str, str]:
    """The outputs in a commit's dvc.lock: path -> MD5.

    Raises:
        ValueError: the commit has none.
    """
    try:
        lock = yaml.safe_load(git(root, "show", f"{commit}:./dvc.lock"))
    except ValueError:
        raise ValueError(f"{commit[:10]} has no dvc.lock: a run writes it, `dvc exp save` keeps it") from None
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


def get_output(root: Path, commit: str, path: str, target: Path) -> Path:
    """Bring an output of the run that ``commit`` holds to ``target``. A target that exists stays as it is.

    Raises:
        ValueError: neither DVC's cache nor its remote has it.
    """
    with wait_for_lock(target.with_name(f".{target.name}.lock")):  # two runs may want it at the same time
        if target.exists():
            return target
        with temporary_folder(target.parent, prefix=f".{target.name}.") as folder:
            checkout = main_checkout(root)
            repository = Path(git(checkout, "rev-parse", "--show-toplevel"))  # the project may lie in a subfolder
            inside = str(checkout.resolve().relative_to(repository.resolve()) / path)
            command = [sys.executable, "-m", "dvc", "get", "--quiet", str(repository), inside]
            command += ["--rev", commit, "--out", str(folder / "output")]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = " ".join(done.stderr.replace("ERROR: ", "").split())
                raise ValueError(f"DVC does not have {path} of {commit[:10]} (`dvc pull` may bring it): {reason}")
            (folder / "output").rename(target)
    return target


def remember_set(node: StageNode, root: Path) -> None:
    """Remember the classes of the set that an ingestion is about to replace, which DVC deletes before it runs."""
    for path in (root / path for path in node.outputs if path.startswith("data/raw/")):
        with contextlib.suppress(OSError, KeyError, ValueError):  # there is none, or it is not whole
            remember(main_checkout(root) / VERSIONS, path.name, read_labels(path))


def output_path(root: Path, name: str, md5: str) -> Path:
    """The path for an output, named by its content: it is brought out once, and has one path for all who read it."""
    return main_checkout(root) / ".gridflow" / "outputs" / f"{name}-{md5.partition('.')[0][:12]}"


def ignored_folder(folder: Path) -> Path:
    """Make a folder if it is missing, with a ``.gitignore`` in it that lets git ignore the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("*\n")
    return folder
