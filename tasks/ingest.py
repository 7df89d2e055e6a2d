"""Stage ``ingest``: validate, deduplicate and split a source into ``data/raw/<set>/``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cnn_core.data.class_changes import compare_classes, former_version, read_labels, remember, sentences
from cnn_core.data.image_files import describe
from cnn_core.data.image_sources import open_images
from cnn_core.data.ingestion import IngestParams, Layout, ingest
from cnn_core.data.kinds import kind_of
from cnn_core.data.objects.ingestion import ingest_objects
from cnn_core.data.pixel_sources import open_pixels
from cnn_core.data.splits import ink_keys
from cnn_core.images.near_duplicates import near_pairs
from cnn_core.params import load_section
from tasks.engine import events
from tasks.engine.runtime import VERSIONS, load_runtime, main_checkout

PARAMS = IngestParams


def layouts(threads: int | None = None, multilabel: bool | None = None) -> dict[str, Layout]:
    """How each kind of source is read; ``threads`` decode and compare images (None: as many as Python likes)."""
    return {
        "pixels": Layout(open=open_pixels, mode="L", features=ink_keys, pairs=None, refuse_near_test=False),
        "images": Layout(
            open=partial(open_images, threads=threads, multilabel=multilabel),
            mode="RGB",
            features=lambda pictures: [picture.thumbnail for picture in pictures],
            pairs=partial(near_pairs, threads=threads),
            refuse_near_test=True,
        ),
    }


def main(name: str) -> None:
    params = load_section(PARAMS, f"ingest.{name}")
    with events.progress(f"ingest {name}", None) as bar:
        manifest = read_source(name, params, Path("data/raw", name), on_progress=bar.update)
    changes = class_changes(name, Path("data/raw", name))
    for line in [*summary(manifest), *(f"warning: {sentence}" for sentence in sentences(changes))]:
        events.log(line)
    events.write_metrics(
        f"data/metrics/ingest-{name}.json", metrics(manifest) | ({"class_changes": changes} if changes else {})
    )


def read_source(name: str, params: IngestParams, folder: Path, *, on_progress: Callable[[int], None]) -> dict[str, Any]:
    """Write the RAW set of a source of any kind into ``folder`` and return its manifest."""
    threads, kind = load_runtime().threads(), kind_of(params.source) if params.kind == "auto" else params.kind
    if params.multilabel and kind != "images":
        raise ValueError(
            f"ingest.{name}.multilabel is true, but {params.source} holds {kind}: only images (kind images) can have "
            "several labels"
        )
    if kind == "objects":
        return ingest_objects(name, params, folder, threads=threads, on_progress=on_progress)
    return ingest(name, layouts(threads, params.multilabel)[kind], params, folder, on_progress=on_progress)


def class_changes(name: str, raw: Path) -> dict[str, Any]:
    """Say which classes the set has gained, lost or renamed since its former version, and remember this version.

    The output itself holds nothing of it: the same source always gives the same RAW set.
    """
    folder, labels = main_checkout(Path.cwd()) / VERSIONS, read_labels(raw)
    with contextlib.suppress(OSError):  # another ingestion of the set has just removed an old version
        former = former_version(folder, name, labels.content)
        remember(folder, name, labels)
        return compare_classes(former, labels).plain() if former else {}
    return {}


def metrics(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest's numbers that DVC compares between runs."""
    return {
        "images": manifest["counts"],
        "rows_read": manifest["rows_read"],
        "refused": manifest["refused"]["total"],
        "left_out": sum(manifest["left_out"].values()),
        "duplicates": {key: value for key, value in manifest["duplicates"].items() if isinstance(value, int)},
        "classes": len(manifest["classes"]),
        **(_object_metrics(manifest) if "objects" in manifest else {}),
    }


def _object_metrics(manifest: dict[str, Any]) -> dict[str, Any]:
    annotations = manifest["annotations"]
    return {
        "listed": manifest["images_listed"],
        "annotations": {
            "listed": annotations["listed"],
            "read": annotations["read"],
            "refused": annotations["refused"]["total"],
            "left_out": sum(annotations["left_out"].values()),
            "clipped": manifest["clipped"],
        },
        "objects": manifest["objects"],
    }


def summary(manifest: dict[str, Any]) -> list[str]:
    """Return lines for a person: what was read, what was left out, and the warnings."""
    images = ", ".join(f"{count:,} {split}" for split, count in manifest["counts"].items())
    lines = [f"{manifest['rows_read']:,} images read: {images}"]
    lines += [f"refused, {reason}: {count:,}" for reason, count in manifest["refused"]["reasons"].items()]
    lines += [f"left out, no images of the set: {describe(manifest['left_out'])}"] if manifest["left_out"] else []
    if manifest.get("multilabel"):
        without = sum(manifest["without_label"].values())
        lines.append(f"an image may have several labels; {without:,} images have none")
    if "objects" in manifest:
        objects, annotations = manifest["objects"], manifest["annotations"]
        without = sum(objects["images_without_objects"].values())
        lines.append(
            f"{annotations['read']:,} objects of {annotations['listed']:,} annotations ({manifest['format']}); "
            f"{without:,} images show none; {manifest['clipped']:,} boxes clipped by a rounding"
        )
        lines += [f"refused annotations, {why}: {n:,}" for why, n in annotations["refused"]["reasons"].items()]
        lines += [f"annotations left out, {why}: {n:,}" for why, n in annotations["left_out"].items()]
    lines += [f"read as {note}: {count:,}" for note, count in manifest["notes"].items()]
    lines += [f"duplicate, {example}" for example in manifest["duplicates"]["examples"]]
    return lines + [f"warning: {warning}" for warning in manifest["warnings"]]


if __name__ == "__main__":
    events.run_stage(main)
