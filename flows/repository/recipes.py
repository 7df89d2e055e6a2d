"""Recipes: named sets of parameters in ``recipes/``, for whatever entries ``params.yaml`` has.

In each section of a recipe a key is the name of an entry (``scenes``), or says in brackets which entries are meant:
``<any>``, those of a kind of set (``<pixels>``), of a network (``<digit_cnn>``, ``<torchvision_model>``,
``<alexnet>``), or of a sample's content (``<generated_scenes>``). What is said of fewer entries goes over what is said
of more, and an entry's name over all. A name that ``params.yaml`` does not have is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnn_core.params import flatten, read_yaml

FOLDER = "recipes"
FIXED = ("report",)  # sections without entries


def recipes(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def recipe_values(root: Path, recipe: str) -> dict[str, Any]:
    """The values that a recipe sets for the entries of ``params.yaml``, by full key (``train.digits.epochs``).

    They go over the values of the recipe that its ``extends`` names.

    Raises:
        ValueError: there is no such recipe.
    """
    params = read_yaml(root / "params.yaml")
    values: dict[str, Any] = {}
    for content in _contents(root, recipe):
        for section, entries in content.items():
            if section in FIXED:
                values |= {key: value for key, value in flatten(entries, f"{section}.") if _has(params, key)}
                continue
            for name in params.get(section) or {}:
                for key in (*(f"<{trait}>" for trait in traits(params, section, name)), name):
                    values |= dict(flatten(entries.get(key) or {}, f"{section}.{name}."))
    return values


def skipped(root: Path, recipe: str) -> list[str]:
    """The entries that a recipe names and ``params.yaml`` does not have, such as ``train.digits``."""
    params = read_yaml(root / "params.yaml")
    names: dict[str, None] = {}
    for content in _contents(root, recipe):
        for section, entries in content.items():
            if section in FIXED:
                keys = [key for key, _ in flatten(entries, f"{section}.") if not _has(params, key)]
            else:
                keys = [
                    f"{section}.{name}" for name in entries if name[0] != "<" and not _has(params, f"{section}.{name}")
                ]
            names |= dict.fromkeys(keys)
    return list(names)


def traits(params: Mapping[str, Any], section: str, name: str) -> list[str]:
    """What a recipe may call an entry by, beside its name, the most general first."""
    entry = params[section][name] or {}
    words = ["any"]
    if section == "sample":
        words.append(str(entry.get("content")))
    if section in ("ingest", "augment"):
        words.append(str(((params.get("ingest") or {}).get(name) or {}).get("kind")))
    model = entry.get("model") or ((params.get("train") or {}).get(name) or {}).get("model")
    if isinstance(model, Mapping):
        words += [str(model[key]) for key in ("architecture", "builder") if key in model]
    return words


def _contents(root: Path, recipe: str) -> Iterator[dict[str, Any]]:
    """The content of a recipe's file, after those of the recipes that it extends."""
    if recipe not in recipes(root):
        raise ValueError(f"there is no recipe {recipe!r}; {FOLDER}/ holds {', '.join(recipes(root))}")
    content = dict(read_yaml(root / FOLDER / f"{recipe}.yaml"))
    if base := content.pop("extends", None):
        yield from _contents(root, base)
    yield content


def _has(params: Mapping[str, Any], key: str) -> bool:
    node: Any = params
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True
