"""Names and values of people in Markdown: a reader of CommonMark and of GitHub's tables shows them as they are."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cnn_core.markdown import block, code, escape, one_line
from tests.helpers.names import AWKWARD

READER = MarkdownIt("gfm-like", {"linkify": False})
DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")
NAMES = st.one_of(
    st.sampled_from(AWKWARD), st.text(max_size=30), st.lists(st.sampled_from(AWKWARD), max_size=3).map(" ".join)
)


def shown(text: str) -> str:
    """How a name has to be shown: on one line, without marks of writing direction, which are no characters to see."""
    return " ".join(DIRECTIONS.sub("", one_line(text)).split())


def texts(markdown: str) -> list[str]:
    """The texts of the blocks of a document; anything but plain text in one of them is an error."""
    texts = []
    for token in READER.parse(markdown):
        assert token.type not in ("heading_open", "list_item_open", "html_block", "hr", "blockquote_open"), token
        if token.type == "inline":
            kinds = {child.type for child in token.children or []}
            assert kinds <= {"text", "text_special", "softbreak", "code_inline"}, kinds
            texts.append(" ".join(DIRECTIONS.sub("", "".join(child.content for child in token.children or [])).split()))
    return texts


@given(NAMES, NAMES)
@example("a\\", "|b")
@example("\\", "\\|\\")
def test_a_table_shows_its_cells_as_they_are(first: str, second: str) -> None:
    table = f"| class | n |\n|---|---:|\n| {escape(first)} | {escape(second)} |\n"
    assert texts(table) == ["class", "n", shown(first), shown(second)]


@given(NAMES)
def test_a_line_shows_a_name_as_it_is(name: str) -> None:
    assert texts(f"{escape(name)}\n") == ([shown(name)] if shown(name) else [])
    assert texts(f"The class {escape(name)} is worse.") == [f"The class {shown(name)} is worse.".replace("  ", " ")]


@given(NAMES.filter(lambda name: one_line(name).strip()))
def test_code_shows_a_name_as_it_is(name: str) -> None:
    assert texts(f"in {code(name)} there") == [f"in {shown(name)} there"]


@given(st.lists(NAMES, max_size=4).map("\n".join))
@example("```\nnot the end")
@example("~~~")
def test_nothing_ends_a_block_of_code(text: str) -> None:
    fence, after = READER.parse(f"{block(text)}\n\nafter")[0], READER.parse(f"{block(text)}\n\nafter")[-2]
    assert (fence.type, after.content) == ("fence", "after")


@pytest.mark.parametrize("text", ["\u202eabc", "\u2067a", "a\u2069b\u202e", "\u2066\u2067x"])
def test_a_direction_ends_with_its_name(text: str) -> None:
    line = one_line(text)
    assert line[0] == "\u2068"
    assert sum(map(line.count, "\u2066\u2067\u2068")) == line.count("\u2069")
    assert line.endswith("\u2069")


def test_what_is_plain_stays_as_it_is() -> None:
    for text in ("map50_95", "evaluate-digits: accuracy", "a/b.jpg", "CNN (digit_cnn)", "1.5", "2026-11-30", "日本"):
        assert escape(text) == code(text).strip("`") == text
