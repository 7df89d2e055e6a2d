"""Images in a folder for each class, with or without folders of the parts around them.

``train/<class>/*.jpg``, ``val/<class>/``, ``test/<class>/`` in any of the usual spellings (`layouts.parts`), such as
Kaggle's ``seg_train/seg_train/<class>``; or ``<class>/*.jpg`` alone. A part's folder may be doubled, and folders may be
around them all. A part without class folders, other than train, is unlabelled.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from cnn_core.data.layouts.listing import NO_CLASS, ImageEntry, Listing
from cnn_core.data.layouts.parts import PARTS, TEST, TRAIN, UNLABELLED, VAL, part_of_folder
from cnn_core.data.sources import sorted_names
from cnn_core.data.validation import Refusal
from cnn_core.images.archives import SourceFiles

INTEL = ("buildings", "forest", "glacier", "mountain", "sea", "street")
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folders:
    """Where the classes are: ``root`` lies around them or their parts, ``parts`` are the folders of the parts by name.

    Without parts, ``classes`` are the folders in the root. ``with_classes`` says that train has class folders.
    """

    root: Path
    parts: dict[str, str]
    classes: tuple[str, ...]
    with_classes: bool = False


def find_folders(files: SourceFiles, images: Sequence[str]) -> Folders:
    """Find the folders of the parts, or else of the classes.

    Raises:
        ValueError: several folders hold such parts.
    """
    paths, folders = [PurePosixPath(name).parts for name in images], [PurePosixPath(n).parts for n in files.folders]
    root: Path = ()
    while True:
        depth = len(root)
        inside = [path for path in paths if path[:depth] == root]
        children = {path[depth] for path in inside if len(path) > depth + 1}
        named = {path[depth] for path in folders if len(path) == depth + 1 and path[:depth] == root}
        parts = {name: part for name in sorted(named | children) if (part := part_of_folder(name))}
        trained = [name for name, part in parts.items() if part == TRAIN]
        with_classes = any(_is_in_class(path, depth) for path in inside if path[depth] in trained)
        if parts and (with_classes or not children - set(parts)):
            return Folders(root=root, parts=parts, classes=(), with_classes=with_classes)
        around = sorted({path[: depth + 1] for path in paths if path[:depth] == root and _is_in_part(path, depth + 1)})
        if not trained and len(around) > 1:
            names = " and ".join(sorted({f"{'/'.join(path)}/{_train_in(paths, path)}" for path in around}))
            raise ValueError(f"{files.path} has {names}: name the one folder that is meant")
        if not trained and around:
            root = around[0]
        elif len(children) == 1 and all(len(path) > depth + 1 for path in inside):
            root = (*root, *children)
        else:
            return Folders(root=root, parts={}, classes=tuple(sorted(children)))


def _is_in_class(path: Path, depth: int) -> bool:
    """Whether an image lies in a folder of its part (at ``depth``), which may be doubled."""
    doubled = len(path) > depth + 1 and path[depth].lower() == path[depth + 1].lower()
    return len(path) > depth + 2 + doubled


def _is_in_part(path: Path, depth: int) -> bool:
    return len(path) > depth + 2 and part_of_folder(path[depth]) == TRAIN and _is_in_class(path, depth)


def _train_in(paths: Iterable[Path], around: Path) -> str:
    depth = len(around)
    return next(path[depth] for path in paths if path[:depth] == around and _is_in_part(path, depth))


def from_class_folders(files: SourceFiles, images: Sequence[str], folders: Folders) -> Listing:
    """List the images by the folders of their classes.

    Raises:
        ValueError: there is no class, a class of val or test is not in train, a class folder is empty, or two names
            differ in upper and lower case only.
    """
    entries, outside = _entries(files, images, folders)
    if folders.parts and TRAIN not in folders.parts.values():
        raise ValueError(
            f"{files.path} has {', '.join(folders.parts)} but no folder to learn from, such as train or seg_train"
        )
    labelled = {entry.part for entry in entries if entry.label}
    refused, kept = [], []
    for entry in entries:
        if entry.label is None and entry.part in {TRAIN, *labelled}:
            folder = PurePosixPath(entry.name).parent
            detail = f"an image directly in {folder.name or 'the top'}"
            refused.append(Refusal(id=entry.id, reason=NO_CLASS, detail=detail))
        else:
            kept.append(entry if entry.label else dataclasses.replace(entry, part=UNLABELLED))
    filled, existing = _class_folders(files, kept, folders)
    unlabelled = {entry.id.partition("/")[0] for entry in kept if not entry.label}
    warnings = _check(files, filled, existing, folders, unlabelled)
    classes = sorted_names(existing[TRAIN])
    warnings += _nested_classes(kept, folders)
    if (missing := sorted(set(INTEL) - set(classes))) and len(missing) < len(INTEL):
        warnings.append(f"of the six Intel classes there is no {', '.join(missing)}")
    kept.sort(key=lambda entry: (PARTS.index(entry.part), entry.id))
    return Listing(entries=kept, classes=classes, refused=refused, left_out=outside, warnings=tuple(warnings))


def _entries(files: SourceFiles, images: Sequence[str], folders: Folders) -> tuple[list[ImageEntry], Counter[str]]:
    by_id: dict[str, ImageEntry] = {}
    for name in images:
        if (entry := _entry(name, folders)) is None:
            continue
        if (other := by_id.setdefault(entry.id, entry)) is not entry:
            raise ValueError(f"{files.path} has {other.name} and {name}, one image by their names: keep the right one")
    outside = len(images) - len(by_id)
    where = sorted(folders.parts, key=lambda name: PARTS.index(folders.parts[name])) or ["/".join(folders.root)]
    return list(by_id.values()), Counter({f"outside {_and(where)}": outside} if outside else {})


def _entry(name: str, folders: Folders) -> ImageEntry | None:
    """The entry of an image by its folders; None if it lies outside."""
    path, depth = PurePosixPath(name).parts, len(folders.root)
    if path[:depth] != folders.root:
        return None
    inside = path[depth:]
    if not folders.parts:
        label = inside[0] if len(inside) > 1 else None
        if label and len(inside) == 2 and part_of_folder(label) in (TEST, UNLABELLED) and len(folders.classes) > 2:
            return ImageEntry(name=name, id="/".join(inside), part=UNLABELLED, label=None)
        return ImageEntry(name=name, id="/".join(inside), part=TRAIN, label=label)
    if inside[0] not in folders.parts or len(inside) < 2:
        return None
    folder, part, rest = inside[0].lower(), folders.parts[inside[0]], inside[1:]
    if len(rest) > 1 and rest[0].lower() == folder:
        rest = rest[1:]
    label = rest[0] if len(rest) > 1 and part != UNLABELLED else None
    return ImageEntry(name=name, id="/".join((folder, *rest)), part=part, label=label)


def _class_folders(
    files: SourceFiles, entries: Sequence[ImageEntry], folders: Folders
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The classes of each part that hold images, and all that have a folder."""
    filled: dict[str, set[str]] = {part: set() for part in (TRAIN, VAL, TEST)}
    for entry in entries:
        if entry.label:
            filled[entry.part].add(entry.label)
    existing = {part: set(names) for part, names in filled.items()}
    if not folders.parts:
        return filled, existing
    for name in files.folders:
        inside = _entry(f"{name}/image", folders)  # what an image in the folder would be
        if inside and inside.label and inside.part in existing and inside.id.count("/") == 2:
            existing[inside.part].add(inside.label)
    return filled, existing


