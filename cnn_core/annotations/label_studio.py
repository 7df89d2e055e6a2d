"""The shared tables as Label Studio JSON, and back. https://labelstud.io/guide/export

Rectangles, polygons and brushes are read; coordinates are percent of the picture. Rotated rectangles, ellipses and key
points are refused by name. A brush is run lengths of RGBA pixels in bits (`brush_rle`, after
https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), of which the last channel is the mask. The format
has no splits.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pandas as pd

from cnn_core.annotations.checks import Refused, find_image, upright_size
from cnn_core.annotations.listed import ListedImage, Shape, as_tables, side
from cnn_core.annotations.masks import decode_mask, encode_mask
from cnn_core.annotations.tables import BOX, Annotations, image_rows
from cnn_core.files import MAX_PIXELS

_SHAPES = {"rectangle", "polygon", "brush"}
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file that was uploaded
_LENGTHS = (3, 4, 8, 16)  # bits of a run's length, as Label Studio writes them
_IMAGE_KEYS = ("image", "img", "photo", "picture", "url")


def is_label_studio(content: Any) -> bool:
    """Whether the content of a JSON file is a list of Label Studio's tasks."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(task, dict) for task in content)
        and any("data" in task or _short_task(task) for task in content)
    )


def read_label_studio(path: str | Path, content: list[Any], refused: list[Refused]) -> tuple[Annotations, int, int]:
    """Read the tasks of an export, JSON or JSON-MIN; the images lie beside it, in ``images``, or as the task says.

    Of several annotations of a task the one marked as ground truth counts, or else the last that was not cancelled.
    The classes are the labels in use, in alphabetical order.

    Returns:
        The tables, and how many tasks nobody has annotated and how many annotations of others were not used.
    """
    path = Path(path)
    listed, unlabelled, unused = [], 0, 0
    for number, task in enumerate(content, start=1):
        if not isinstance(task, dict):
            refused.append(Refused("image", str(path), f"task no. {number}", "it is no mapping"))
            continue
        results, others = _results(task)
        unused += others
        if results is None:
            unlabelled += 1
            continue
        listed.append(_image(task, results, number, path))
    classes = sorted({shape.label for entry in listed for shape in entry.shapes if shape.label and not shape.fault})
    return as_tables(listed, classes, refused), unlabelled, unused


def _short_task(task: Mapping[str, Any]) -> bool:
    """Whether it is a task of JSON-MIN: its shapes stand in a list beside the image."""
    return any(isinstance(task.get(key), str) for key in _IMAGE_KEYS)


def _results(task: Mapping[str, Any]) -> tuple[list[Any] | None, int]:
    """The results of the annotation that counts, None where there is none, and the shapes of the others."""
    if "annotations" not in task and "completions" not in task:  # JSON-MIN
        if "data" in task:
            return None, 0
        fields = [value for value in task.values() if isinstance(value, list)]
        shapes = [item for value in fields for item in value if isinstance(item, dict) and _kind(item) is not None]
        return [_full(item) for item in shapes], 0
    annotations = task.get("annotations", task.get("completions"))
    good = [
        each
        for each in (annotations if isinstance(annotations, list) else [])
        if isinstance(each, dict) and not each.get("was_cancelled") and isinstance(each.get("result"), list)
    ]
    if not good:
        return None, 0
    chosen = next((each for each in good if each.get("ground_truth")), good[-1])
    return chosen["result"], sum(len(list(_shapes(each["result"]))) for each in good if each is not chosen)


