"""What an image or an annotation of somebody's set must be to be used, and the record of those that are not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from cnn_core.files import MAX_PIXELS, write_csv

REPEATED = "it repeats another annotation of its image"
LEFT_OUT = "left_out.csv"  # in a model folder: images and annotations that were not learned from, and why
_SWAPPED = {5, 6, 7, 8}  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112


class Refused(NamedTuple):
    """An image or an annotation of a set that is not used, and why."""

    kind: str  # image, annotation, or outline: of an annotation whose box is used
    file: str  # that lists it
    name: str  # the image's file, or which annotation
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class TooManyPixels(ValueError):  # noqa: N818
    """An image is refused by the size in its header."""


class UnreadableHeader(ValueError):  # noqa: N818
    """A file is there, but it is no image that can be read."""


def write_refused(path: str | Path, refused: Iterable[Refused]) -> None:
    """Write a CSV of what is left out, one row each; `cnn_core.files.read_csv` reads it."""
    write_csv(path, pd.DataFrame(list(refused), columns=list(Refused._fields)))


def check_class_name(name: str, path: Path) -> None:
    """Raise a ValueError for what no file can hold: half a character, or the null character."""
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"{path}: the class name {name!r} holds what is no character")


def check_box(box: Sequence[float], width: int, height: int) -> None:
    """Raise a ValueError where an xyxy box has no area within a picture."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
        raise ValueError(f"its box is {x2 - x1:g} x {y2 - y1:g} pixels")
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise ValueError(f"its box, {x1:g} {y1:g} to {x2:g} {y2:g}, lies outside of the {width} x {height} pixels")


def size_fault(height: int, width: int, *, listed: tuple[int, int]) -> str | None:
    """Say how an image's size differs from the (height, width) that its set says; its boxes then lie elsewhere."""
    if (height, width) == listed:
        return None
    return f"it is {width} x {height} pixels, but the set says {listed[1]} x {listed[0]}"


def upright_size(file: str | Path) -> tuple[int, int]:
    """Read width and height of the upright image from its header; raises as `stored_size`."""
    width, height, orientation = stored_size(file)
    return (height, width) if orientation in _SWAPPED else (width, height)


def listed_frame(file: str | Path, listed: tuple[int | None, int | None]) -> tuple[int, int, int]:
    """Compare an image's header with the (width, height) that its set lists; None = it lists none.

    Returns:
        Width and height of the upright image, and the EXIF orientation (5 to 8) by which its annotations have to be
        turned because they lie in the picture as it is stored; 1 = they lie in the upright picture. A listed size
        tells the two apart; without one, or where both sizes are equal, annotations are of the upright picture.

    Raises:
        ValueError: the header cannot be read, or the image has neither size.
    """
    width, height, orientation = stored_size(file)
    upright = (height, width) if orientation in _SWAPPED else (width, height)
    if (listed[0] or upright[0], listed[1] or upright[1]) == upright:
        return *upright, 1
    if orientation in _SWAPPED and listed == (width, height):
        return *upright, orientation
    raise ValueError(f"it is {upright[0]} x {upright[1]} pixels, but the set says {listed[0]} x {listed[1]}")


def turned_box(box: Sequence[float], orientation: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Turn an xyxy box of a stored picture of ``width`` x ``height`` as the EXIF orientation (1, 5 to 8) says."""
    x1, y1, x2, y2 = map(float, box)
    if orientation == 5:
        return y1, x1, y2, x2
    if orientation == 6:
        return height - y2, x1, height - y1, x2
    if orientation == 7:
        return height - y2, width - x2, height - y1, width - x1
    if orientation == 8:
        return y1, width - x2, y2, width - x1
    return x1, y1, x2, y2


def stored_size(file: str | Path) -> tuple[int, int, int]:
    """Read width and height as they are stored, and the EXIF orientation, from an image's header.

    Raises:
        TooManyPixels: whoever decodes the image would unpack more than `MAX_PIXELS`.
        UnreadableHeader: it is no image that can be read.
        ValueError: the file is not there.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise TooManyPixels(f"{file} has {width} x {height} pixels, more than {MAX_PIXELS:,} in all")
            # Of a PNG, Pillow decodes all of it for the EXIF data that may stand behind the pixels.
            plain = image.format == "PNG" and "exif" not in image.info and b"eXIf" not in Path(file).read_bytes()
            orientation = 1 if plain else image.getexif().get(_ORIENTATION, 1)
    except TooManyPixels:
        raise
    except FileNotFoundError:
        raise ValueError(f"{file} is not there") from None
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{file} has too many pixels: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableHeader(f"{file} is not an image that can be read: {error}") from None
    return width, height, orientation if orientation in range(1, 9) else 1


def find_image(name: str, folders: Sequence[Path]) -> str | None:
    """Find an image: by its name as it stands, or by the end of it, where another machine's folders begin the name."""
    for candidate in (*(folder / name for folder in folders), Path(name)):
        if _is_file(candidate):
            return str(candidate)
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((str(folder / end) for end in ends for folder in folders if _is_file(folder / end)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return False
