"""A page of HTML as a person reads it: each text with the attributes of the elements that it stands in."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "input", "br", "link"}
SILENT = {"script", "style", "title"}


class Page(HTMLParser):
    """``texts``: (text, attributes of all elements around it, the innermost last); ``specs``: the charts' Vega."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._open: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[tuple[str, list[dict[str, Any]]]] = []
        self.links: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.specs: list[Any] = []
        self.payloads: list[Any] = []
        self.feed(html)

    @property
    def text(self) -> str:
        """All texts of the page in a line."""
        return " ".join(" ".join(text for text, _ in self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [found[name] or "" for name in ("src", "href") if name in found]
        if tag == "img":
            self.images.append(found)
        if tag not in VOID:
            self._open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            (self.specs if attributes.get("class") == "spec" else self.payloads).append(json.loads(data))
        elif data.strip() and tag not in SILENT:
            self.texts.append((data.strip(), [found for _, found in self._open]))

    def marked(self, name: str) -> list[tuple[dict[str, Any], str]]:
        """Elements with the attribute ``name`` around a text: all their attributes, and the text."""
        return [(around[-1], text) for text, around in self.texts if around and name in around[-1]]
