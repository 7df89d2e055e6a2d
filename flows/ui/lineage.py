"""Where data and models come from: a stage's outputs as Prefect assets, with their MD5s and inputs.

Prefect's own server shows no graph of assets (its Cloud does), so a run has the artifact ``lineage`` as
well: a table of all outputs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext

from cnn_core.params import read_yaml
from flows.repository.git import git
from flows.repository.graph import StageNode

OTHER_ARTIFACTS = ("data/metrics/", "data/plots/")  # these are shown as artifacts of their own
NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._~/@+-]+")


def assets_of(node: StageNode, root: Path) -> list[Asset]:
    return [
        Asset(key=key_of(path), properties=AssetProperties(name=path, description=node.description or node.name))
        for path in node.outputs
        if not path.startswith(OTHER_ARTIFACTS) and (root / path).is_relative_to(root)
    ]


def sources_of(node: StageNode) -> list[Asset]:
    """List a stage's sources and weights; its other inputs follow from the graph."""
    return [Asset(key=key_of(path)) for path in node.inputs if Path(path).suffix != ".py"]


def key_of(path: str) -> str:
    """The asset's key, which is the same in every worktree."""
    return f"dvc://gridflow/{NOT_IN_KEYS.sub('-', path.lstrip('/'))}"


def describe_assets(node: StageNode, root: Path) -> None:
    """Within the stage's task: add to each asset its MD5, and what it is made of."""
    context, entry = AssetContext.get(), lock_entry(node, root)
    keys = {asset.key for asset in context.downstream_assets} if context else set()
    for out in entry.get("outs", []):
        key = key_of(_path(node, out["path"]))
        if context and key in keys:
            origin = {"stage": node.name, "made_of": _hashes(node, entry), "parameters": entry.get("params", {})}
            context.add_asset_metadata(key, {**_facts(out), **origin, "commit": _commit(root)})


def publish_lineage(nodes: Sequence[StageNode], root: Path, experiment: str | None = None) -> None:
    """Publish the artifact ``lineage``: a row for each output, with its MD5 and its inputs."""
    rows = []
    for node in nodes:
        entry = lock_entry(node, root)
        made_of = ", ".join(
            f"{path} {md5[:10]}" for path, md5 in _hashes(node, entry).items() if Path(path).suffix != ".py"
        )
        for out in entry.get("outs", []):
            rows.append({"output": _path(node, out["path"]), **_facts(out), "stage": node.name, "made of": made_of})
    if rows:
        text = f"Code and parameters: commit {_commit(root)}" + (f", experiment {experiment}" if experiment else "")
        create_table_artifact(rows, key="lineage", description=text)


def lock_entry(node: StageNode, root: Path) -> dict[str, Any]:
    """Read a stage's entry in dvc.lock; empty where there is none or DVC is writing the file."""
    file, _, name = node.name.rpartition(":")
    lock = root / Path(file or "dvc.yaml").with_name("dvc.lock")
    try:
        return read_yaml(lock).get("stages", {}).get(name, {})
    except ValueError:
        return {}


def _path(node: StageNode, path: str) -> str:
    return os.path.normpath(Path(node.name.rpartition(":")[0]).parent / path)


def _hashes(node: StageNode, entry: dict[str, Any]) -> dict[str, str]:
    return {_path(node, dep["path"]): str(dep.get("md5", "")) for dep in entry.get("deps", [])}


def _facts(out: dict[str, Any]) -> dict[str, Any]:
    return {"md5": out.get("md5", ""), "bytes": out.get("size", 0), "files": out.get("nfiles", 1)}


def _commit(root: Path) -> str:
    return git(root, "rev-parse", "HEAD")
