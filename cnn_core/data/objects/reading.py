"""Read the images of a set of objects and judge its annotations, and keep the account of what is not used."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from cnn_core.annotations.checks import REPEATED, Refused, size_fault
from cnn_core.annotations.sets import LEFT_OUT_IMAGE
from cnn_core.annotations.tables import ImageRow, image_rows
from cnn_core.data.objects.judge import judge
from cnn_core.data.objects.reasons import category
from cnn_core.data.sources import blocks
from cnn_core.data.validation import CONFLICTING, Refusal
from cnn_core.images.decoding import UNREADABLE, BadImage, Picture, read_file, read_picture

_BLOCK, _BLOCK_BYTES = 64, 64 << 20  # files decoded at a time, and their bytes


@dataclasses.dataclass(kw_only=True)
class Account:
    """What is not used of a set, so that nothing that a person pointed at is lost without a word.

    Attributes:
        refused: images and annotations that are bad, and those that go with an image.
        gone: images that are not bad, but show what another shows.
        gone_objects: their annotations.
        notes: how many images were read in a way that a person should know of.
    """

    refused: list[Refused]
    shown: Callable[[str], str]  # a text of a path -> the same with the path that the user named
    gone: list[Refusal] = dataclasses.field(default_factory=list)
    gone_objects: int = 0
    notes: Counter[str] = dataclasses.field(default_factory=Counter)

    def refuse(self, kind: str, file: str, name: str, reason: str) -> None:
        self.refused.append(Refused(kind, *map(self.shown, (file, name, reason))))

    def bad(self, kind: str) -> list[Refusal]:
        """The entries of a kind that count as bad; a repetition does not."""
        entries = [
            Refusal(id=entry.name, reason=category(entry.reason), detail=entry.reason)
            for entry in self.refused
            if entry.kind == kind and entry.reason != REPEATED
        ]
        return entries + [entry for entry in self.gone if kind == "image" and entry.reason == CONFLICTING]


def read_pictures(
    images: pd.DataFrame,
    account: Account,
    pool: ThreadPoolExecutor,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[ImageRow, Picture]]:
    """Decode the images of a table; those that are bad, or of another size than their set says, are refused."""
    for block in blocks(image_rows(images), lambda row: _size(row.file), most=_BLOCK, most_bytes=_BLOCK_BYTES):
        for row, picture in zip(block, pool.map(_picture, [row.file for row in block]), strict=True):
            fault = (
                str(picture)
                if isinstance(picture, BadImage)
                else size_fault(picture.height, picture.width, listed=(row.height, row.width))
            )
            if fault or isinstance(picture, BadImage):
                account.refuse("image", row.file, row.file, str(fault))
                continue
            yield row, picture
        on_progress(len(block))


def judge_all(
    objects: pd.DataFrame, sizes: Mapping[str, tuple[int, int]], account: Account
) -> tuple[pd.DataFrame, int]:
    """Take the good annotations of the images that could be read, and count the clipped ones.

    Args:
        sizes: (width, height) of the readable images, by image_id.
    """
    readable = objects["image_id"].isin(sizes.keys())
    for name, label in objects.loc[~readable, ["image_id", "class_name"]].itertuples(index=False, name=None):
        account.refuse("annotation", name, f"a {label}", f"{LEFT_OUT_IMAGE}: it cannot be read")
    judged = judge(objects[readable].reset_index(drop=True), sizes)
    account.refused += judged.refused
    return judged.objects, judged.clipped


def _size(file: str) -> int:
    path = Path(file)
    return path.stat().st_size if path.is_file() else 0


def _picture(file: str) -> Picture | BadImage:
    try:
        with Path(file).open("rb") as opened:
            return read_picture(read_file(opened, _size(file), file), file)
    except OSError as error:
        return BadImage(UNREADABLE, str(error.strerror))
    except BadImage as fault:
        return fault
