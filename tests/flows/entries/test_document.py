"""Entries are put into a YAML file and taken out of it without a change anywhere else."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.entries import document
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.xdist_group("models")

TEXT = """# The head.

one:                      # of one
  first:
    a: 1                  # a
    b: [1, 2]
  second:                 # the second
    a: 2                  # goes on
                          # in a line of its own

    list:
    - 1
# between
two: {}                   # empty
"""
ENTRY = "  third:\n    a: 3  # new\n"


def test_an_entry_goes_to_the_end_of_its_section() -> None:
    text = document.insert(TEXT, ("one",), ENTRY)
    assert text == TEXT.replace("    - 1\n", f"    - 1\n{ENTRY}")
    assert document.remove(text, ("one", "third")) == TEXT


def test_a_section_that_is_empty_or_missing_is_made() -> None:
    text = document.insert(TEXT, ("two",), ENTRY)
    assert text == TEXT.replace("two: {}  ", "two:  ") + ENTRY
    assert document.remove(text, ("two", "third")).replace(" ", "") == TEXT.replace(" ", "")
    assert yaml.safe_load(document.insert(TEXT, ("three",), ENTRY))["three"] == {"third": {"a": 3}}
    assert yaml.safe_load(document.insert(TEXT, ("one", "first", "c"), "      x: 1\n"))["one"]["first"]["c"] == {"x": 1}


def test_comments_stay_with_their_entry() -> None:
    text = document.remove(TEXT, ("one", "first"))
    assert text == TEXT.replace("  first:\n    a: 1                  # a\n    b: [1, 2]\n", "")
    assert document.remove(text, ("one", "second")).startswith(
        "# The head.\n\none: {}                      # of one\n# b"
    )
    assert document.block(TEXT, ("one", "first")) == "  first:\n    a: 1                  # a\n    b: [1, 2]\n"
    assert document.remove(TEXT, ("one", "fourth")) == TEXT


@settings(max_examples=20)
@given(st.sampled_from([("params.yaml", section) for section in ("ingest", "train", "detect", "report")]), st.data())
def test_what_is_taken_out_of_the_projects_files_leaves_the_rest(place: tuple[str, str], data: st.DataObject) -> None:
    text = (ROOT / place[0]).read_text()
    content = yaml.load(text, yaml.CSafeLoader)
    path = [place[1]]
    while isinstance(node := _at(content, path), dict) and (len(path) < 2 or data.draw(st.booleans())):
        path.append(data.draw(st.sampled_from(list(node))))
    edited = document.remove(text, path)
    document.without(content, path)
    left = yaml.load(edited, yaml.CSafeLoader)
    assert (_at(left, path[:-1]) or {}, left | {place[1]: 0}) == (_at(content, path[:-1]), content | {place[1]: 0})
    lines = edited.splitlines()
    assert [line for line in lines if line not in text.splitlines()] in ([], [line for line in lines if ": {}" in line])


def _at(content: dict, path: list[str]) -> object:
    node: object = content
    for key in path:
        node = node[key] if isinstance(node, dict) else None
    return node


def test_a_file_of_another_format_is_written_anew() -> None:
    text = "one: {first: {a: 1}, second: {b: 2}}\n"
    edited = document.remove(text, ("one", "first"))
    change = lambda content: document.without(content, ("one", "first"))  # noqa: E731
    assert yaml.safe_load(document.checked(text, edited, change)) == {"one": {"second": {"b": 2}}}
    assert document.checked(
        TEXT, document.remove(TEXT, ("one", "first")), lambda content: content["one"].pop("first")
    ) == (document.remove(TEXT, ("one", "first")))
