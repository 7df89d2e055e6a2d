"""Patch ``params.yaml`` as ``dvc exp run -S`` does, check it, look values up, and read the recipes."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides

from cnn_core.params import flatten, read_yaml


def patch_params(root: Path, recipe: str | None, overrides: Sequence[str], *, check: bool = True) -> list[str]:
    """Apply a recipe, then overrides (``train.digits.epochs=3``), to ``params.yaml``. Comments stay.

    Changed sections are checked before the new file replaces the old one, so a bad value changes nothing.

    Returns:
        One line for each value that changed: ``train.digits.epochs: 16 -> 3``.

    Raises:
        ValueError: the recipe or a key is unknown, or a value is not allowed.
    """
    params = root / "params.yaml"
    before = dict(flatten(read_yaml(params)))
    settings = [_checked(override, before) for override in [*_recipe_overrides(root, recipe), *overrides]]
    with tempfile.TemporaryDirectory(dir=root, prefix=".params-") as folder:
        candidate = Path(folder) / "params.yaml"
        candidate.write_text(params.read_text())
        try:
            apply_overrides(candidate, settings)
        except DvcException as error:
            raise ValueError(f"--set {' '.join(overrides)}: {_first_line(error)}") from error
        after = dict(flatten(read_yaml(candidate)))
        changes = [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]
        if changes and check:
            check_params(root, candidate, changed_sections(changes))
        if changes:
            candidate.replace(params)
    return changes


def changed_sections(changes: Iterable[str]) -> set[str]:
    return {change.partition(".")[0] for change in changes}


def check_params(root: Path, params: Path | None = None, sections: Collection[str] = ()) -> None:
    """Check sections (default: all) of ``params`` (default: params.yaml) against their stages' dataclasses.

    The check runs in a process of its own, because flows must not import torch.

    Raises:
        ValueError: a key is unknown or missing, or a value is not allowed. The message lists every fault.
    """
    command = [sys.executable, "-m", "tasks.check", str(params or root / "params.yaml"), *sorted(sections)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        raise ValueError(done.stdout.strip())
    if done.returncode:
        raise RuntimeError(f"the check of the parameters broke:\n{done.stderr}")


def parameters_naming(root: Path, path: str) -> list[str]:
    """The keys of ``params.yaml`` whose value is this path, such as ``ingest.digits.source``."""
    target = (root / path).resolve()
    return [key for key, value in text_parameters(root).items() if (root / value).resolve() == target]


def text_parameters(root: Path) -> dict[str, str]:
    """The parameters that are texts, among them all paths: ``{"ingest.digits.source": "data/sources/digits", …}``."""
    return {key: value for key, value in flatten(read_yaml(root / "params.yaml")) if isinstance(value, str) and value}


def recipes(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "recipes").glob("*.yaml"))


def recipe_values(root: Path, recipe: str) -> dict[str, Any]:
    """The values that a recipe sets, by full key (``train.digits.epochs``).

    They go over the values of the recipe that its ``extends`` names.

    Raises:
        ValueError: there is no such recipe.
    """
    if recipe not in recipes(root):
        raise ValueError(f"there is no recipe {recipe!r}; recipes/ holds {', '.join(recipes(root))}")
    content = dict(read_yaml(root / "recipes" / f"{recipe}.yaml"))
    base = content.pop("extends", None)
    return (recipe_values(root, base) if base else {}) | dict(flatten(content))


def _recipe_overrides(root: Path, recipe: str | None) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in recipe_values(root, recipe).items()] if recipe else []


def _checked(override: str, values: Mapping[str, Any]) -> str:
    """Check an override's key, and quote a text, so that a path may hold any character."""
    key, sign, value = override.partition("=")
    if not sign:
        raise ValueError(f"--set {override}: write key=value, for example train.digits.epochs=3")
    if key.startswith(("+", "~")):
        raise ValueError(f"--set {override}: a parameter can be changed, not added or removed")
    if key not in values:
        near = difflib.get_close_matches(key, values, n=3, cutoff=0.5)
        raise ValueError(f"{key} is not a parameter" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if isinstance(values[key], str) and not value.startswith(('"', "'")):
        if value.startswith("~"):  # the shell expands it only at the beginning of a word, and DVC never
            value = str(Path(value).expanduser())
        return f"{key}={json.dumps(value, ensure_ascii=False)}"
    return override


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0]
