"""Stage ``study_sample``: the handwritten digits that the study's experiments learn from -> data/study/digits.

They are those of the demo's sample with its split, made anew, so that the study needs no entry of params.yaml.
"""

from __future__ import annotations

from pathlib import Path

from cnn_core.data.augmented import SPLITS, arrays_writer
from cnn_core.data.ingestion import IngestParams
from cnn_core.data.raw import decode_images, read_manifest, read_raw
from cnn_core.locks import temporary_folder
from tasks.engine import events
from tasks.ingest import read_source
from tasks.sample import SampleParams, write_digits

FOLDER = "data/study/digits"
UNLABELLED, FRACTION, SEED = 500, 0.1, 0  # as the demo's: images without labels, of the val and the test part


def main() -> None:
    with temporary_folder() as scratch:
        (scratch / "source").mkdir()
        write_digits(SampleParams(content="handwritten_digits", unlabelled=UNLABELLED, seed=SEED), scratch / "source")
        raw = ingested(scratch)
        manifest = read_manifest(raw)
        images = sum(manifest["counts"][split] for split in SPLITS)
        parts = {split: read_raw(raw, split) for split in SPLITS}
        shape = decode_images(parts["train"].images[:1], "L").shape[1:]
        with (
            arrays_writer(FOLDER, name="digits", classes=manifest["classes"], shape=shape, copies=0) as writer,
            events.progress("study sample", images, "images") as bar,
        ):
            for split, part in parts.items():
                decode_images(part.images, "L", out=writer.add(split, part.ids, part.labels), on_progress=bar.update)
    events.log(f"{FOLDER}: {images:,} digits")


def ingested(scratch: Path) -> Path:
    """Split the sample; the RAW set's folder."""
    params = IngestParams(
        source=str(scratch / "source"),
        kind="pixels",
        val_fraction=FRACTION,
        test_fraction=FRACTION,
        seed=SEED,
        max_bad_fraction=0.01,
        near_duplicates=True,
    )
    read_source("digits", params, scratch / "raw", on_progress=lambda _: None)
    return scratch / "raw"


if __name__ == "__main__":
    events.run_stage(main)
