"""Run the stage `detect` or `segment` once on pictures that belong to no entry: ``gridflow detect`` and ``segment``.

The stage's own code runs outside the graph. Nothing of the checkout changes: the parameters lie in a temporary folder,
and the results in a folder of the user's. A run that was interrupted goes on with what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from cnn_core.locks import temporary_folder
from flows.entries.new import filled
from flows.registry.models import read_models
from flows.repository.parameters import patch_params

Stage = Literal["detect", "segment"]
TEMPLATE: Mapping[Stage, str] = {"detect": "detector", "segment": "segmenter"}
NAME = "once"  # of the entry, which nobody sees
NOTHING = "data/weights/none"
PATHS = ("prompts", "truth")  # parameters that are paths
UNUSED = {
    "epochs": 1,
    "batch": 1,
    "size": 64,
    "network": "none",
    "detector": NAME,
    "smoothing": 0.0,
    "set": NAME,
}  # of the other sections


def run_once(
    root: Path, stage: Stage, weights: str, sources: Sequence[str], out: Path, overrides: Sequence[str]
) -> int:
    """Run the stage, and return its exit code.

    Args:
        weights: the name of a model of the checkout, or a path.
        sources: a folder, .zip, Parquet file, list or video; or image files.
        out: the folder of the results; one that is there has to hold earlier ones.
        overrides: parameters without their section, such as ``conf=0.5``.

    Raises:
        ValueError: something is not there, a parameter is not allowed, or ``out`` holds something else.
    """
    check_out(out)
    with temporary_folder() as folder:
        values = {**parameters(stage), "weights": weights_path(root, weights), "source": source_path(folder, sources)}
        (folder / "params.yaml").write_text(yaml.safe_dump({stage: {NAME: values}}))
        (folder / "tasks").symlink_to(root / "tasks")  # the parameters are checked by this checkout's code
        (folder / "cnn_core").symlink_to(root / "cnn_core")
        if (root / "runtime.yaml").is_file():
            shutil.copy(root / "runtime.yaml", folder)
        write_values(folder, stage, overrides)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", f"tasks.{stage}", NAME, str(out.absolute())]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def write_values(folder: Path, stage: Stage, overrides: Sequence[str]) -> None:
    """Write overrides into the folder's params.yaml; errors name a parameter as the person does, without the entry."""
    if wrong := next((override for override in overrides if "=" not in override), None):
        raise ValueError(f"--set {wrong}: write key=value, for example conf=0.5")
    entry = f"{stage}.{NAME}."
    try:
        patch_params(folder, None, [entry + _absolute(override) for override in overrides])
    except ValueError as error:
        raise ValueError(str(error).replace(entry, "")) from error


def parameters(stage: Stage) -> dict[str, Any]:
    """The stage's parameters to start from; of `segment` without prompts: everything is segmented."""
    values = yaml.safe_load(filled(TEMPLATE[stage], UNUSED | {"model": NAME})[stage])[NAME]
    values |= {"match": "*"}
    return values | ({"prompt": "everything", "prompts": NOTHING} if stage == "segment" else {})


def weights_path(root: Path, weights: str) -> str:
    """The absolute path of a model of the checkout, or of weights."""
    model = read_models(root).get(weights)
    path = root / model.folder if model else Path(weights).expanduser().absolute()
    if not path.exists():
        hint = (
            f"; `gridflow run {model.train}` trains it" if model else f"; models here: {', '.join(read_models(root))}"
        )
        raise ValueError(f"{weights} is not there, neither as a model of this checkout nor as a file{hint}")
    return str(path)


def source_path(folder: Path, sources: Sequence[str]) -> str:
    """The path of the pictures; several files are listed in a file of their own."""
    paths = [Path(source).expanduser().absolute() for source in sources]
    for path, source in zip(paths, sources, strict=True):
        if not path.exists():
            raise ValueError(f"{source} does not exist: name image files, or one folder, .zip, .parquet, list or video")
    if len(paths) == 1:
        return str(paths[0])
    if folders := [source for path, source in zip(paths, sources, strict=True) if path.is_dir()]:
        raise ValueError(f"{folders[0]} is a folder: name it alone, or image files only")
    listed = folder / "pictures.txt"
    listed.write_text("".join(f"{path}\n" for path in paths))
    return str(listed)


def _absolute(override: str) -> str:
    """The override with the path that it holds from the user's folder, as the stage runs in another one."""
    key, sign, value = override.partition("=")
    is_path = key in PATHS and value != NOTHING
    return f"{key}{sign}{Path(value).expanduser().absolute()}" if is_path else override


def check_out(out: Path) -> None:
    """Raises ValueError if the folder holds anything but results of `detect` or `segment`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = out / "manifest.json"
    if not manifest.is_file() or "model_sha256" not in json.loads(manifest.read_text()):
        raise ValueError(f"{out} is there and holds no results of this command: name another folder with --out")
