"""The page's part on the data sets: where their images come from, what was refused, and the stored copies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cnn_core.annotations.raw_objects import KIND as OBJECTS
from cnn_core.data.class_changes import sentences
from cnn_core.data.raw import read_manifest, read_quarantine
from cnn_core.reporting.images import figure
from cnn_core.reporting.numbers import Numbers

SAMPLES = {
    "handwritten_digits": "The images are the sample: 5,000 real handwritten digits of MNIST.",
    "generated_scenes": "The images are the sample: generated, drawn by a program. They are no photographs.",
}
COMPOSED = "The pictures are composed: real handwritten digits on walls drawn by a program, so every box is exact."
SAMPLE_FOLDER, COMPOSED_FOLDER = "data/sources", "data/composed"
MAX_REFUSED = 50  # rows of the quarantine that are listed


def section(root: Path, name: str, values: Mapping[str, Any], numbers: Numbers) -> dict[str, Any]:
    """Gather what the page shows of an ingested set; a part whose files are missing is None."""
    raw = root / "data/raw" / name
    models = [model for model, entry in (values.get("evaluate") or {}).items() if entry.get("data") == name]
    manifest = read_manifest(raw) if (raw / "manifest.json").is_file() else None
    generated = any(numbers.value(f"evaluate-{model}:generated") is True for model in models) or bool(
        manifest and manifest.get("generated") is True
    )
    return {
        "name": name,
        "origin": origin(name, values, generated=generated),
        "generated": generated,
        "manifest": manifest,
        "class_changes": list(sentences((numbers.metrics(f"ingest-{name}") or {}).get("class_changes") or {})),
        "objects": manifest is not None and manifest.get("kind") == OBJECTS,
        "quarantine": quarantine(raw),
        "augmented": name in (values.get("augment") or {}),
        "copies": figure(root / f"data/plots/augment-{name}.png"),
        "sheet": figure(raw / "sheet.png"),
    }


def quarantine(raw: Path) -> list[dict[str, str]]:
    """The first rows that were left out: ``{id, reason, detail}`` each; of objects the detail names the annotation."""
    if not (raw / "quarantine.parquet").is_file():
        return []
    rows = read_quarantine(raw)[:MAX_REFUSED]
    return [{"id": row["file"], "reason": row["reason"], "detail": row["annotation"]} if "file" in row else row
            for row in rows]  # fmt: skip


def composed(root: Path, name: str) -> dict[str, Any]:
    """Gather what the page shows of a composed set."""
    return {"name": name, "origin": COMPOSED, "picture": figure(root / f"data/plots/compose-{name}.png")}


def origin(name: str, values: Mapping[str, Any], *, generated: bool = False) -> str:
    """Say where the images of a set come from, and whether they are a sample or generated."""
    source = str(((values.get("ingest") or {}).get(name) or {}).get("source", ""))
    path = PurePosixPath(source)
    sample = (values.get("sample") or {}).get(path.name) or {} if str(path.parent) == SAMPLE_FOLDER else {}
    if sample.get("content") in SAMPLES:
        return SAMPLES[sample["content"]]
    return f"The images come from {source}." + (" They are generated: a program drew them." if generated else "")


def object_origin(source: str) -> str:
    """Say where the pictures that a detector or a segmenter was measured on come from."""
    return COMPOSED if str(PurePosixPath(source).parent) == COMPOSED_FOLDER else f"The images come from {source}."
