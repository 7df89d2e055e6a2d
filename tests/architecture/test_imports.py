"""The rules of the architecture (docs/architecture.md): who imports whom, and that an import does no work."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import networkx as nx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.imports import LAYERS, imported, project_files
from tests.helpers.paths import ROOT

FORBIDDEN = {
    "flows": {"torch", "torchvision", "ultralytics", "ray"},
    "tasks": {"prefect", "dvc", "flows"},
    "cnn_core": {"prefect", "dvc", "ray", "flows", "tasks", "mlxtend"},
}
# The first level of cnn_core: a row imports from the rows above it; only the foundations use each other.
LEVELS = (
    "params files locks markdown seeds devices distributed optimization",
    "annotations classification model_card",
    "images drawing lecture",
    "data detection",
    "segmentation reading synthetic reporting inbox downloads",
    "predict export comparison study",
)
LEVEL_OF = {name: level for level, row in enumerate(LEVELS) for name in row.split()}
USERS_OF_ULTRALYTICS = ("cnn_core/detection/", "cnn_core/segmentation/", "cnn_core/downloads/")
# Made of Ultralytics' parts, and importing those writes a file of settings: imported after yolo.quiet only.
AFTER_QUIET = {
    "cnn_core/detection/inference/steps.py",
    "cnn_core/detection/training/dataset.py",
    "cnn_core/detection/training/trainer.py",
}
MODULES_IN_A_FOLDER = 14
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def import_graph() -> nx.DiGraph:
    """Modules of the project as nodes; an edge points from a module to one that it imports, anywhere in it."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    edges = [(name, other) for name, path in modules.items() for other in imported(path) if other in modules]
    return nx.DiGraph([edge for edge in edges if edge[0] != edge[1]])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down_only(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots & FORBIDDEN[layer] == set()


def test_every_package_that_is_imported_is_declared() -> None:
    """Not brought along by another package, whose next version may do without it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    providers = packages_distributions()
    roots = {name.split(".")[0] for path in FILES for name in imported(path)} - sys.stdlib_module_names - {*LAYERS}
    missing = {name for name in roots if not declared & {*map(canonicalize_name, providers.get(name, []))}}
    assert missing == set()


def test_the_folders_of_cnn_core_import_in_their_order() -> None:
    def first_level(module: str) -> str:
        return module.split(".")[1]

    edges = [edge for edge in import_graph().edges if all(name.startswith("cnn_core.") for name in edge)]
    between = [(user, used) for user, used in edges if first_level(user) != first_level(used)]
    upwards = [
        f"{user} imports {used}"
        for user, used in between
        if LEVEL_OF[first_level(used)] >= LEVEL_OF[first_level(user)] > 0
        or LEVEL_OF[first_level(used)] > LEVEL_OF[first_level(user)]
    ]
    assert upwards == []


def test_no_file_imports_in_a_circle() -> None:
    assert [sorted(circle) for circle in nx.strongly_connected_components(import_graph()) if len(circle) > 1] == []


def test_dvc_is_imported_in_the_repositorys_folder_only() -> None:
    users = {name_of(path) for path in FILES if any(name.split(".")[0] == "dvc" for name in imported(path))}
    assert users
    assert {user for user in users if not user.startswith("flows/repository/")} == set()


def test_ultralytics_is_imported_by_its_three_folders_only() -> None:
    users = {name_of(path) for path in FILES if any(name.startswith("ultralytics") for name in imported(path))}
    assert users
    assert {user for user in users if not user.startswith(USERS_OF_ULTRALYTICS)} == set()
    eager = {
        user for user in users if any(n.startswith("ultralytics") for n in imported(ROOT / user, top_level_only=True))
    }
    assert eager <= AFTER_QUIET


def test_flows_reach_no_torch_through_what_they_import() -> None:
    """Import time matters in the UI's worker: not even through tasks."""
    for path in (ROOT / "flows").rglob("*.py"):
        for reached in project_files(ROOT, path):
            top = {name.split(".")[0] for name in imported(reached, top_level_only=True)}
            assert top & {"torch", "torchvision", "ultralytics", "ray"} == set(), f"{path} reaches {reached}"


def test_modules_of_parameters_load_no_torch() -> None:
    """A process that only reads parameters (`tasks.check`, the driver of a stage) must not wait for torch."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.name == "params.py"]
    code = f"import {', '.join(names)}, sys; print(*sorted({{'torch', 'ray', 'ultralytics'}} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_no_folder_holds_more_modules_than_a_reader_takes_in() -> None:
    folders = {path.parent for path in FILES} - {ROOT / "tasks"}  # a module a stage
    counts = {name_of(folder): len([*folder.glob("*.py")]) - 1 for folder in folders}  # without __init__.py
    assert {folder: count for folder, count in counts.items() if count > MODULES_IN_A_FOLDER} == {}


def test_the_tests_mirror_the_packages() -> None:
    tests = {
        path.parent.relative_to(ROOT / "tests")
        for layer in LAYERS
        for path in (ROOT / "tests" / layer).rglob("test_*.py")
    }
    assert tests
    assert {str(folder) for folder in tests if not (ROOT / folder).is_dir()} == set()


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
