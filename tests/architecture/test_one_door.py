"""What has to be done with care is done in one module: processors counted, images opened, tables written."""

from __future__ import annotations

import ast
import re

import pytest

from tests.helpers.paths import ROOT

POOLS = {"ThreadPoolExecutor", "ProcessPoolExecutor", "Pool", "ThreadPool"}
# A call, and the modules that may make it.
DOORS = {
    # follows affinity, quotas of containers and cpus_per_worker
    "cpu_count process_cpu_count sched_getaffinity": {"tasks/engine/runtime.py"},
    # quotes what a spreadsheet would compute
    "to_csv": set(),
    # asks the header first, and bounds pixels, bytes and entries
    "Image.open": {
        "cnn_core/images/decoding.py",
        "cnn_core/images/reader.py",  # a header's size
        "cnn_core/annotations/checks.py",  # a header's size and orientation
        "cnn_core/detection/training/dataset.py",  # in place of what Ultralytics opens and writes anew
        "cnn_core/data/raw.py",  # what ingest has judged
        "flows/ui/artifacts.py",  # a plot of ours
    },
    "cv2.imread": {"cnn_core/images/reader.py"},
    "ZipFile tarfile.open": {"cnn_core/images/archives.py", "cnn_core/images/reader.py"},
}
FILES = [path for name in ("cnn_core", "tasks", "flows") for path in (ROOT / name).rglob("*.py")]


def calls(text: str, words: set[str]) -> list[tuple[ast.Call, str]]:
    """The calls of functions whose name, or its end, is one of ``words``."""
    if not re.search("|".join(re.escape(word.rpartition(".")[2]) for word in words), text):
        return []
    named = [(node, ast.unparse(node.func)) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [(node, name) for node, name in named if any(f".{name}".endswith(f".{word}") for word in words)]


@pytest.mark.parametrize("words", DOORS)
def test_only_the_door_calls(words: str) -> None:
    others = [path for path in FILES if path.relative_to(ROOT).as_posix() not in DOORS[words]]
    violations = [
        (str(path), name) for path in others for _, name in calls(path.read_text("utf-8"), set(words.split()))
    ]
    assert not violations


def test_every_pool_has_a_number_of_workers() -> None:
    """Without one Python takes the machine's processors."""
    pools = [(path, call) for path in FILES for call, _ in calls(path.read_text("utf-8"), POOLS)]
    assert len(pools) > 5
    assert not [
        f"{path}:{call.lineno}"
        for path, call in pools
        if not call.args and not any(keyword.arg == "max_workers" for keyword in call.keywords)
    ]


def test_the_rules_see_what_they_forbid() -> None:
    text = "with ThreadPoolExecutor() as pool:\n    os.cpu_count()\nPIL.Image.open(a)\ntable.round(5).to_csv(b)\n"
    assert [name for _, name in calls(text, POOLS)] == ["ThreadPoolExecutor"]
    assert [name for words in DOORS for _, name in calls(text, set(words.split()))] == [
        "os.cpu_count",
        "table.round(5).to_csv",
        "PIL.Image.open",
    ]
