"""The rules of the architecture, as tests: who imports whom, and that an import does no work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from imports import LAYERS, imported, project_files

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "flows": {"torch", "torchvision", "ultralytics"},
    "tasks": {"prefect", "dvc", "flows"},
    "cnn_core": {"prefect", "dvc", "ray", "flows", "tasks", "mlxtend"},
}
ONLY_DVC = {"flows/repository/graph.py", "flows/repository/parameters.py", "flows/repository/workspace.py"}
ADAPTERS = ("cnn_core/yolo", "cnn_core/sam", "cnn_core/engines", "cnn_core/fetch_yolo")
# Made of Ultralytics' parts, and importing those writes a file of settings: imported after yolo.quiet only.
AFTER_QUIET = {f"cnn_core/yolo_{name}.py" for name in ("dataset", "inference", "trainer")}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots & FORBIDDEN[layer] == set()


def test_dvc_is_imported_in_three_files_only() -> None:
    users = {str(path.relative_to(ROOT)) for path in FILES if any(n.split(".")[0] == "dvc" for n in imported(path))}
    assert users == ONLY_DVC


def test_ultralytics_is_imported_behind_its_adapters_only() -> None:
    users = {str(path.relative_to(ROOT)) for path in FILES if any(n.startswith("ultralytics") for n in imported(path))}
    assert {user for user in users if not user.startswith(ADAPTERS)} == set()
    eager = {
        user for user in users if any(n.startswith("ultralytics") for n in imported(ROOT / user, top_level_only=True))
    }
    assert eager <= AFTER_QUIET


def test_flows_reach_no_torch_through_what_they_import() -> None:
    """Import time matters in the UI's worker: not even through tasks."""
    for path in (ROOT / "flows").glob("*.py"):
        for reached in project_files(ROOT, path):
            top = {name.split(".")[0] for name in imported(reached, top_level_only=True)}
            assert top & {"torch", "torchvision", "ultralytics", "ray"} == set(), f"{path} reaches {reached}"


@pytest.mark.slow
def test_an_import_does_no_work(tmp_path: Path) -> None:
    """Importing every module writes no file, prints nothing and starts no process, wherever it happens."""
    names = [path.relative_to(ROOT) for path in FILES]
    modules = [".".join(name.with_suffix("").parts) for name in names if str(name) not in AFTER_QUIET]
    code = (
        "import importlib, os, psutil, sys, threading\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        "assert not psutil.Process().children(recursive=True)\n"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=work, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert list(work.iterdir()) == []
