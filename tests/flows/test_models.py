"""Which models a checkout has is read from its graph and its parameters: no code names one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.registry.models import find_model, learns_from_set, read_models, source_of

pytestmark = pytest.mark.xdist_group("models")

DVC_YAML = """
stages:
  compose: {foreach: '${compose}', do: {cmd: x, outs: ['data/composed/${key}']}}
  fit:
    foreach: ${fit}
    do: {cmd: x, outs: ['data/models/${key}'], meta: {role: train, task: classification}}
  judge:
    foreach: ${judge}
    do: {cmd: x, outs: [y], meta: {role: evaluate, task: classification}}
  find:
    foreach: ${find}
    do: {cmd: x, outs: ['data/models/${key}'], meta: {role: train, task: detection}}
  count:
    foreach: ${count}
    do: {cmd: x, outs: [z], meta: {role: evaluate, task: detection}}
  cut: {cmd: x, outs: [data/models/cutter], meta: {role: train, task: segmentation}}
  hold: {cmd: x, outs: [w], meta: {role: evaluate, task: segmentation}}
"""
PARAMS = """
compose: {pictures: {source: data/raw/letters/part-00000.parquet}}
fit: {quick: {data: letters}, slow: {data: letters}, leaves: {data: leaves}}
find: {finder: {source: data/composed/pictures}, empty: {source: x}}
cut: {source: data/composed/pictures}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def test_the_models_are_the_entries_of_the_stages_that_train(root: Path) -> None:
    models = read_models(root)
    assert list(models) == ["quick", "slow", "leaves", "finder", "empty", "cutter"]
    quick, finder = models["quick"], models["finder"]
    assert (quick.train, quick.evaluate, quick.folder, quick.data) == (
        "fit@quick", "judge@quick", "data/models/quick", "letters",
    )  # fmt: skip
    assert (quick.weights, quick.metrics) == ("judge.quick.weights", "data/metrics/judge-quick.json")
    assert (finder.train, finder.evaluate, finder.folder, finder.data) == (
        "find@finder",
        "count@finder",
        "data/models/finder",
        "",
    )
    with pytest.raises(ValueError, match="there is no model 'x'; there are quick, slow, leaves, finder, empty, cutter"):
        find_model(root, "x")


def test_a_model_grows_by_the_inbox_of_the_set_that_it_comes_from(root: Path) -> None:
    assert source_of(root, find_model(root, "quick")) == ("letters", "data/raw/letters")
    assert source_of(root, find_model(root, "finder"))[0] == "letters"
    assert source_of(root, find_model(root, "cutter"))[0] == "letters"
    (root / "params.yaml").write_text(PARAMS.replace("{source: data/composed/pictures}", "{source: /data/mine.json}"))
    assert source_of(root, find_model(root, "finder")) == ("", "/data/mine.json")


def test_a_set_that_is_ingested_from_composed_pictures_grows_by_the_set_they_are_composed_of(root: Path) -> None:
    changed = PARAMS.replace("{source: data/composed/pictures}", "{source: data/raw/signs}")
    (root / "params.yaml").write_text(f"{changed}ingest: {{signs: {{source: data/composed/pictures}}}}\n")
    finder = find_model(root, "finder")
    assert source_of(root, finder) == ("signs", "data/raw/signs")
    assert source_of(root, finder, origin=True) == ("letters", "data/raw/letters/part-00000.parquet")
    assert not learns_from_set(root, finder)
    (root / "params.yaml").write_text(f"{changed}ingest: {{signs: {{source: photographs}}}}\n")
    assert source_of(root, finder, origin=True) == ("signs", "data/raw/signs")
    assert learns_from_set(root, finder)


def test_a_source_that_a_persons_own_stage_makes_is_somebodys_files(root: Path) -> None:
    (root / "dvc.yaml").write_text(DVC_YAML + "  prepare: {cmd: x, outs: [data/sources/mine]}\n")
    (root / "params.yaml").write_text(f"{PARAMS}ingest: {{letters: {{source: data/sources/mine}}}}\n")
    assert source_of(root, find_model(root, "quick"), origin=True) == ("letters", "data/raw/letters")


def test_a_checkout_without_models(root: Path) -> None:
    (root / "params.yaml").write_text("fit: {}\n")
    assert list(read_models(root)) == ["cutter"]
    (root / "dvc.yaml").write_text("stages: {}\n")
    assert read_models(root) == {}
