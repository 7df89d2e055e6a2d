"""Images in any folders, and tables that say the label of each file: Kaggle's train.csv beside train/, and the like.

The column of the files is the one whose values are names of images, with or without folders and endings. The column of
the labels is told by its name, or is the only other one. Several columns of zeros and a one are one label; where images
have several labels (`multilabels`), each column of zeros and ones is a class.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from cnn_core.data.layouts.listing import ImageEntry, Label, Listing
from cnn_core.data.layouts.multilabels import (
    ADVICE,
    MISSING,
    ONES,
    SeveralLabelsError,
    bit_columns,
    has_several,
    labels_in,
    separator_of,
)
from cnn_core.data.layouts.parts import PARTS, TEST, TRAIN, UNLABELLED, part_in_name, part_of_folder
from cnn_core.data.sources import sorted_names
from cnn_core.data.validation import CONFLICTING, WRONG_COLUMNS, FieldError, Refusal, whole_number
from cnn_core.images.archives import SourceFiles

NO_FILE, SEVERAL_FILES, NO_LABEL = "file of the table is missing", "several files have the name", "label missing"
NO_ROW = "images in no row of the tables"
AGAIN = "rows that name an image again"
_ENDINGS = {".csv": ",;\t|", ".tsv": "\t", ".txt": "\t,; "}
_MAX_BYTES = 1 << 30  # of a table
_SAMPLE = 1000  # rows by which columns are told
_LABELS = (
    *("label", "labels", "classname", "class", "classes", "labelname", "category", "categories", "target", "breed"),
    *("species", "diagnosis", "dx", "variety", "kind", "type", "tag", "level", "grade", "emotion", "expression", "y"),
    *("categoryname", "classlabel", "targetname", "labelid", "classid", "categoryid", "gt", "groundtruth"),
)
_FILES = ("file", "filename", "image", "imageid", "id", "path", "filepath", "filepaths", "imagepath", "img", "name")
_SPLITS = ("split", "set", "dataset", "subset", "partition", "usage", "phase", "part")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelTable:
    """A table that names images: ``rows`` without the header, and the columns of file, label and split.

    Attributes:
        first: the line of the first of the rows.
        label: the column of the labels, -1 = none.
        one_hot: the columns that are classes, with their names, where no column holds labels.
        bits: the columns that hold only zeros and ones, with their names.
        is_named: a column's name says that it holds labels.
        part: what the table's name or folder says.
    """

    name: str
    rows: list[list[str]]
    first: int
    file: int
    label: int
    one_hot: dict[int, str]
    bits: dict[int, str]
    split: int
    is_named: bool
    part: str | None

    @property
    def is_labelled(self) -> bool:
        return self.label >= 0 or bool(self.one_hot)

    def cells(self) -> list[str]:
        """The cells of the column of labels."""
        return [row[self.label] for row in self.rows if len(row) > self.label] if self.label >= 0 else []

    def with_several(self) -> LabelTable:
        """The table read with several labels an image: columns of zeros and ones are classes, unless one is named."""
        if self.one_hot or not self.bits or (self.label >= 0 and self.label not in self.bits):
            return self
        return dataclasses.replace(self, label=-1, one_hot=self.bits, is_named=True)

    def refuse_several(self) -> None:
        """Raises `SeveralLabelsError` where rows have several labels, or several ones (or none) in columns of bits."""
        if self.label >= 0 and has_several(cells := self.cells()):
            separator = separator_of(cells)
            example = next(cell for cell in cells if len(labels_in(cell, separator)) > 1)
            raise SeveralLabelsError(f"{self.name} has several labels in a cell, such as {example!r}: {ADVICE}")
        if not self.is_labelled and len(self.bits) > 1:
            names = ", ".join(list(self.bits.values())[:3])
            raise SeveralLabelsError(
                f"{self.name} has {len(self.bits)} columns of zeros and ones ({names}, …), and rows with several ones "
                f"or none: {ADVICE}"
            )


class ImageNames:
    """Finds the image that a table's cell means among the images of a source."""

    def __init__(self, images: Sequence[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for image in images:
            path = PurePosixPath(image)
            self._by_name[path.name].append(image)
            if path.stem != path.name:
                self._by_name[path.stem].append(image)

    def find(self, cell: str, folder: str = "", part: str | None = None) -> list[str]:
        """The images that a cell may mean, by as much of its path as agrees, then by the table's folder and part."""
        path = PurePosixPath(cell.strip().replace("\\", "/"))
        images = self._by_name.get(path.name, [])
        if len(images) <= 1:
            return images
        images = _best(images, lambda image: _shared_end(PurePosixPath(image), path))
        images = _best(images, lambda image: image.startswith(f"{folder}/") or not folder)
        return _best(images, lambda image: part is not None and part_of_path(image) == part)


def _best(images: list[str], score: Callable[[str], int]) -> list[str]:
    scores = [score(image) for image in images]
    return [image for image, each in zip(images, scores, strict=True) if each == max(scores)]


def _shared_end(image: PurePosixPath, cell: PurePosixPath) -> int:
    """How many folders from the end agree."""
    count = 0
    for one, other in zip(reversed(image.parts[:-1]), reversed(cell.parts[:-1]), strict=False):
        if one != other:
            break
        count += 1
    return count


def part_of_path(image: str) -> str | None:
    """The part that the folders of an image mean, the innermost first."""
    return next((part for name in reversed(PurePosixPath(image).parts[:-1]) if (part := part_of_folder(name))), None)


def find_tables(files: SourceFiles, images: Sequence[str]) -> tuple[list[LabelTable], list[str]]:
    """The tables that name images of the source, and sentences about those that seem to name others."""
    names, tables, misses = ImageNames(images), [], []
    for name in files.names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in _ENDINGS or len(path.parts) > 3 or files.size(name) > _MAX_BYTES:
            continue
        if "submission" in path.name.lower():  # Kaggle's example of an answer: its labels are none
            continue
        rows = _read(files, name)
        if table := _understand(name, rows, names):
            tables.append(table)
        elif rows and {_plain(cell) for cell in rows[0]} & set(_FILES) and {_plain(c) for c in rows[0]} & set(_LABELS):
            misses.append(f"{name} names {len(rows) - 1:,} files, none of which is there")
    return tables, misses


def _read(files: SourceFiles, name: str) -> list[list[str]]:
    with files.open(name) as opened:
        data = opened.read()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = data.decode(encoding, "replace")
    line = text[: text.find("\n") + 1] or text
    separators = _ENDINGS[PurePosixPath(name).suffix.lower()]
    delimiter = next((each for each in separators if each in line), separators[0])
    try:
        return [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(map(str.strip, row))]
    except csv.Error:  # a field of more than 128 KiB: no table of names
        return []


def _plain(cell: str) -> str:
    return re.sub(r"[^a-z0-9]", "", cell.lower())


def _understand(name: str, rows: list[list[str]], images: ImageNames) -> LabelTable | None:
    """Tell the columns of a table; None if none of them names images."""
    body = rows[1:] or rows
    sample = body[:: max(1, len(body) // _SAMPLE)]
    width = max(map(len, sample), default=0)
    matches = [
        {image for row in sample if column < len(row) for image in images.find(row[column])} for column in range(width)
    ]
    file = max(range(width), key=lambda column: len(matches[column]), default=-1)
    if file < 0 or not matches[file]:
        return None
    first = rows[0][file] if file < len(rows[0]) else ""
    has_header = not images.find(first) and not re.search(r"\.\w{2,4}$", first.strip())
    header = [_plain(cell) for cell in rows[0]] if has_header else []
    others = [column for column in range(width) if column != file]
    split = next((column for column in others if column < len(header) and header[column] in _SPLITS), -1)
    if split >= 0 and not all(len(row) <= split or part_in_name(row[split]) for row in sample):
        split = -1
    others = [column for column in others if column != split]
    named = [header.index(label) for label in _LABELS if label in header and header.index(label) in others]
    classes = [column for column in others if not (column < len(header) and _is_part(header[column]))]
    bits = bit_columns(rows[0] if has_header else [], classes, body if len(body) <= _SAMPLE else sample)
    one_hot = {} if named else _one_hot(bits, sample)
    label = named[0] if named else others[0] if len(others) == 1 and not one_hot else -1
    path = PurePosixPath(name)
    return LabelTable(
        name=name,
        rows=rows[has_header:],
        first=1 + has_header,
        file=file,
        label=label,
        one_hot=one_hot,
        bits=bits,
        split=split,
        is_named=bool(named or one_hot),
        part=part_in_name(path.stem) or part_of_path(name),
    )


def _is_part(plain: str) -> bool:
    """Whether a column's name says that its zeros and ones tell the parts of the set and no class."""
    return plain in _SPLITS or plain.startswith(("istrain", "isval", "istest"))


def _one_hot(bits: dict[int, str], sample: Sequence[Sequence[str]]) -> dict[int, str]:
    """The columns that are classes, if each row has a one in just one of them and zeros in the others."""
    ones = [sum(row[column].strip() in ONES for column in bits if column < len(row)) for row in sample]
    return bits if len(bits) > 1 and set(ones) == {1} else {}


def from_tables(images: Sequence[str], tables: Sequence[LabelTable], *, several: bool = False) -> Listing:
    """List the images by the rows of tables; images in no row are unlabelled in a test part, and else left out.

    With ``several`` labels an image, one without any is good. Rows of one label each that name an image again then say
    another of its labels.
    """
    names, refused = ImageNames(images), list[Refusal]()
    left_out: Counter[str] = Counter()
    labels: dict[str, set[Label]] = defaultdict(set)
    parts: dict[str, str] = {}
    unlabelled: set[str] = set()
    used = [table for table in tables if table.is_labelled]
    used += [table for table in tables if not table.is_labelled and table.part in (TEST, UNLABELLED)]
    for table in used:
        label_of = _several_labels(table) if several else _one_label(table)
        for row, image, part, fault in _rows(table, names):
            if fault:
                refused.append(fault)
                continue
            text = label_of(row)
            if text is None:
                if part in (TEST, UNLABELLED):
                    unlabelled.add(image)
                else:
                    refused.append(Refusal(id=image, reason=NO_LABEL, detail=f"in {table.name}"))
            elif text in labels[image]:
                left_out[AGAIN] += 1
            else:
                labels[image].add(text)
                parts.setdefault(image, TRAIN if part == UNLABELLED else part)
    if several and all(len(label) <= 1 for texts in labels.values() for label in texts):  # a row for each label
        labels = {image: {tuple(sorted(set().union(*texts)))} for image, texts in labels.items()}
    if several:
        unlabelled |= _secret(labels, parts)
    for image in [image for image, texts in labels.items() if len(texts) > 1]:
        detail = " and ".join(sorted(map(_shown, labels.pop(image))))
        refused.append(Refusal(id=image, reason=CONFLICTING, detail=f"the tables say {detail}"))
    named = _as_numbers({image: texts.pop() for image, texts in labels.items() if texts})
    settled = {entry.id for entry in refused} | set(named)
    unlabelled |= {image for image in images if part_of_path(image) in (TEST, UNLABELLED)}
    unlabelled -= settled
    left_out[NO_ROW] += len(set(images) - settled - unlabelled)
    entries = [_entry(image, parts[image], label) for image, label in named.items()]
    entries += [ImageEntry(name=image, id=image, part=UNLABELLED, label=None) for image in unlabelled]
    entries.sort(key=lambda entry: (PARTS.index(entry.part), entry.id))
    return Listing(
        entries=entries,
        classes=sorted_names(name for label in named.values() for name in _names(label)),
        refused=refused,
        left_out=+left_out,
        tables=[table.name for table in used],
    )


def _secret(labels: dict[str, set[Label]], parts: Mapping[str, str]) -> set[str]:
    """Take the images of a test part out of ``labels`` where none of them has one: its labels were kept back."""
    images = {image for image in labels if parts[image] == TEST}
    if any(labels[image] != {()} for image in images):
        return set()
    for image in images:
        del labels[image]
    return images


def _rows(table: LabelTable, names: ImageNames) -> Iterator[tuple[list[str], str, str, Refusal | None]]:
    """Each row with its image and part, or why it is refused."""
    folder = str(PurePosixPath(table.name).parent)
    folder = "" if folder == "." else folder
    needed = max(table.file, table.label, table.split, *table.one_hot, 0)
    for line, row in enumerate(table.rows, start=table.first):
        id_ = f"{table.name}:{line}"
        if len(row) <= needed:
            yield row, "", "", Refusal(id=id_, reason=WRONG_COLUMNS, detail=f"{len(row)} columns, {needed + 1} needed")
            continue
        cell = row[table.file].strip()
        images = names.find(cell, folder, table.part)
        if len(images) != 1:
            detail = f"{cell}: {' and '.join(images[:3])}" if images else cell
            yield row, "", "", Refusal(id=id_, reason=SEVERAL_FILES if images else NO_FILE, detail=detail)
            continue
        split = part_in_name(row[table.split]) if table.split >= 0 else None
        yield row, images[0], split or table.part or part_of_path(images[0]) or TRAIN, None


def _entry(image: str, part: str, label: Label) -> ImageEntry:
    if isinstance(label, str):
        return ImageEntry(name=image, id=image, part=part, label=label)
    return ImageEntry(name=image, id=image, part=part, label=None, labels=label)


def _one_label(table: LabelTable) -> Callable[[Sequence[str]], Label | None]:
    """A function of a row that gives its label."""

    def label(row: Sequence[str]) -> str | None:
        if table.label >= 0:
            text = row[table.label].strip()
            return None if text.lower() in ("", "nan", "null") else text
        return next((name for column, name in table.one_hot.items() if row[column].strip() in ONES), None)

    return label


def _several_labels(table: LabelTable) -> Callable[[Sequence[str]], Label | None]:
    """A function of a row that gives its labels; none of a table whose column of labels is empty throughout."""
    cells = table.cells()
    separator, filled = separator_of(cells), any(cell.strip().lower() not in MISSING for cell in cells)
    files = [row[table.file].strip() for row in table.rows if len(row) > table.file]
    if separator == " " and len(set(files)) < len(files):  # a row for each label, such as `traffic light`
        separator = "\0"

    def labels(row: Sequence[str]) -> tuple[str, ...] | None:
        if table.label >= 0:
            return labels_in(row[table.label], separator) if filled else None
        ones = (name for column, name in table.one_hot.items() if row[column].strip() in ONES)
        return tuple(sorted(ones)) if table.one_hot else None

    return labels


def _names(label: Label) -> tuple[str, ...]:
    return (label,) if isinstance(label, str) else label


def _shown(label: Label) -> str:
    return label if isinstance(label, str) else ", ".join(label) or "no label"


def _as_numbers(labels: dict[str, Label]) -> dict[str, Label]:
    """Write labels as whole numbers (3.0 as 3) where all of them are."""
    try:
        numbers = {
            text: str(whole_number(text, "label"))
            for text in {name for label in labels.values() for name in _names(label)}
        }
    except FieldError:
        return labels
    return {
        image: numbers[label] if isinstance(label, str) else tuple(sorted(numbers[name] for name in label))
        for image, label in labels.items()
    }
