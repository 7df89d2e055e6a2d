"""Preparing a run: parameters, graph and inputs are those of the moment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.execution.prepare import RunRequest, prepare

COUNTED = """
from flows import pipeline as module

prepare, calls = module.prepare, []
module.prepare = lambda *arguments: calls.append(arguments) or prepare(*arguments)
assert module.run_pipeline(module.RunRequest(stages=("first",))) == 0
print("prepared", len(calls), "times")
"""


def test_a_second_preparation_in_one_process_sees_what_has_changed_since(small: Path, run: Callable) -> None:
    request, committed = RunRequest(overrides=("report.title=mine",)), (small / "params.yaml").read_text()
    for _ in range(2):
        sentences: list[str] = []
        nodes = prepare(small, request, say=sentences.append)
        assert "  report.title: small -> mine" in sentences
        assert "title: mine" in (small / "params.yaml").read_text()
        assert all(node.stale for node in nodes)
        (small / "params.yaml").write_text(committed)
    run("dvc", "repro", "-q", cwd=small)
    assert not any(node.stale for node in prepare(small, RunRequest()))
    (small / "right.flag").write_text("up")
    assert {node.name for node in prepare(small, RunRequest()) if node.stale} == {"right"}


def test_results_that_are_here_need_no_source_that_is_not(small: Path, run: Callable) -> None:
    """As in a second clone, which pulls the results and has no folder of that name."""
    run("dvc", "repro", "-q", cwd=small)
    source = (small / "source.txt").read_text()
    (small / "source.txt").unlink()
    sentences: list[str] = []
    assert not any(node.stale for node in prepare(small, RunRequest(), say=sentences.append))
    assert sentences == ["first: source.txt is not here; the stage's results are, and are used"]
    (small / "right.flag").write_text("up")
    assert {node.name for node in prepare(small, RunRequest()) if node.stale} == {"right"}
    (small / "first.txt").unlink()  # then there is nothing to go on with
    with pytest.raises(ValueError, match=r"source\.txt"):
        prepare(small, RunRequest())
    (small / "source.txt").write_text(source + "more")
    assert "first" in {node.name for node in prepare(small, RunRequest()) if node.stale}


def test_a_folder_of_results_into_which_no_stage_writes_is_made(small: Path) -> None:
    """As where entries only use weights: nothing is ingested and nothing trained, and the report reads all folders."""
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(text.replace("deps: [source.txt]", "deps: [source.txt, data/raw, data/plots]"))
    prepare(small, RunRequest())
    assert sorted(path.name for path in (small / "data").iterdir()) == ["plots", "raw"]
    (small / "dvc.yaml").write_text(text.replace("deps: [source.txt]", "deps: [source.txt, data/sources]"))
    with pytest.raises(ValueError, match="first needs data/sources, which does not exist"):
        prepare(small, RunRequest())


@pytest.mark.parametrize("fault", ["an input is missing", "a stage is unknown", "a value is not allowed"])
def test_what_is_refused_leaves_the_parameters_as_they_were(small: Path, fault: str) -> None:
    committed, sentences = (small / "params.yaml").read_bytes(), []
    overrides, stages = ["report.title=mine"], ()
    if fault == "an input is missing":
        (small / "source.txt").unlink()
    elif fault == "a stage is unknown":
        stages = ("frist",)
    else:
        overrides.append("report.answers=-1")
    with pytest.raises(ValueError, match=r"source\.txt|frist|answers"):
        prepare(small, RunRequest(overrides=tuple(overrides), stages=stages), say=sentences.append)
    assert (small / "params.yaml").read_bytes() == committed
    assert sentences == []
    assert not list(small.glob(".params*"))


@pytest.mark.xdist_group("pipeline")
def test_the_flow_takes_what_the_command_has_prepared(
    small: Path, run: Callable, repository: Path, server: str
) -> None:
    done = run("python", "-c", COUNTED, cwd=small, PYTHONPATH=str(repository), PREFECT_API_URL=server)
    assert done.stdout.splitlines()[-1] == "prepared 1 times"
    assert (small / "first.txt").read_text() == "source1"


def test_a_file_whose_name_is_not_utf8_is_named_before_the_run(small: Path) -> None:
    """DVC cannot keep it."""
    source = small / "source"
    source.mkdir()
    for number in range(100):
        (source / f"{number}.jpg").write_bytes(b"")
    (source / "sub").mkdir()
    (source / "sub" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(text.replace("deps: [source.txt]", "deps: [source.txt, source]"))
    with pytest.raises(ValueError, match=r"not UTF-8: .*source/sub/caf\\xe9\.jpg\. Rename it"):
        prepare(small, RunRequest())