def _check(
    files: SourceFiles,
    filled: dict[str, set[str]],
    existing: dict[str, set[str]],
    folders: Folders,
    unlabelled: set[str],
) -> list[str]:
    """Raise ValueError if a class has nothing to learn from, and return sentences to warn of.

    ``unlabelled`` are the folders with images of no class.
    """
    names = {part: next((name.lower() for name, of in folders.parts.items() if of == part), "") for part in PARTS}

    def listed(part: str, labels: Iterable[str]) -> str:
        return ", ".join(f"{names[part]}/{label}" if names[part] else label for label in sorted(labels))

    _refuse_two_cases(files, {(label, listed(part, [label])) for part in existing for label in existing[part]})
    if empty := existing[TRAIN] - filled[TRAIN]:
        raise ValueError(
            f"{files.path} has no images in {listed(TRAIN, empty)}: put images there, or remove the folder if the "
            "class is not meant"
        )
    warnings = []
    for part in (VAL, TEST):
        if unknown := existing[part] - existing[TRAIN]:
            raise ValueError(
                f"{files.path} has {listed(part, unknown)} but not {listed(TRAIN, unknown)}: a class that is tested "
                "needs images to learn from"
            )
        if names[part] and not filled[part]:
            if names[part] not in unlabelled:
                warnings.append(f"{names[part]} has no images of any class: the {part} part is cut from {names[TRAIN]}")
        elif filled[part] and (untested := existing[TRAIN] - filled[part]):
            warnings.append(
                f"there are no images in {listed(part, untested)}: the {part} part cannot tell how well they go"
            )
    if not existing[TRAIN]:
        where = "/".join((str(files.path), *folders.root, *([names[TRAIN]] if names[TRAIN] else [])))
        raise ValueError(f"{where} has no folders of classes")
    return warnings


def _refuse_two_cases(files: SourceFiles, labels: Iterable[tuple[str, str]]) -> None:
    by_lower_case: dict[str, dict[str, str]] = {}
    for label, listed in sorted(labels, key=lambda pair: pair[1]):
        by_lower_case.setdefault(label.lower(), {}).setdefault(label, listed)
    for forms in by_lower_case.values():
        if len(forms) > 1:
            raise ValueError(
                f"{files.path} has {' and '.join(forms.values())}, which differ in upper and lower case only: "
                "rename one"
            )


def _nested_classes(entries: Sequence[ImageEntry], folders: Folders) -> list[str]:
    """Warn of class folders that hold no image but two or more folders: perhaps these are the classes."""
    inside: dict[str, set[str]] = {}
    depth = 2 if folders.parts else 1
    around = next((f"{name.lower()}/" for name, part in folders.parts.items() if part == TRAIN), "")
    for entry in entries:
        if entry.part == TRAIN and entry.label:
            below = PurePosixPath(entry.id).parts[depth:-1]
            inside.setdefault(entry.label, set()).add(below[0] if below else "")
    return [
        f"{around}{label} holds only folders ({', '.join(sorted(below))}), and all their images are of the class "
        f"{label}: if these are the classes, move them up into {around or 'the folder around them'}"
        for label, below in sorted(inside.items())
        if len(below) > 1 and "" not in below
    ]


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
