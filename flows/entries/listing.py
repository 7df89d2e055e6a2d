"""List the data sets of a checkout: ``gridflow sets``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cnn_core.params import read_yaml
from flows.registry.models import champion, read_models, source_of

VERSION_SIGNS = 12


def sets(root: Path) -> list[dict[str, Any]]:
    """Each set with its kind, source, models and champions and, where it was ingested, its counts and version."""
    params = read_yaml(root / "params.yaml")
    users: dict[str, list[str]] = {}
    for model in read_models(root).values():
        users.setdefault(source_of(root, model)[0], []).append(model.name)
    rows = []
    for name, entry in (params.get("ingest") or {}).items():
        manifest = root / "data/raw" / name / "manifest.json"
        content = json.loads(manifest.read_text()) if manifest.is_file() else {}
        models = users.get(name, [])
        champions = {model: version.name for model in models if (version := champion(root, model))}
        rows.append(
            {
                "name": name,
                "kind": entry.get("kind", "auto"),
                "source": entry["source"],
                "images": content.get("counts", {}),
                "classes": len(content.get("classes", [])),
                "version": str(content.get("content_sha256", ""))[:VERSION_SIGNS],
                "models": models,
                "champions": champions,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The sets as lines for a person."""
    if not rows:
        return "there is no data set: `gridflow new MODEL --task TASK --source PATH` makes one"
    lines = []
    for row in rows:
        images = ", ".join(f"{count:,} {split}" for split, count in row["images"].items() if count)
        seen = f"{images}; {row['classes']} classes; version {row['version']}" if images else "not ingested yet"
        models = ", ".join(
            f"{name} (champion {row['champions'][name]})" if name in row["champions"] else name
            for name in row["models"]
        )
        lines.append(f"{row['name']}  {row['kind']}, from {row['source']}")
        lines.append(f"    {seen}")
        lines.append(f"    models: {models or 'none'}")
    return "\n".join(lines)
