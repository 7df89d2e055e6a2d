"""Texts of people (names of classes and images, paths, values) in Markdown, shown as they are.

The rules are those of CommonMark and of GitHub's tables.
"""

from __future__ import annotations

import re

# What may begin emphasis, code, a link, HTML, an entity, a formula or the next cell; an underscore only beside a gap.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OPENERS, _CLOSERS = (
    "\u2066\u2067\u2068",
    "\u2069\u202c",
)  # of isolated text; embeddings end with the isolate around them
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def one_line(text: object) -> str:
    """A text without line breaks and other control characters, whose writing direction ends with it."""
    line = _CONTROL.sub(" ", str(text))
    if not _DIRECTIONS.search(line):
        return line
    kept = "".join(character for character in line if character not in _CLOSERS)
    return f"\u2068{kept}{chr(0x2069) * (1 + sum(map(kept.count, _OPENERS)))}"


def escape(text: object) -> str:
    """A text as a part of a line or as a cell of a table."""
    line = _SPECIAL.sub(r"\\\g<0>", one_line(text).strip())
    line = _NUMBERED.sub(r"\1\\\2", line)
    return f"\\{line}" if line[:1] in ("#", "+", "-", "=", ":") else line


def code(text: object) -> str:
    """A text as code within a line, where it may not be empty; not for a table, where a bar would end its cell."""
    line = one_line(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line[:1] in ("`", " ") or line[-1:] in ("`", " ") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def block(text: str, language: str = "") -> str:
    """Lines as a block of code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
