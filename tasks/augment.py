"""Stage ``augment``: decode images once and add seeded copies -> data/augmented/<set>."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from cnn_core.classification.augmentation.affine import affine_elastic
from cnn_core.classification.augmentation.params import GlyphAugmentationParams
from cnn_core.data.augmented import SPLITS, arrays_writer, load_arrays, read_dataset, rows_of_class
from cnn_core.data.raw import decode_images, raw_parts, read_manifest, read_raw
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.params import bounded, load_section
from cnn_core.seeds import generator
from tasks.engine import events
from tasks.engine.runtime import load_runtime

BLOCK = 1000  # images distorted at a time; the seed of a block's draws depends on it
SHOWN_COPIES = 3
SHOWN_CLASSES = 40  # in the picture, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentParams(GlyphAugmentationParams):
    """The section ``augment.<set>``: how many copies, and how far each may be distorted."""

    size: int = bounded(0, 2048)  # side of the squares that images become; 0 = all have one size already
    copies: int = bounded(0, 100)
    seed: int = bounded(0)


PARAMS = AugmentParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"augment.{name}")
    raw, folder, threads = f"data/raw/{name}", f"data/augmented/{name}", load_runtime().threads()
    manifest = read_manifest(raw)
    if not manifest["counts"]["train"]:
        raise ValueError(f"{raw} has no training image; lower val_fraction and test_fraction of ingest.{name}")
    rows, mode = {split: read_raw(raw, split, images=False) for split in SPLITS}, manifest.get("mode")
    images, copies = sum(len(part.ids) for part in rows.values()), len(rows["train"].ids) * params.copies
    first = next(part.images[0] for part in raw_parts(raw, "train") if part.images)
    shape = decode_images([first], mode, size=params.size).shape[1:]
    with (
        arrays_writer(folder, name=name, classes=manifest["classes"], shape=shape, copies=params.copies) as writer,
        events.progress(f"augment {name}", images + copies, "images") as bar,
    ):
        for split, part in rows.items():
            array, start = writer.add(split, part.ids, part.labels), 0
            for stored in raw_parts(raw, split):  # one after the other, as all together may be larger than the memory
                if stored.images:
                    stop = start + len(stored.images)
                    decode_images(
                        stored.images,
                        mode,
                        size=params.size,
                        out=array[start:stop],
                        on_progress=bar.update,
                        threads=threads,
                    )
                    start = stop
            if split == "train":
                originals = array[: len(part.ids)]
                for start, block in distorted(originals, params):
                    array[len(originals) + start :][: len(block)] = block
                    bar.update(len(block))
    show(name, folder)
    dataset = read_dataset(folder)
    counts = {"originals": dataset["originals"], "copies": copies, **dataset["counts"]}
    events.write_metrics(f"data/metrics/augment-{name}.json", counts)


def distorted(images: np.ndarray, params: AugmentParams) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks of the copies of uint8 images (N, C, H, W), each with its first index: first copies, then second.

    The same seed gives the same bytes, whatever the number of threads.
    """
    with _one_thread():
        for copy in range(params.copies):
            for start in range(0, len(images), BLOCK):
                block = torch.from_numpy(images[start : start + BLOCK].copy()).float() / 255
                draws = generator(torch.device("cpu"), params.seed, "copy", copy, start)
                copies = affine_elastic(block, params, draws)
                yield copy * len(images) + start, (copies * 255).round().to(torch.uint8).numpy()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as a sum that several threads share is rounded differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def show(name: str, folder: str) -> None:
    """Draw a contact sheet: two images of each class with their copies below them."""
    dataset, train = read_dataset(folder), load_arrays(folder, "train")
    originals, copies = dataset["originals"], dataset["copies"]
    labels = train.labels[:originals]
    present = [number for number in range(len(dataset["classes"])) if rows_of_class(labels, number).any()]
    present = present[:SHOWN_CLASSES]
    rows, captions = [], []
    for example in range(2):
        picked = [np.flatnonzero(rows_of_class(labels, number))[: example + 1][-1] for number in present]
        for copy in range(1 + min(copies, SHOWN_COPIES)):
            rows.append(train.images[[copy * originals + index for index in picked]])
            captions.append([f"copy {copy}" if copy else "original"] * len(picked))
    title = f"originals and their offline copies ({copies} of each)" if copies else "as they are stored"
    contact_sheet(
        f"data/plots/augment-{name}.png",
        rows,
        title=f"{name}: {title}",
        captions=captions,
        headings=[dataset["classes"][number] for number in present],
    )


if __name__ == "__main__":
    events.run_stage(main)
