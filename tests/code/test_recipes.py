from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield from keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_a_recipe_leaves_nothing_of_another_behind():
    """A recipe is written over params.yaml as it stands, perhaps with another recipe's values."""
    set_by = {path.stem: set(keys(yaml.safe_load(path.read_text()))) for path in RECIPES}
    every = set.union(*set_by.values())
    assert {name: sorted(every - found) for name, found in set_by.items()} == {name: [] for name in set_by}
