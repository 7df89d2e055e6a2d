"""Time and memory of `ingest` of boxes: ``python -m bench.ingest_objects --images 10000 --boxes 10``.

The pictures are generated: small JPEGs, no two alike, with random boxes, as COCO JSON. It prints the seconds of CPU,
the images a second, and the most memory that the process held, apart from what it held before.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_core.data.ingestion import IngestParams
from cnn_core.data.objects.ingestion import ingest_objects

WIDTH, HEIGHT = 320, 240


def write_set(folder: Path, images: int, boxes: int) -> Path:
    draws = np.random.default_rng(0)
    listed, annotations = [], []
    for number in range(images):
        cells = draws.integers(0, 255, (6, 8, 3), np.uint8)
        picture = Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        picture.save(folder / f"{number:06d}.jpg", quality=85)
        listed.append({"id": number, "file_name": f"{number:06d}.jpg", "width": WIDTH, "height": HEIGHT})
        corners = draws.uniform(0, (WIDTH - 90, HEIGHT - 90), (boxes, 2)).round(1)
        sides = draws.uniform(8, 90, (boxes, 2)).round(1)
        annotations += [
            {"id": len(annotations) + index, "image_id": number, "category_id": index % 5, "bbox": [*corner, *side]}
            for index, (corner, side) in enumerate(zip(corners.tolist(), sides.tolist(), strict=True), start=1)
        ]
    categories = [{"id": number, "name": f"class {number}"} for number in range(5)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--boxes", type=int, default=10, help="in each image")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = write_set(Path(folder), arguments.images, arguments.boxes)
        params = IngestParams(
            source=str(source),
            kind="objects",
            val_fraction=0.1,
            test_fraction=0.1,
            seed=0,
            max_bad_fraction=0.01,
            near_duplicates=True,
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cpu, clock = time.process_time(), time.monotonic()
        manifest = ingest_objects("bench", params, Path(folder, "raw/bench"), threads=2)
        cpu, clock = time.process_time() - cpu, time.monotonic() - clock
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{sum(manifest['counts'].values()):,} images, {manifest['objects']['total']:,} boxes: {cpu:.1f} s of CPU, "
        f"{clock:.1f} s by the clock, {arguments.images / cpu:,.0f} images a second of CPU, {more:,.0f} MB more memory"
    )


if __name__ == "__main__":
    main()
