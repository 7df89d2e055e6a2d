"""Shared by the tests of the inbox of objects: sets and deliveries as the usual tools write them, and a request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.helpers.object_formats import HEIGHT, WIDTH, cvat_xml, picture, result, task, voc_object, voc_xml, write_json

CLASSES = ("cat", "dog")
BOX = (20, 30, 60, 80)  # xyxy, of each picture's object
DRIFT = {"alpha": 0.05, "draws": 50, "most": 60, "least": 10, "seed": 0}


def label_of(number: int) -> str:
    """The class of a picture's object: that of a picture does not depend on the format that it comes in."""
    return CLASSES[number % 2]


def coco(folder: Path, numbers: Iterable[int], *, classes: Sequence[str] = CLASSES, box: Sequence[float] = BOX) -> Path:
    """Pictures with an object each, as COCO JSON; the order of ``classes`` is that of the categories."""
    images, annotations, x1, y1, x2, y2 = [], [], *box
    for number in numbers:
        picture(folder / f"{number:04d}.jpg", number)
        images.append({"id": number, "file_name": f"{number:04d}.jpg", "width": WIDTH, "height": HEIGHT})
        category = list(classes).index(label_of(number)) + 1
        bbox = {"bbox": [x1, y1, x2 - x1, y2 - y1]}
        annotations.append({"id": number + 1, "image_id": number, "category_id": category, **bbox})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    write_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": categories})
    return folder


def ultralytics(
    folder: Path, numbers: Iterable[int], *, classes: Sequence[str] = CLASSES, splits: Sequence[str] = ("train",)
) -> Path:
    x1, y1, x2, y2 = BOX
    values = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    for place, number in enumerate(numbers):
        split = splits[place % len(splits)]
        picture(folder / "images" / split / f"{number:04d}.jpg", number)
        label = folder / "labels" / split / f"{number:04d}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{list(classes).index(label_of(number))} {' '.join(map(str, values))}\n")
    lines = [f"{split}: images/{split}" for split in splits]
    (folder / "data.yaml").write_text("\n".join([*lines, f"names: [{', '.join(classes)}]"]) + "\n")
    return folder


def voc(folder: Path, numbers: Iterable[int]) -> Path:
    x1, y1, x2, y2 = BOX
    for number in numbers:
        picture(folder / f"{number:04d}.jpg", number)
        shown = voc_object(label_of(number), x1 + 1, y1 + 1, x2, y2)
        (folder / f"{number:04d}.xml").write_text(voc_xml(f"{number:04d}.jpg", shown))
    return folder


def cvat(folder: Path, numbers: Iterable[int]) -> Path:
    x1, y1, x2, y2 = BOX
    images = ""
    for number in numbers:
        picture(folder / "images" / f"{number:04d}.jpg", number)
        images += (
            f'<image id="{number}" name="{number:04d}.jpg" width="{WIDTH}" height="{HEIGHT}"><box '
            f'label="{label_of(number)}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" occluded="0"></box></image>'
        )
    (folder / "annotations.xml").write_text(cvat_xml(images))
    return folder


def label_studio(folder: Path, numbers: Iterable[int]) -> Path:
    x1, y1, x2, y2 = BOX
    shape = {
        "x": x1 * 100 / WIDTH, "y": y1 * 100 / HEIGHT, "width": (x2 - x1) * 100 / WIDTH,
        "height": (y2 - y1) * 100 / HEIGHT, "rotation": 0,
    }  # fmt: skip
    tasks = []
    for number in numbers:
        picture(folder / "images" / f"{number:04d}.jpg", number)
        tasks.append(task(number, f"{number:04d}.jpg", result("rectangle", label_of(number), **shape)))
    write_json(folder / "export.json", tasks)
    return folder


FORMATS = {"coco": coco, "ultralytics": ultralytics, "voc": voc, "cvat": cvat, "label-studio": label_studio}


def request(source: Path, target: Path, deliveries: Sequence[Path], **changes: Any) -> dict[str, Any]:
    """What ``tasks.inbox`` is asked for."""
    return {
        "kind": "objects",
        "source": str(source),
        "named": str(source),
        "target": str(target),
        "deliveries": {str(path): f"v1-{number}" for number, path in enumerate(deliveries, start=1)},
        "max_bad_fraction": 0.01,
        "drift": "off",
        "drift_params": DRIFT,
        "champion": None,
        "background": False,
        **changes,
    }
