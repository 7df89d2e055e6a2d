"""``dvc.yaml``, ``params.yaml`` and the modules in ``tasks/`` agree: the name, the parameters, the dependencies."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
import yaml
from imports import project_files

from cnn_core.classification.architectures.registry import ARCHITECTURES
from tasks.check import faults

ROOT = Path(__file__).resolve().parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
# How a stage talks and finds its machine: a change there changes no result, and must not make every stage stale.
NO_RESULT = {
    "cnn_core/__init__.py",
    "cnn_core/params.py",
    "cnn_core/devices.py",
    "cnn_core/classification/architectures/registry.py",  # the list of networks; a stage that trains depends on its own network's module
    "tasks/__init__.py",
    "tasks/engine/events.py",
    "tasks/engine/cluster.py",
    "tasks/engine/resources.py",
    "tasks/engine/runtime.py",
    "tasks/engine/state.py",
    "tasks/engine/distributed.py",
    "tasks/engine/story.py",
    "tasks/engine/streaming.py",
    "tasks/engine/parts.py",
    "tasks/engine/workers.py",
}


NETWORK = "cnn_core/${item.model.architecture}.py"


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


@pytest.mark.parametrize("stage", STAGES)
def test_the_deps_cover_what_the_module_imports_and_no_more(stage: str) -> None:
    module = ROOT / "tasks" / f"{stage}.py"
    files = {
        str(path.relative_to(ROOT))
        for path in project_files(ROOT, module, leaves={"cnn_core/classification/architectures/registry.py"})
    }
    code = {dep for dep in body(stage)["deps"] if dep.endswith(".py")}
    assert code - {NETWORK} == files - NO_RESULT


def test_training_depends_on_its_networks_module_which_bears_its_name() -> None:
    assert NETWORK in body("train")["deps"]
    for name, architecture in ARCHITECTURES.items():
        assert architecture().build.__module__ == f"cnn_core.{name}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tells_the_flow_its_weight_and_its_retries(stage: str) -> None:
    assert body(stage)["meta"].keys() == {"retries", "cpus"}
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
        (("sample", "faces", "seed", 0), "sample.faces is not a data set that sample knows; it knows digits, scenes"),
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