def _full(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": f"{_kind(item)}labels", "value": item, **{key: item.get(key) for key in _SIZES}}


_SIZES = ("original_width", "original_height", "image_rotation")


def _kind(value: Mapping[str, Any]) -> str | None:
    if "rle" in value:
        return "brush"
    if "points" in value:
        return "polygon"
    if "radiusX" in value:
        return "ellipse"
    return "rectangle" if {"x", "y", "width", "height"} <= value.keys() else None


def _image(task: Mapping[str, Any], results: list[Any], number: int, path: Path) -> ListedImage:
    data = task["data"] if isinstance(task.get("data"), dict) else task
    texts = {str(key): value for key, value in data.items() if isinstance(value, str)}
    name = next((texts[key] for key in _IMAGE_KEYS if key in texts), next(iter(texts.values()), ""))
    shown = f"task {task.get('id', f'no. {number}')}"
    fault = "" if name.strip("/\\. ") else "it names no image"
    width, height = _size(results)
    file = _find(name, path.parent) if not fault else None
    if file and (width is None or height is None):  # percent of nothing
        try:
            width, height = upright_size(file)
        except ValueError as error:
            fault = str(error).removeprefix(f"{file} ")
    shapes = [
        _shape(f"shape no. {index} of {shown}", item, labels, width or 0, height or 0)
        for index, (item, labels) in enumerate(_shapes(results), start=1)
    ]
    listed = unquote(name.rsplit("/", 1)[-1]) or shown
    return ListedImage(
        name=listed, listing=str(path), file=file, width=width, height=height, shapes=shapes, fault=fault
    )


def _size(results: Sequence[Any]) -> tuple[int | None, int | None]:
    """The size of the image that most of its shapes say."""
    sizes: Counter[tuple[int, int]] = Counter()
    for item in results:
        if isinstance(item, dict):
            with contextlib.suppress(ValueError):
                across, down = (side(item.get(key), key) for key in _SIZES[:2])
                if across and down:
                    sizes[across, down] += 1
    return sizes.most_common(1)[0][0] if sizes else (None, None)


def _find(name: str, folder: Path) -> str | None:
    """The image that a task names: by its path or URL, or by the name that the file had before it was uploaded."""
    parts = urlsplit(name)
    local = parse_qs(parts.query).get("d") if "local-files" in parts.path else None
    roots = [folder, folder / "images", folder.parent, folder.parent / "images"]
    for candidate in dict.fromkeys((local[0] if local else name, unquote(parts.path))):
        if (file := find_image(candidate, roots)) is not None:
            return file
    stem = unquote(parts.path).rsplit("/", 1)[-1]
    return find_image(_UPLOADED.sub("", stem), roots) if _UPLOADED.match(stem) else None


def _shapes(results: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The shapes among the results, each once, with its labels; relations and choices are none.

    Tools that draw and label apart write two results of one id: ``rectangle`` and ``labels``.
    """
    labels: dict[Any, list[Any]] = {}
    for item in results:
        if isinstance(item, dict) and item.get("type") == "labels" and isinstance(item.get("value"), dict):
            labels[str(item.get("id"))] = item["value"].get("labels") or []
    drawn = {str(item.get("id")) for item in results if isinstance(item, dict) and item.get("type") in _SHAPES}
    for item in results:
        if not isinstance(item, dict):
            yield item, []
        elif isinstance(value := item.get("value"), dict) and (kind := item.get("type")) != "relation":
            if _kind(value) is None and kind not in ("keypointlabels", "keypoint"):
                continue  # a choice, a text, a rating: about the image
            if kind == "labels" and str(item.get("id")) in drawn:
                continue
            key = next((key for key in value if key.endswith("labels") and isinstance(value[key], list)), "")
            yield item, value[key] if key else labels.get(str(item.get("id")), [])


def _shape(name: str, item: Any, labels: list[Any], width: int, height: int) -> Shape:
    if not isinstance(item, dict):
        return Shape(name=name, fault="it is no mapping")
    label = labels[0] if len(labels) == 1 and isinstance(labels[0], str) else ""
    try:
        if len(labels) != 1:
            raise ValueError(f"it has {len(labels)} labels, where an object has one")
        shown = tuple(item.get(key) for key in _SIZES[:2])
        if any(value is not None and value != size for value, size in zip(shown, (width, height), strict=True)):
            raise ValueError(f"it says that its image has the size {str(shown)[:60]}, and others {width} x {height}")
        if item.get("image_rotation") not in (None, 0):
            raise ValueError(f"its image was turned by {item['image_rotation']} degrees in Label Studio: turn the file")
        value, kind = item["value"], _kind(item["value"])
        if str(item.get("type", "")).startswith(("keypoint", "ellipse")) or kind == "ellipse":
            raise ValueError(f"it is of the type {item.get('type')}, which is not read: only boxes, polygons, brushes")
        if kind == "brush":
            return Shape(name=name, label=label, rle=encode_mask(decode_brush(value["rle"], width, height)))
        if kind == "polygon":
            points = np.array([[_number(each) for each in point] for point in value["points"]], float).reshape(-1, 2)
            return Shape(name=name, label=label, polygon=points * (width, height) / 100)
        if _number(value.get("rotation") or 0) % 360:
            raise ValueError(f"it is a rotated box (by {value['rotation']} degrees), which is not read")
        x, y, across, down = (_number(value[key]) for key in ("x", "y", "width", "height"))
    except (TypeError, KeyError):
        return Shape(name=name, label=label, fault="its points or its rle are no list of numbers")
    except ValueError as error:
        return Shape(name=name, label=label, fault=str(error))
    box = (x * width / 100, y * height / 100, (x + across) * width / 100, (y + down) * height / 100)
    return Shape(name=name, label=label, box=box)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e9:
        raise ValueError(f"{str(value)[:40]!r} is no number of percent")
    return float(value)


def decode_brush(rle: Any, width: int, height: int) -> np.ndarray:
    """Decode a brush: bool (height, width).

    Raises:
        ValueError: it is no list of bytes, is cut short, does not fill the picture, or is empty.
    """
    if not isinstance(rle, list) or not all(isinstance(byte, int) and 0 <= byte < 256 for byte in rle):
        raise ValueError("its rle is no list of bytes")
    bits = "".join(f"{byte:08b}" for byte in rle)
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        if position > len(bits):
            raise ValueError("its rle is cut short")
        return int(bits[position - count : position], 2)

    total, word = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if total != width * height * 4:
        raise ValueError(f"its rle is of {total:,} values, not of the {width} x {height} pixels in four channels")
    if total > 4 * MAX_PIXELS:
        raise ValueError(f"its image has more than {MAX_PIXELS:,} pixels")
    values = np.empty(total, bool)
    done = 0
    while done < total:
        repeats = take(1)
        stop = done + 1 + take(lengths[take(2)])
        if stop > total:
            raise ValueError("its rle does not fill the picture")
        values[done:stop] = take(word) > 0 if repeats else [take(word) > 0 for _ in range(stop - done)]
        done = stop
    mask = values.reshape(height, width, 4)[..., 3]
    if not mask.any():
        raise ValueError("its mask is empty")
    return mask


def brush_rle(mask: np.ndarray) -> list[int]:
    """Encode a mask, bool (H, W), as Label Studio's brush: bytes as numbers."""
    flat = mask.ravel()
    edges = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [len(flat)]])
    bits = [f"{4 * len(flat):032b}", f"{7:05b}", *(f"{length - 1:04b}" for length in _LENGTHS)]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        value, left = 255 if flat[start] else 0, 4 * (stop - start)
        while left:
            count = min(left, 1 << _LENGTHS[-1])
            index = next(index for index, length in enumerate(_LENGTHS) if count <= 1 << length)
            bits.append(f"1{index:02b}{count - 1:0{_LENGTHS[index]}b}{value:08b}")
            left -= count
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[start : start + 8], 2) for start in range(0, len(text), 8)]


