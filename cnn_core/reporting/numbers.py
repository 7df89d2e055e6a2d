"""Numbers on the page: each is looked up in a metrics file and carries the key that it has there.

``numbers("evaluate-digits:f1/3", "percent")`` gives ``<span data-metric="evaluate-digits:f1/3" …>99.20 %</span>``.
So a test, and a reader, can check every figure of the page against the files.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cnn_core.reporting.headlines import read_metrics


def percent(value: float) -> str:
    """Format 0.9912 as 99.12 %."""
    return f"{100 * value:.2f} %"


def share(value: float) -> str:
    """Format 0.9912 as 99.1 %."""
    return f"{100 * value:.1f} %"


def count(value: float) -> str:
    """Format 4500 as 4,500."""
    return f"{value:,.0f}"


def three(value: float) -> str:
    """Format 0.95467 as 0.955."""
    return f"{value:.3f}"


def precise(value: float) -> str:
    """Format with four significant digits: 3.777e-05, 0.2867."""
    return f"{value:.4g}"


def seconds(value: float) -> str:
    """Format seconds as 7.2 s or 6 min 37 s."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value // 60:.0f} min {value % 60:.0f} s"


def total(values: dict[str, float]) -> str:
    """Format the sum of counts."""
    return count(sum(values.values()))


def megabytes(value: float) -> str:
    """Format bytes as 1,234 MB."""
    return f"{value / 1e6:,.0f} MB"


STYLES: dict[str, Callable[[Any], str]] = {
    style.__name__: style for style in (percent, share, count, three, precise, seconds, total, megabytes)
}


def pointer(key: str) -> str:
    """A key that may hold a slash, such as the name of a class, as a part of a path (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


class Numbers:
    """The metrics of the run below ``root``, as marked text for the page."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metrics = functools.cache(self._read)  # by stage; None where there is no such file

    def _read(self, stage: str) -> dict[str, Any] | None:
        """Read the metrics file of a stage; ``manifest-<set>`` is the manifest that the ingestion wrote."""
        if not stage.startswith("manifest-"):
            return read_metrics(self.root, stage)
        path = self.root / "data/raw" / stage.removeprefix("manifest-") / "manifest.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def value(self, key: str) -> Any:
        """Return the value at ``<stage>:<key>/<key>…`` (`pointer`), or None where the file or the key is missing."""
        stage, _, path = key.partition(":")
        node: Any = self.metrics(stage)
        for part in path.split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def __call__(self, key: str, style: str = "percent") -> Markup:
        """Return the number at ``key`` as marked text, or a dash where there is none."""
        value = self.value(key)
        if value is None:
            return Markup('<span class="quiet">–</span>')
        text = STYLES[style](value)
        sort = value if isinstance(value, int | float) else ""
        span = Markup('<span data-metric="{}" data-style="{}" data-sort="{}">{}</span>')
        return span.format(key, style, sort, text)


def parameter(name: str, value: Any, style: str | None = None) -> Markup:
    """Return a parameter's value as text that is marked with its name."""
    text = STYLES[style](value) if style else "null" if value is None else str(value)
    return Markup('<span data-param="{}" data-style="{}">{}</span>').format(name, style or "", text)
