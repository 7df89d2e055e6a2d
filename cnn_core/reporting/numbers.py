"""Numbers on the page: each is looked up in a metrics file, and bears where it stands there.

``numbers("evaluate-digits:f1/3", "percent")`` gives ``<span data-metric="evaluate-digits:f1/3" …>99.20 %</span>``. So a
test can hold every figure of the page against the files, and so can a reader.
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
    """0.9912 -> 99.12 %."""
    return f"{100 * value:.2f} %"


def share(value: float) -> str:
    """0.9912 -> 99.1 %."""
    return f"{100 * value:.1f} %"


def count(value: float) -> str:
    """4500 -> 4,500."""
    return f"{value:,.0f}"


def three(value: float) -> str:
    """0.95467 -> 0.955."""
    return f"{value:.3f}"


def precise(value: float) -> str:
    """3.777e-05, and 0.2867: four digits that count."""
    return f"{value:.4g}"


def seconds(value: float) -> str:
    """7.2 s; 6 min 37 s."""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value // 60:.0f} min {value % 60:.0f} s"


def total(values: dict[str, float]) -> str:
    """The sum of counts."""
    return count(sum(values.values()))


def megabytes(value: float) -> str:
    """Bytes; 1,234 MB."""
    return f"{value / 1e6:,.0f} MB"


STYLES: dict[str, Callable[[Any], str]] = {
    style.__name__: style for style in (percent, share, count, three, precise, seconds, total, megabytes)
}


class Numbers:
    """The metrics below a run's ``root``, as marked text for the page."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.of = functools.cache(self._read)

    def _read(self, stage: str) -> dict[str, Any] | None:
        """A metrics file; ``manifest-<set>`` is what ingestion wrote beside its rows."""
        if not stage.startswith("manifest-"):
            return read_metrics(self.root, stage)
        path = self.root / "data/raw" / stage.removeprefix("manifest-") / "manifest.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def value(self, key: str) -> Any:
        """What stands at ``<stage>:<key>/<key>…``; None where the file or the key is missing."""
        stage, _, path = key.partition(":")
        node: Any = self.of(stage)
        for part in path.split("/"):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def __call__(self, key: str, style: str = "percent") -> Markup:
        """The number as text, marked; a dash where there is none."""
        value = self.value(key)
        if value is None:
            return Markup('<span class="quiet">–</span>')
        text = STYLES[style](value)
        sort = value if isinstance(value, int | float) else ""
        marked = '<span data-metric="{}" data-style="{}" data-sort="{}">{}</span>'
        return Markup(marked).format(key, style, sort, text)


def parameter(name: str, value: Any, style: str | None = None) -> Markup:
    """A parameter's value, marked with its name."""
    text = STYLES[style](value) if style else "null" if value is None else str(value)
    return Markup('<span data-param="{}" data-style="{}">{}</span>').format(name, style or "", text)


def flatten(node: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``[("train.digits.epochs", 16), ...]``."""
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        pairs += flatten(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return pairs
