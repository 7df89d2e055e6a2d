"""The reader of the kind ``images``: Kaggle's Intel Image Classification, and images of one's own in the same layout.

https://www.kaggle.com/datasets/puneet6060/intel-image-classification:
``seg_train/seg_train/<class>/*.jpg``, ``seg_test/seg_test/<class>/*.jpg``, ``seg_pred/seg_pred/*.jpg``. The
doubled folder may be missing, and one folder may be around them all. The classes are the folders of ``seg_train``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from cnn_core.data.image_files import image_names, read_entry
from cnn_core.data.sources import Batch, ImageSource, blocks
from cnn_core.data.validation import Refusal
from cnn_core.images.archives import SourceFiles, open_files
from cnn_core.images.decoding import BadImage, Picture, read_picture

INTEL = ("buildings", "forest", "glacier", "mountain", "sea", "street")
TRAIN, TEST, PRED = PARTS = ("seg_train", "seg_test", "seg_pred")
ADVICE = (
    "put Kaggle's seg_train/<class>/, seg_test/<class>/ and seg_pred/ there, in a folder or a .zip, or run "
    "`gridflow fetch scenes`, which gets them"
)
MAX_BYTES = 16 << 30  # of a .zip, unpacked; Kaggle's unpacks to 0.4 GiB
NO_CLASS = "in no class folder"

_BATCH_FILES, _BATCH_BYTES = 64, 64 << 20  # so that few bytes wait for decoding, however large the files are


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    name: str  # in the source
    id: str  # without the wrapping and the doubled folder
    part: str
    label: str | None  # the class folder; None = in no class folder


@contextlib.contextmanager
def open_images(path: str | Path, *, threads: int | None = None) -> Iterator[ImageSource]:
    """Open the images in a folder or .zip, which ``threads`` decode (None: as many as Python sees processors).

    Raises:
        ValueError: there is nothing usable, the .zip is damaged, or a class has no folder or no files in seg_train.
    """
    with open_files(path, advice=ADVICE, max_bytes=MAX_BYTES) as files:
        root = _find_root(files)
        names, left_out = image_names(files)
        images = _find_files(files, names, root)
        classes, warnings = _check_classes(files, root, images)
        tested = any(file.part == TEST and file.label for file in images)
        outside = Counter({f"outside {TRAIN}, {TEST} and {PRED}": len(names) - len(images)})

        def batches() -> Iterator[Batch]:
            with ThreadPoolExecutor(threads) as pool:
                for _, part in itertools.groupby(images, lambda file: file.part):
                    for block in blocks(
                        part, lambda file: files.size(file.name), most=_BATCH_FILES, most_bytes=_BATCH_BYTES
                    ):
                        yield _read(files, block, classes, pool)

        yield ImageSource(
            batches=batches,
            total=len(images),
            published_test=TEST if tested else None,
            classes=classes,
            left_out=left_out + Counter(files.left_out) + outside,
            warnings=warnings,
        )


# The layout


def _find_root(files: SourceFiles) -> tuple[str, ...]:
    roots = {path.parts[:depth] for path, depth in _parts(files) if path.parts[depth].lower() == TRAIN}
    if not roots:
        raise ValueError(f"{files.path} has no folder {TRAIN}: {ADVICE}")
    if () in roots:
        return ()
    if len(roots) > 1:
        names = " and ".join(sorted("/".join((*root, TRAIN)) for root in roots))
        raise ValueError(f"{files.path} has {names}: name the one folder that is meant")
    return roots.pop()


def _parts(files: SourceFiles) -> Iterator[tuple[PurePosixPath, int]]:
    for path in map(PurePosixPath, (*files.folders, *files.names)):
        for depth in range(min(2, len(path.parts))):
            if path.parts[depth].lower() in PARTS:
                yield path, depth
                break


def _inside(name: str, root: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """(part, path within it) of a file or folder; None if it is in no part."""
    parts = PurePosixPath(name).parts
    if parts[: len(root)] != root or len(parts) <= len(root) or parts[len(root)].lower() not in PARTS:
        return None
    part, rest = parts[len(root)].lower(), parts[len(root) + 1 :]
    return part, rest[1:] if rest and rest[0].lower() == part else rest


def _find_files(files: SourceFiles, names: Iterable[str], root: tuple[str, ...]) -> list[_File]:
    by_id: dict[str, _File] = {}
    for name in names:
        if (location := _inside(name, root)) is None or not location[1]:
            continue
        part, inside = location
        label = inside[0] if part != PRED and len(inside) > 1 else None
        file = _File(name=name, id="/".join((part, *inside)), part=part, label=label)
        if (other := by_id.setdefault(file.id, file)) is not file:
            raise ValueError(f"{files.path} has {other.name} and {name}, one image by their names: keep the right one")
    return sorted(by_id.values(), key=lambda file: (PARTS.index(file.part), file.id))


def _check_classes(
    files: SourceFiles, root: tuple[str, ...], images: Sequence[_File]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes, and sentences to warn of. Raises ValueError if a class has nothing to learn from."""
    filled = {part: {file.label for file in images if file.part == part and file.label} for part in (TRAIN, TEST)}
    folders: dict[str, set[str]] = {part: set(names) for part, names in filled.items()}
    parts = set()
    for name in files.folders:
        if location := _inside(name, root):
            part, inside = location
            parts.add(part)
            if part != PRED and len(inside) == 1:
                folders[part].add(inside[0])
    _refuse_two_cases(files, {f"{part}/{name}" for part in (TRAIN, TEST) for name in folders[part]})
    if empty := sorted(folders[TRAIN] - filled[TRAIN]):
        raise ValueError(
            f"{files.path} has no images in {_list(TRAIN, empty)}: put images there, or remove the folder if the class "
            "is not meant"
        )
    if unknown := sorted(folders[TEST] - folders[TRAIN]):
        raise ValueError(
            f"{files.path} has {_list(TEST, unknown)} but not {_list(TRAIN, unknown)}: a class that is tested needs "
            "images to learn from"
        )
    classes = tuple(sorted(folders[TRAIN]))
    if len(classes) < 2:
        content = f"only the class {classes[0]}" if classes else "no folders of classes"
        raise ValueError(
            f"{files.path}/{'/'.join((*root, TRAIN))} has {content}, and at least two are needed: {ADVICE}"
        )
    warnings = _nested_classes(images)
    if (missing := sorted(set(INTEL) - set(classes))) and len(missing) < len(INTEL):
        warnings.append(f"of the six Intel classes there is no {', '.join(missing)}")
    if not filled[TEST] and TEST in parts:
        warnings.append(f"{TEST} has no images of any class: the test part is cut from {TRAIN}")
    elif filled[TEST] and (untested := sorted(set(classes) - filled[TEST])):
        warnings.append(f"there are no images in {_list(TEST, untested)}: the test part cannot tell how well they go")
    return classes, tuple(warnings)


