"""Patch ``params.yaml`` as ``dvc exp run -S`` does, check it, and look values up."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from dvc.utils.hydra import to_hydra_overrides
from dvc.utils.serialize import modify_yaml
from hydra.errors import OverrideParseException

from cnn_core.locks import temporary_folder
from cnn_core.params import flatten, read_yaml
from flows.repository.recipes import recipe_values

CANDIDATE = ".params-"  # how the names of folders begin in which the new params.yaml is written
SOME_KEY = "value"  # the grammar wants one; ours may have names that it does not know


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
    values = recipe_values(root, recipe) if recipe else {}
    values |= dict(_parsed(override, before) for override in overrides)
    for key, value in values.items():
        _check_value(key, value, before)
    changed = {key: value for key, value in values.items() if before[key] != value}
    changes = [f"{key}: {before[key]} -> {changed[key]}" for key in before if key in changed]
    if changes:
        with temporary_folder(root, prefix=CANDIDATE) as folder:
            candidate = folder / "params.yaml"
            shutil.copy(params, candidate)
            with modify_yaml(candidate) as content:
                for key, mapping, name in list(_leaves(content)):
                    if key in changed:
                        mapping[name] = changed[key]
            if check:
                check_params(root, candidate, changed_sections(changes))
            candidate.replace(params)
    return changes


def with_values(text: str, values: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The text of a ``params.yaml`` with these values, by full key, and the keys whose section it does not have.

    A parameter that is missing in its section is added to it.
    """
    absent = []
    with temporary_folder() as folder:
        path = folder / "params.yaml"
        path.write_text(text, encoding="utf-8")
        if values:
            with modify_yaml(path) as content:
                for key, value in values.items():
                    *parts, name = key.split(".")
                    node: Any = content
                    for part in parts:
                        node = node.get(part) if isinstance(node, Mapping) else None
                    if isinstance(node, MutableMapping) and (name in node or len(parts) > 1):
                        node[name] = value
                    else:
                        absent.append(key)
        return path.read_text(encoding="utf-8"), absent


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


def _parsed(override: str, values: Mapping[str, Any]) -> tuple[str, Any]:
    """An override's key and value. A text may hold any character; nothing in it is looked up."""
    key, sign, text = override.partition("=")
    if not sign:
        raise ValueError(f"--set {override}: write key=value, for example train.digits.epochs=3")
    if key.startswith(("+", "~")):
        raise ValueError(f"--set {override}: a parameter can be changed, not added or removed")
    if isinstance(values.get(key), str) and not text.startswith(('"', "'")):
        # the shell expands ~ only at the beginning of a word, and DVC never
        return key, str(Path(text).expanduser()) if text.startswith("~") else text
    try:
        parsed = to_hydra_overrides([f"{SOME_KEY}={text}"])[0]
    except OverrideParseException as error:
        raise ValueError(f"--set {override}: {_first_line(error)}") from None
    if parsed.is_sweep_override():
        raise ValueError(f"--set {override}: one run takes one value; write a list as {key}=[{text}]")
    return key, parsed.value()


def _check_value(key: str, value: Any, values: Mapping[str, Any]) -> None:
    """Check that a parameter exists, and that DVC will not look up something in its value."""
    if key not in values:
        near = difflib.get_close_matches(key, values, n=3, cutoff=0.5)
        raise ValueError(f"{key} is not a parameter" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if "${" in str(value):
        raise ValueError(
            f"{key}: a value cannot hold ${{ because `dvc exp run -S` would put a variable in its place; "
            "write the value itself, or rename the file"
        )


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The full key of each leaf of nested mappings, the mapping that holds it, and its key there."""
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            yield from _leaves(value, key)
        else:
            yield key, node, name


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0]
