"""Bring a delivery's classes to those of its set, by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from cnn_core.annotations.sets import LEFT_OUT_IMAGE, ObjectSet
from cnn_core.data.objects.reading import Account

_SHOWN = 10  # classes that a sentence names


def match_classes(delivered: Sequence[str], classes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The set's name of each class of a delivery that it has, and sentences about those that are spelled otherwise."""
    spelled = Counter(map(_plain, classes))
    by_spelling = {_plain(name): name for name in classes if spelled[_plain(name)] == 1}
    names = {name: name if name in classes else by_spelling.get(_plain(name), "") for name in delivered}
    sentences = [
        f"its class {name!r} is taken for {set_name!r}"
        for name, set_name in names.items()
        if set_name not in ("", name)
    ]
    return {name: set_name for name, set_name in names.items() if set_name}, sentences


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def of_known_classes(
    every: ObjectSet, names: Mapping[str, str], classes: Sequence[str], account: Account
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images that show nothing but the set's classes, and their objects with the set's numbers.

    An image with an object of another class is refused: without it, the object would count as background.
    """
    images, objects, _ = every.annotations
    unknown = ~objects["class_name"].isin(names.keys())
    shows = dict(zip(objects["image_id"][unknown], objects["class_name"][unknown], strict=True))
    files = dict(zip(images["image_id"], images["file"], strict=True))
    more = f" and {len(classes) - _SHOWN:,} others" if len(classes) > _SHOWN else ""
    for image_id, label in shows.items():
        reason = f"it shows the class {label!r}; those of the set are {', '.join(classes[:_SHOWN])}{more}"
        account.refuse("image", files[image_id], files[image_id], reason)
    lost = objects["image_id"].isin(shows.keys())
    for image_id, label in zip(objects["image_id"][lost], objects["class_name"][lost], strict=True):
        reason = f"{LEFT_OUT_IMAGE}: it shows the class {shows[image_id]!r}, which the set does not have"
        account.refuse("annotation", files[image_id], f"a {label}", reason)
    kept = objects[~lost].reset_index(drop=True)
    names_of_set = [names[name] for name in kept["class_name"]]
    numbers = {name: number for number, name in enumerate(classes)}
    kept = kept.assign(class_name=names_of_set, class_id=[numbers[name] for name in names_of_set])
    return images[~images["image_id"].isin(shows.keys())].reset_index(drop=True), kept
