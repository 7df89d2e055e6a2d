"""Results of an earlier run: those that belong to other parameters, or to other inputs, than stand beside them.

After a stage has failed its former results are restored, and after one stage by itself those of the stages behind it
are still there. Which these are follows from dvc.lock, where the checkout or the run has one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cnn_core.params import flatten

REPORTS = "data/reports/"
SHOWN_KEYS = 3
ABSENT = object()


def former_stages(root: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """The stages below ``root`` with former results, and why they are that: ``{"train@digits": "… since", …}``.

    Args:
        values: the content of params.yaml.
    """
    lock = root / "dvc.lock"
    try:
        stages = (yaml.load(lock.read_text(), yaml.CSafeLoader) or {}).get("stages") or {}
    except (FileNotFoundError, yaml.YAMLError):  # nothing has run, or DVC is writing it just now
        return {}
    results = {out["path"]: (name, out.get("md5")) for name, entry in stages.items() for out in entry.get("outs", [])}

    @functools.cache
    def why(name: str) -> str:
        entry = stages[name]
        params = entry.get("params", {}).get("params.yaml", {})
        if keys := [key for param, value in params.items() for key in changed_keys(param, value, values)]:
            more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            return f"params.yaml has changed since the run in {', '.join(keys[:SHOWN_KEYS])}{more}"
        inputs = [(*results[dep["path"]], dep) for dep in entry.get("deps", []) if dep["path"] in results]
        if newer := [maker for maker, md5, dep in inputs if dep.get("md5") != md5]:
            return f"{', '.join(newer)} has made other results since"
        former = [maker for maker, _, _ in inputs if why(maker)]
        return f"it was made of what {former[0]} made then" if former else ""

    dropped = {
        name
        for name, entry in stages.items()
        if any(_value(values, key) is ABSENT for key in entry.get("params", {}).get("params.yaml", {}))
    }
    reports = {
        name for name, entry in stages.items() for out in entry.get("outs", []) if out["path"].startswith(REPORTS)
    }
    return {name: why(name) for name in stages if name not in dropped | reports and why(name)}


def changed_keys(key: str, value: Any, values: Mapping[str, Any]) -> list[str]:
    """The parameters at and below ``key`` whose value in ``values`` is another than in ``value``."""
    now = _value(values, key)
    if not isinstance(value, dict) or not isinstance(now, dict):
        return [key] if now != value else []
    before, after = dict(flatten(value, f"{key}.")), dict(flatten(now, f"{key}."))
    return [name for name in before | after if before.get(name) != after.get(name)]


def _value(values: Mapping[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node.get(part, ABSENT) if isinstance(node, Mapping) else ABSENT
    return node
