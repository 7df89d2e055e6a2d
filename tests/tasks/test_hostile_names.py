"""Names from data that lead elsewhere (``../x``, ``/etc/x``, null bytes): every writer stays inside its output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnn_core.annotations.coco import coco_results, from_coco, to_coco
from cnn_core.annotations.masks import encode_mask
from cnn_core.annotations.tables import images_table, objects_table
from cnn_core.annotations.yolo_labels import read_yolo, write_yolo
from cnn_core.detection.params import DetectParams
from cnn_core.drawing.masks import write_cutouts
from cnn_core.images.media import list_media
from cnn_core.params import from_mapping
from tasks.detect import DetectWorker
from tasks.engine.runtime import load_runtime
from tasks.engine.workers import Resources
from tests.helpers.detector_files import photograph, write_detector
from tests.tasks.test_detect import SECTION

HOSTILE = [
    "../up",
    "/absolute",
    "..",
    "a",
    "a.jpg/b",
    "sub/../../../far",
    "x\\..\\y",
    "nul\x00l",
    "é" * 150,
    "a//b",
    "-rf",
    "~",
]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_allowed: list[Path] = []  # while it has a folder, nothing outside it may be written


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event == "open":
        target = arguments[0] if isinstance(arguments[2], int) and arguments[2] & WRITES else None
    else:
        target = {"os.mkdir": 0, "os.symlink": 1, "os.rename": 1, "os.link": 1, "os.remove": 0}.get(event)
        target = arguments[target] if target is not None else None
    if not isinstance(target, str | bytes | os.PathLike):
        return
    path = Path(os.path.normpath(Path.cwd() / os.fsdecode(target)))
    if not path.is_relative_to(_allowed[0]) and not path.is_relative_to("/dev"):
        raise PermissionError(f"{event}: {path} lies outside of {_allowed[0]}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def only_below(folder: Path) -> Iterator[None]:
    """Fail what writes a file, a folder or a link elsewhere; what exists already may be read from anywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    _allowed.append(folder)
    try:
        yield
    finally:
        _allowed.clear()


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A picture with one object for each of the hostile names, which are the images' ids."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:40] = True
    images, objects = [], []
    for number, name in enumerate(HOSTILE):
        file = folder / f"{number}.png"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(40, 60, number)).save(file)
        images.append({"image_id": name, "file": str(file), "width": 60, "height": 40, "split": "train"})
        box = {"x1": 10.0, "y1": 10.0, "x2": 40.0, "y2": 30.0, "rle": encode_mask(mask)}
        objects.append({"image_id": name, "class_id": 0, "class_name": "../../class", **box})
    return images_table(images), objects_table(objects)


def test_the_hook_sees_what_is_written_elsewhere(tmp_path: Path) -> None:
    with only_below(tmp_path / "out"), pytest.raises(PermissionError, match="outside"):
        (tmp_path / "elsewhere").write_text("")


def test_links_and_labels(tmp_path: Path) -> None:
    images, objects = tables(tmp_path / "pictures")
    with only_below(tmp_path / "deep/er/out"):
        write_yolo(tmp_path / "deep/er/out", images, objects, ["../../class"], masks=False, link=True)
    read, found, classes = read_yolo(tmp_path / "deep/er/out/data.yaml", "train")
    assert len(read) == len(found) == len(HOSTILE)
    assert sorted(os.path.realpath(file) for file in read["file"]) == sorted(images["file"])
    assert classes == ["../../class"]


def test_coco_is_one_file_whatever_its_names(tmp_path: Path) -> None:
    images, objects = tables(tmp_path / "pictures")
    with only_below(tmp_path / "out"):
        (tmp_path / "out/truth.json").write_text(json.dumps(to_coco(images, objects, ["../../class"])))
    assert len(from_coco(tmp_path / "out/truth.json")[1]) == len(HOSTILE)
    assert len(coco_results(images, objects)) == len(HOSTILE)


def test_cutouts(tmp_path: Path) -> None:
    images, objects = tables(tmp_path / "pictures")
    with only_below(tmp_path / "deep/er/out"):
        for name in images["image_id"]:
            rows = objects[objects["image_id"] == name].assign(prompt_id=1).to_dict("records")
            write_cutouts(tmp_path / "deep/er/out", name, photograph(40, 60), rows)
    assert len(list((tmp_path / "deep").rglob("*.png"))) == len(HOSTILE)


def test_pictures_and_labels_of_detect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage's worker on a Parquet table whose ids lead elsewhere."""
    monkeypatch.chdir(tmp_path)
    encoded = []
    for number in range(len(HOSTILE)):
        with io.BytesIO() as buffer:
            Image.fromarray(photograph(64, 64, number)).save(buffer, "PNG")
            encoded.append(buffer.getvalue())
    pd.DataFrame({"id": HOSTILE, "image": encoded}).to_parquet(tmp_path / "pictures.parquet")
    write_detector(tmp_path / "weights.pt", imgsz=64)
    section = SECTION | {"source": "pictures.parquet", "pictures": -1, "save_txt": True}
    params = from_mapping(DetectParams, section, "detect")
    worker = DetectWorker(params, load_runtime(), str(tmp_path / "state"), [], Resources(actors=1, cpus=1, gpus=0))
    [part] = list_media("pictures.parquet").parts(100)
    out = tmp_path / "deep/er/out"
    with only_below(out):
        assert worker(part, out) == {"images": len(HOSTILE), "bad": 0}
    for kind, ending in (("pictures", "jpg"), ("labels", "txt")):
        assert len(list((out / kind).rglob(f"*.{ending}"))) == len(HOSTILE)
    assert sorted(pd.read_parquet(out / "images.parquet")["image_id"]) == sorted(HOSTILE)
