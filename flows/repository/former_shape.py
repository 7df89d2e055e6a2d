"""Parameters and metrics of versions whose detector, segmenter and reader were one each, without a name.

Then ``params.yaml`` held ``detect.weights``; now it holds ``detect.<model>.weights``. Champions and experiments of then
are compared, and promoted again, in today's shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

METRICS = "data/metrics"
HEAD = re.compile(r"^([a-z_]+):")
ENTRIES = {  # sections that held the parameters themselves, and the name that their only entry has got
    "compose": "numbers",
    "train_detector": "detector",
    "evaluate_detector": "detector",
    "detect": "detector",
    "train_segmenter": "segmenter",
    "evaluate_segmenter": "segmenter",
    "segment": "segmenter",
    "read": "digits",
    "baselines": "digits",
}
EXPECTED = {  # of report.expected
    "digits_accuracy": ("digits", "accuracy"),
    "scenes_accuracy": ("scenes", "accuracy"),
    "detector_map50": ("detector", "map50"),
    "segmenter_mean_iou": ("segmenter", "mean_iou"),
    "found_and_read": ("digits", "found_and_read"),
}


def is_former(section: str, content: Any) -> bool:
    """Whether a section of ``params.yaml`` holds parameters where it would now hold entries."""
    return (
        section in ENTRIES
        and isinstance(content, Mapping)
        and any(not isinstance(v, Mapping) for v in content.values())
    )


def renewed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``params.yaml`` in today's shape."""
    sections = {
        name: {ENTRIES[name]: content} if is_former(name, content) else content for name, content in values.items()
    }
    report = sections.get("report")
    if isinstance(report, Mapping) and isinstance(report.get("expected"), Mapping):
        sections["report"] = {**report, "expected": _expected(report["expected"])}
    return sections


def _expected(former: Mapping[str, Any]) -> dict[str, Any]:
    expected: dict[str, Any] = {}
    for name, value in former.items():
        if name in EXPECTED:
            model, metric = EXPECTED[name]
            expected.setdefault(model, {})[metric] = value
        else:
            expected[name] = value
    return expected


def today(path: str) -> str:
    """The path that a stage's metrics file has now, of which ``data/metrics/detect.json`` is a former one."""
    folder, _, name = path.rpartition("/")
    section = name.removesuffix(".json")
    return f"{METRICS}/{section}-{ENTRIES[section]}.json" if folder == METRICS and section in ENTRIES else path


def reshaped(text: str) -> str:
    """The text of a ``params.yaml`` in today's shape, with its comments."""
    values = yaml.safe_load(text) or {}
    former = {name for name, content in values.items() if is_former(name, content)}
    lines, section = [], ""
    for line in text.split("\n"):
        if head := HEAD.match(line):
            section = head[1]
            lines += [line, f"  {ENTRIES[section]}:"] if section in former else [line]
        else:
            lines.append(f"  {line}" if section in former and line.strip() else line)
    text = "\n".join(lines)
    expected = (values.get("report") or {}).get("expected") or {}
    if not any(name in EXPECTED for name in expected):
        return text
    block = yaml.safe_dump(_expected(expected), sort_keys=False)
    new = "".join(f"    {line}\n" for line in block.splitlines())
    return re.sub(r"(?m)(^  expected:.*\n)(?:    .*\n)+", lambda match: match[1] + new, text, count=1)