def write_label_studio(
    folder: str | Path,
    images: pd.DataFrame,
    objects: pd.DataFrame,
    *,
    copy_image: Callable[[str, Path], None],
) -> None:
    """Write ``tasks.json`` and ``images/``; an object with a mask is written as a brush alone. Splits are lost.

    Args:
        copy_image: puts the image of an image_id at a path.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = dict(list(objects.groupby("image_id", sort=False)))
    tasks = []
    for number, row in enumerate(image_rows(images), start=1):
        name = Path(row.file).name
        copy_image(row.image_id, folder / "images" / name)
        of_image = rows.get(row.image_id, objects.iloc[:0])
        results = [
            {
                "id": f"{number}-{index}",
                "from_name": "label",
                "to_name": "image",
                "original_width": row.width,
                "original_height": row.height,
                "image_rotation": 0,
                **_result(label, rle, box, row.width, row.height),
            }
            for index, (label, rle, box) in enumerate(
                zip(of_image["class_name"], of_image["rle"], of_image[BOX].to_numpy().tolist(), strict=True)
            )
        ]
        tasks.append({"id": number, "data": {"image": f"images/{name}"}, "annotations": [{"result": results}]})
    (folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")


def _result(label: str, rle: str | None, box: list[float], width: int, height: int) -> dict[str, Any]:
    if rle:
        value = {"format": "rle", "rle": brush_rle(decode_mask(rle, height, width)), "brushlabels": [label]}
        return {"type": "brushlabels", "value": value}
    x1, y1, x2, y2 = box
    shares = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
    percent = {key: 100 * share for key, share in shares.items()}
    return {"type": "rectanglelabels", "value": {**percent, "rotation": 0, "rectanglelabels": [label]}}
