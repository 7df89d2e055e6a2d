"""``dvc.yaml``, ``params.yaml`` and the modules in ``tasks/`` agree: the name, the parameters, the dependencies."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml

from cnn_core.classification.architectures.registry import ARCHITECTURES
from tasks.check import faults
from tests.helpers.imports import project_files
from tests.helpers.paths import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
REGISTRY = "cnn_core/classification/architectures/registry.py"
# How a stage runs, and the list of networks: a change there changes no result, and must not make every stage stale.
NO_RESULT = ("tasks/engine/", "cnn_core/params.py", "cnn_core/locks.py", REGISTRY)
NETWORK = "cnn_core/classification/architectures/${item.model.architecture}.py"
TRAINING = ("pretrain", "train", "train_detector", "train_segmenter")


def body(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_its_module_and_its_section_bear_one_name(stage: str) -> None:
    assert body(stage)["cmd"].split()[:3] == ["python", "-m", f"tasks.{stage}"]
    assert stage in PARAMS
    module = importlib.import_module(f"tasks.{stage}")
    classes = module.PARAMS.values() if isinstance(module.PARAMS, dict) else [module.PARAMS]
    assert all(map(dataclasses.is_dataclass, classes))
    assert callable(module.main)


def reached_modules(stage: str) -> set[str]:
    """The modules that decide a stage's result: what its own module imports, directly or through others."""
    files = project_files(ROOT, ROOT / "tasks" / f"{stage}.py", leaves={REGISTRY})
    names = {str(path.relative_to(ROOT)) for path in files}
    return {name for name in names if not name.startswith(NO_RESULT) and not name.endswith("__init__.py")}


def code_dependencies(stage: str) -> set[str]:
    """The files and folders of code among a stage's ``deps``."""
    return {dep for dep in body(stage)["deps"] if dep.startswith(("tasks/", "cnn_core/"))} - {NETWORK}


def is_under(module: str, dep: str) -> bool:
    return module == dep or module.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_reaches_lies_under_one_of_its_deps(stage: str) -> None:
    deps = code_dependencies(stage)
    assert {name for name in reached_modules(stage) if not any(is_under(name, dep) for dep in deps)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_every_code_dep_of_a_stage_is_reached(stage: str) -> None:
    reached = reached_modules(stage)
    assert all((ROOT / dep).exists() for dep in code_dependencies(stage))
    assert {dep for dep in code_dependencies(stage) if not any(is_under(name, dep) for name in reached)} == set()


@pytest.mark.parametrize("stage", TRAINING)
def test_a_folder_that_a_training_depends_on_holds_only_what_it_reaches(stage: str) -> None:
    reached = reached_modules(stage)
    for folder in (ROOT / dep for dep in code_dependencies(stage) if (ROOT / dep).is_dir()):
        modules = {str(path.relative_to(ROOT)) for path in folder.rglob("*.py") if path.name != "__init__.py"}
        assert modules <= reached, f"{folder} makes {stage} stale for nothing"


def test_training_depends_on_its_networks_module_which_bears_its_name() -> None:
    assert NETWORK in body("train")["deps"]
    for name, architecture in ARCHITECTURES.items():
        assert architecture().build.__module__ == f"cnn_core.classification.architectures.{name}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tells_the_flow_its_weight_and_its_retries(stage: str) -> None:
    assert {"retries", "cpus"} <= body(stage)["meta"].keys() <= {"retries", "cpus", "role", "task"}
    assert body(stage)["desc"]


def test_params_and_dataclasses_agree() -> None:
    assert list(faults(ROOT / "params.yaml")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("train", "digits", "epochs", 0), "train.digits.epochs must be at least 1"),
        (("train", "digits", "epochs", "many"), "train.digits.epochs must be a whole number, not 'many'"),
        (("train", "digits", "epocs", 3), "train.digits.epocs is not a parameter; did you mean train.digits.epochs?"),
        (("train", "digits", "optimizer", "lion"), "train.digits.optimizer must be one of adamw, sgd"),
        (("ingest", "digits", "val_fraction", float("nan")), "ingest.digits.val_fraction must be greater than 0"),
        (("tain", "digits", "x", 3), "tain is not a stage; did you mean train?"),
        (("sample", "faces", "seed", 0), "sample.faces.content must be one of handwritten_digits, generated_scenes"),
    ],
)
def test_a_bad_value_is_named_in_full_with_what_is_allowed(tmp_path: Path, change: tuple, words: str) -> None:
    *path, key, value = change
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    node = content
    for part in path:
        node = node.setdefault(part, {})
    node[key] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    assert any(words in fault for fault in faults(file)), list(faults(file))


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    del content["train"]["digits"]["seed"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert list(faults(tmp_path / "params.yaml")) == ["train.digits.seed is missing"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_loads_torch_late_bounds_its_threads_there(stage: str) -> None:
    """Of a stage that loads it on import `run_stage` bounds them (tests/tasks/engine/test_events.py)."""
    tree = ast.parse((ROOT / "tasks" / f"{stage}.py").read_text())
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        imports = [name.name for node in ast.walk(function) if isinstance(node, ast.Import) for name in node.names]
        if "torch" in imports:
            assert "torch.set_num_threads(" in ast.unparse(function)
