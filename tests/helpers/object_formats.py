"""Shared by the tests of object sets: pictures, and VOC, CVAT and Label Studio as these tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 200, 100


def picture(path: Path, seed: int = 0, *, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A picture of stored ``size`` that looks like no other; ``orientation`` is EXIF's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng([seed, 7]).integers(0, 255, (6, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
    image.save(path, **({"exif": exif} if orientation != 1 else {}))
    return path


def voc_xml(name: str, objects: str, *, width: int = WIDTH, height: int = HEIGHT) -> str:
    return (
        f"<annotation><folder>x</folder><filename>{name}</filename><path>C:\\data\\{name}</path>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"
    )


def voc_object(label: str, *corners: Any) -> str:
    sides = "".join(f"<{key}>{x}</{key}>" for key, x in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{label}</name><pose>Left</pose><difficult>1</difficult><bndbox>{sides}</bndbox></object>"


def cvat_xml(images: str, labels: tuple[str, ...] = ("cat", "dog")) -> str:
    names = "".join(f"<label><name>{label}</name><attributes/></label>" for label in labels)
    meta = f"<meta><task><id>1</id><labels>{names}</labels></task><dumped>x</dumped></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{images}</annotations>'


def task(number: int, image: str, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A task of Label Studio with one annotation."""
    annotation = {"id": number, "was_cancelled": False, "ground_truth": False, "result": list(results)}
    return {"id": number, "data": {"image": image}, "annotations": [annotation], "predictions": [], **more}


def result(kind: str, label: str | list[str], **value: Any) -> dict[str, Any]:
    """A result of Label Studio; ``kind`` is rectangle, polygon, brush, …"""
    labels = [label] if isinstance(label, str) else label
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    names = {"id": "x", "from_name": "label", "to_name": "image", "type": f"{kind}labels"}
    return {**names, **sizes, "value": {**value, f"{kind}labels": labels}}


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