def _refuse_two_cases(files: SourceFiles, names: Iterable[str]) -> None:
    by_lower_case: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        label = name.partition("/")[2]
        by_lower_case.setdefault(label.lower(), {}).setdefault(label, name)
    for forms in by_lower_case.values():
        if len(forms) > 1:
            raise ValueError(
                f"{files.path} has {' and '.join(forms.values())}, which differ in upper and lower case only: "
                "rename one"
            )


def _nested_classes(images: Sequence[_File]) -> list[str]:
    """Warn of class folders that hold no image but two or more folders: perhaps these are the classes."""
    inside: dict[str, set[str]] = {}
    for file in images:
        if file.part == TRAIN and file.label:
            below = PurePosixPath(file.id).parts[2:-1]
            inside.setdefault(file.label, set()).add(below[0] if below else "")
    return [
        f"{TRAIN}/{label} holds only folders ({', '.join(sorted(below))}), and all their images are of the class "
        f"{label}: if these are the classes, move them up into {TRAIN}"
        for label, below in sorted(inside.items())
        if len(below) > 1 and "" not in below
    ]


def _list(part: str, names: Iterable[str]) -> str:
    return ", ".join(f"{part}/{name}" for name in names)


# The images


def _read(files: SourceFiles, block: list[_File], classes: tuple[str, ...], pool: ThreadPoolExecutor) -> Batch:
    """Read a block's files one after the other; the pool decodes and hashes them."""
    part = block[0].part
    refused = []
    good: list[tuple[_File, Picture]] = []
    contents = ((file.name, read_entry(files, file.name)) for file in block)
    for file, picture in zip(block, pool.map(lambda entry: _decode(*entry), contents), strict=True):
        if isinstance(picture, BadImage):
            refused.append(Refusal(id=file.id, reason=picture.reason, detail=picture.detail))
        elif part != PRED and file.label is None:
            refused.append(Refusal(id=file.id, reason=NO_CLASS, detail=f"an image directly in {part}"))
        else:
            good.append((file, picture))
    labels = None if part == PRED else np.array([classes.index(file.label) for file, _ in good], np.int64)
    return Batch(
        part=part,
        ids=[file.id for file, _ in good],
        images=[picture for _, picture in good],
        labels=labels,
        refused=refused,
    )


def _decode(name: str, data: bytes | BadImage) -> Picture | BadImage:
    if isinstance(data, BadImage):
        return data
    try:
        return read_picture(data, name)
    except BadImage as fault:
        return fault
