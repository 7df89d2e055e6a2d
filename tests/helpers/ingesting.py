"""Helpers for the tests of the stage ``ingest``: its parameters, a folder to run it in, a run on a source."""

from __future__ import annotations

from pathlib import Path

import yaml

from cnn_core.data.ingestion import IngestParams, ingest
from tasks.ingest import layouts

SECTION = {
    "source": "source",
    "kind": "pixels",
    "val_fraction": 0.1,
    "test_fraction": 0.1,
    "seed": 0,
    "max_bad_fraction": 0.05,
    "near_duplicates": True,
}


def write_params(folder: Path) -> Path:
    """Write params.yaml into the folder, where a stage looks for it."""
    (folder / "params.yaml").write_text(yaml.safe_dump({"ingest": {"digits": SECTION}}))
    return folder


def run(source: Path, folder: Path, **changes) -> dict:
    params = IngestParams(**{**SECTION, "source": str(source), **changes})
    return ingest("digits", layouts()["pixels"], params, folder)
