"""Read XML that may come from anybody: entities, by which a small file unpacks to gigabytes, are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MAX_BYTES = 2 << 30
MAX_DEPTH = 50  # elements in each other; annotations need six
_CHUNK = 1 << 20
_NO_XML = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


def read_xml(path: str | Path) -> Element:
    """Read an XML file and return its root.

    Raises:
        ValueError: there is no such file, it is no XML, is cut short, is too large or too deep, or declares entities.
    """
    path = Path(path)
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{path} has more than {MAX_DEPTH} elements in each other: annotations have fewer")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> NoReturn:
        raise ValueError(f"{path} declares entities, which can unpack to gigabytes: write the texts out instead")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = parser.UnparsedEntityDeclHandler = refuse
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) > MAX_BYTES:
                raise ValueError(f"{path} is larger than {MAX_BYTES >> 30} GiB: export the set in parts")
            file.seek(0)
            while chunk := file.read(_CHUNK):
                parser.Parse(chunk, False)
            parser.Parse(b"", True)
    except (expat.ExpatError, LookupError) as error:  # LookupError: of an encoding that Python lacks
        raise ValueError(f"{path} is not valid XML: {error}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return builder.close()


def root_tag(path: str | Path) -> str:
    """The name of a file's first element; "" where it is no XML."""

    class _FirstTag(Exception):  # noqa: N818
        pass

    def stop(tag: str, _: dict[str, str]) -> None:
        raise _FirstTag(tag)

    parser = expat.ParserCreate()
    parser.StartElementHandler = stop
    try:
        with Path(path).open("rb") as file:
            parser.Parse(file.read(1 << 16), False)
    except _FirstTag as first:
        return str(first)
    except (expat.ExpatError, LookupError, OSError):
        pass
    return ""


def check_text(text: str, what: str) -> None:
    """Raise a ValueError for a text that XML cannot hold, or that comes back without the spaces around it."""
    if _NO_XML.search(text) or text != text.strip():
        raise ValueError(f"the {what} {text!r} cannot stand in XML: it has control characters, or spaces around it")


def text_of(element: Element, path: str) -> str:
    """The text of a child, without white space around it; "" where there is none."""
    return (element.findtext(path) or "").strip()


def number_of(text: str | None, what: str) -> float:
    """Read a number, or raise a ValueError that names ``what`` it is of."""
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:  # so no NaN
        raise ValueError(f"its {what} is {(text or 'missing')[:40]!r}, no number")
    return value
