"""Stage ``compose``: lay digits on generated scenes -> data/composed/<set>."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from cnn_core.annotations.tables import BOX, Annotations, read_annotations
from cnn_core.annotations.yolo_labels import SPLITS
from cnn_core.drawing.contact_sheet import contact_sheet
from cnn_core.images.reader import read_image
from cnn_core.params import load_section
from cnn_core.synthetic.house_numbers import compose
from cnn_core.synthetic.picture import ComposeParams
from tasks.engine import events

PARAMS = ComposeParams
ACROSS = 6  # pictures in a row of the sheet
ROWS = {"train": 2, "val": 1, "test": 1}  # of the sheet
SHOWN = 240  # pixels of a picture's side in the sheet
GREEN = (0, 230, 60)


def main(name: str) -> None:
    params, folder = load_section(PARAMS, f"compose.{name}"), f"data/composed/{name}"
    cv2.setNumThreads(1)  # more threads would wait for each other, as the pictures are small
    start = time.monotonic()
    total = sum(getattr(params, split) for split in SPLITS)
    with events.progress(f"compose {name}", total) as bar:
        manifest = compose(params, folder, on_progress=bar.update)
    minutes = (time.monotonic() - start) / 60
    show(Path(f"data/plots/compose-{name}.png"), folder)
    images, objects, _ = read_annotations(folder)
    metrics = {
        "counts": manifest["counts"],
        "objects": manifest["objects"],
        "digits_per_image": round(len(objects) / len(images), 3),
        "mean_height_pixels": round(float((objects["y2"] - objects["y1"]).mean()), 1),
        "images_per_minute": round(total / minutes),
    }
    events.write_metrics(f"data/metrics/compose-{name}.json", metrics)
    speed = metrics["images_per_minute"]
    events.log(f"{total:,} pictures with {len(objects):,} digits in {folder}, {speed:,} a minute")


def show(path: Path, folder: str) -> None:
    """Draw a contact sheet of pictures with their boxes and numbers; `ROWS` says how many."""
    rows, captions = [], []
    for split, count in ROWS.items():
        annotations = read_annotations(folder, split)
        for row in range(count):
            part = annotations[0].iloc[row * ACROSS : (row + 1) * ACROSS]
            if len(part):
                names = part[["file", "image_id"]].values
                rows.append(np.stack([boxed(file, image_id, annotations) for file, image_id in names]))
                captions.append([f"{text or 'no digit'}  ({split})" for text in part["text"]])
    title = "Composed scenes: house numbers of ingested digits on generated walls, with their exact boxes"
    contact_sheet(path, rows, title=title, captions=captions, side=SHOWN)


def boxed(file: str, image_id: str, annotations: Annotations) -> np.ndarray:
    """Return a picture with the boxes of its objects, uint8 (3, SHOWN, SHOWN)."""
    picture = read_image(file)[..., ::-1]
    scale = SHOWN / len(picture)
    picture = cv2.resize(picture, (SHOWN, SHOWN), interpolation=cv2.INTER_LINEAR)
    objects = annotations[1]
    for x1, y1, x2, y2 in (objects.loc[objects["image_id"] == image_id, BOX] * scale).round().astype(int).values:
        cv2.rectangle(picture, (int(x1) - 1, int(y1) - 1), (int(x2), int(y2)), GREEN, 1)
    return picture.transpose(2, 0, 1)


if __name__ == "__main__":
    events.run_stage(main)
