"""Write a RAW set of objects in another tool's format.

From the shell: ``python -m cnn_core.data.objects.export data/raw/SET FOLDER voc``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import pandas as pd

from cnn_core.annotations.coco import to_coco
from cnn_core.annotations.cvat import write_cvat
from cnn_core.annotations.label_studio import write_label_studio
from cnn_core.annotations.raw_objects import read_raw_objects
from cnn_core.annotations.voc import write_voc
from cnn_core.annotations.yolo_labels import ENDINGS, write_yolo
from cnn_core.files import safe_file_name, whole_folder

Format = Literal["coco", "ultralytics", "voc", "cvat", "label-studio"]
_LOST: dict[Format, str] = {
    "coco": "",
    "ultralytics": "crowds; the masks of images in which an object has none",
    "voc": "masks and crowds; classes without an object, and the order of the classes",
    "cvat": "crowds; of an object with a mask the box, which then is that of the mask",
    "label-studio": "splits and crowds; classes without an object, and the order of the classes; of an object with a "
    "mask the box, which then is that of the mask",
}


def export(raw: str | Path, folder: str | Path, kind: Format) -> str:
    """Write the set in ``raw`` into ``folder``, with copies of its images, and say what the format cannot hold.

    Raises:
        ValueError: it is no RAW set of objects, the folder exists, or the format cannot hold a name.
    """
    if Path(folder).exists():
        raise ValueError(f"{folder} exists: name a folder that does not")
    images, objects, classes = read_raw_objects(raw, None)
    files = dict(zip(images["image_id"], images["file"], strict=True))
    names = _names(list(files), files)
    images = images.assign(file=[names[image_id] for image_id in images["image_id"]])

    def copy_image(image_id: str, path: Path) -> None:
        shutil.copyfile(files[image_id], path)

    with whole_folder(folder) as partial:
        if kind == "coco":
            _write_coco(partial, images, objects, classes, files)
        elif kind == "ultralytics":
            _write_ultralytics(partial, images, objects, classes, files)
        elif kind == "voc":
            write_voc(partial, images, objects, copy_image=copy_image)
        elif kind == "cvat":
            write_cvat(partial, images, objects, classes, copy_image=copy_image)
        else:
            write_label_studio(partial, images, objects, copy_image=copy_image)
    return _LOST[kind]


def _write_coco(
    folder: Path, images: pd.DataFrame, objects: pd.DataFrame, classes: Sequence[str], files: dict[str, str]
) -> None:
    (folder / "annotations").mkdir()
    for split, part in images.groupby("split", sort=False):
        of_split = objects[objects["image_id"].isin(part["image_id"])]
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(to_coco(part, of_split, classes)), encoding="utf-8")
        (folder / "images" / str(split)).mkdir(parents=True)
        for image_id, name in zip(part["image_id"], part["file"], strict=True):
            shutil.copyfile(files[image_id], folder / "images" / str(split) / name)


def _write_ultralytics(
    folder: Path, images: pd.DataFrame, objects: pd.DataFrame, classes: Sequence[str], files: dict[str, str]
) -> None:
    """Names of labels follow from the image_ids, so these become the names of the files."""
    ids = {
        image_id: f"{split}/{name}"
        for image_id, split, name in images[["image_id", "split", "file"]].itertuples(index=False, name=None)
    }
    renamed = images.assign(image_id=list(ids.values()), file=[files[image_id] for image_id in ids])
    moved = objects.assign(image_id=[ids[image_id] for image_id in objects["image_id"]])
    masks = bool(objects["rle"].notna().any())
    write_yolo(folder, renamed, moved, classes, masks=masks, copy=True)


def _names(image_ids: Sequence[str], files: dict[str, str]) -> dict[str, str]:
    """A plain file name for each image, of which even the stems differ, as labels and XML files bear them."""
    endings = {each: _ending(each, files[each]) for each in image_ids}
    stems = {each: PurePosixPath(each).name.removesuffix(endings[each]) for each in image_ids}
    for shorten in (lambda each: stems[each], lambda each: each.removesuffix(endings[each]).replace("/", "_")):
        counts = Counter(shorten(each).lower() for each in image_ids)
        if max(counts.values(), default=1) == 1:
            return {each: safe_file_name(shorten(each)) + endings[each] for each in image_ids}
    return {
        each: f"{safe_file_name(stems[each])}-{hashlib.sha256(each.encode()).hexdigest()[:8]}{endings[each]}"
        for each in image_ids
    }


def _ending(image_id: str, file: str) -> str:
    """The ending of an image's name, or else that of what the file is."""
    ending = PurePosixPath(image_id).suffix
    if ending[1:].lower() in ENDINGS:
        return ending
    with Path(file).open("rb") as opened:
        return ".png" if opened.read(4) == b"\x89PNG" else ".jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a RAW set of objects in another tool's format.")
    parser.add_argument("raw", help="data/raw/<set>")
    parser.add_argument("folder", help="to write, which must not exist")
    parser.add_argument("format", choices=get_args(Format))
    arguments = parser.parse_args()
    try:
        lost = export(arguments.raw, arguments.folder, arguments.format)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    print(f"wrote {arguments.folder}" + (f"; the format does not hold {lost}" if lost else ""))


if __name__ == "__main__":
    main()
