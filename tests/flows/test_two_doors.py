"""One graph, two doors: on the tiny recipe, ``dvc repro`` and the flow know each other's work.

The copy of this checkout is made and run once; each test changes one thing, looks, and leaves it up to date again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.xdist_group("pipeline")  # all that use the run of the tiny recipe, which is made once

STAGES = 25


@pytest.fixture
def flow(checkout: Path, run: Callable, server: str) -> Callable:
    def call(*arguments: str, code: int | None = 0) -> str:
        done = run("gridflow", "run", *arguments, cwd=checkout, code=code, PREFECT_API_URL=server)
        return done.stdout + done.stderr

    return call


def states(text: str) -> dict[str, str]:
    """The stages of the flow's closing table and how each ended."""
    lines = text[text.index("stage    ") :].splitlines()[1 : STAGES + 1]
    return {line.split()[0]: line.split()[1] for line in lines}


def is_clean(checkout: Path, run: Callable) -> bool:
    return "Data and pipelines are up to date." in run("dvc", "status", cwd=checkout).stdout


def test_after_dvc_repro_the_flow_finds_nothing_to_do(checkout: Path, run: Callable, flow: Callable) -> None:
    assert set(states(flow()).values()) == {"cached"}
    assert is_clean(checkout, run)
    alone = run("gridflow", "run", cwd=checkout)  # no server is named, and none is started
    assert set(states(alone.stdout).values()) == {"cached"}
    assert "server" not in alone.stdout + alone.stderr
    tracked = run("git", "status", "--porcelain", cwd=checkout).stdout.split()
    assert tracked == ["??", "dvc.lock"]  # a run leaves nothing else for git to see


def test_the_results_are_whole(checkout: Path) -> None:
    submission = pd.read_csv(checkout / "data/predictions/digits/submission.csv")
    assert list(submission.columns) == ["ImageId", "Label"]
    assert submission["ImageId"].tolist() == list(range(1, 501))
    assert submission["Label"].between(0, 9).all()
    assert json.loads((checkout / "data/metrics/evaluate-digits.json").read_text())["accuracy"] > 0.5
    assert "test images" in (checkout / "data/reports/index.html").read_text()


def test_a_parameter_runs_only_what_it_touches_and_either_door_knows(
    checkout: Path, run: Callable, flow: Callable
) -> None:
    said = flow("--set", "evaluate.digits.worst=5")
    ended = states(said)
    assert {name for name, state in ended.items() if state == "done"} == {"evaluate@digits", "report"}
    (page,) = re.findall(r"this run +(\S+report\.html)", said)
    before = (checkout / page).read_text().partition('class="verdict"')[0]
    assert "evaluate.digits.worst" in before
    assert "failed" not in before
    assert "up to date" in run("dvc", "repro", cwd=checkout).stdout
    run("git", "checkout", "params.yaml", cwd=checkout)
    run("dvc", "repro", cwd=checkout)  # from the run cache
    assert set(states(flow()).values()) == {"cached"}


def test_a_new_stage_or_parameter_makes_no_other_stage_stale(checkout: Path, run: Callable) -> None:
    texts = {name: (checkout / name).read_text() for name in ("params.yaml", "dvc.yaml")}
    pipeline, params = yaml.safe_load(texts["dvc.yaml"]), yaml.safe_load(texts["params.yaml"])
    pipeline["stages"]["study"] = {"cmd": "echo", "deps": ["LICENSE"], "params": ["study.depth"]}
    params["study"] = {"depth": 3}
    params["predict"]["letters"] = {"weights": "LICENSE", "source": "README.md", "tta": 1}
    (checkout / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    try:
        status = json.loads(run("dvc", "status", "--json", cwd=checkout).stdout)
    finally:
        for name, text in texts.items():
            (checkout / name).write_text(text)
    assert "study" in status
    assert set(status) <= {"study", "predict@letters", "report"}


@pytest.mark.parametrize(
    ("parameter", "target", "words"),
    [
        (
            "ingest.digits.source=nowhere/to be/found",
            "predict@digits",
            ["the parameter ingest.digits.source", "gridflow fetch"],
        ),
        (
            "detect.detector.weights=yolo11n.pt",
            "detect@detector",
            ["gridflow fetch yolo11n.pt", "--set detect.detector.weights=data/weights/yolo11n.pt"],
        ),
    ],
    ids=["source", "weights"],
)
def test_what_is_missing_is_said_before_anything_is_deleted(
    checkout: Path, run: Callable, flow: Callable, parameter: str, target: str, words: list[str]
) -> None:
    said = flow("--set", parameter, target, code=2)
    run("git", "checkout", "params.yaml", cwd=checkout)
    assert [word for word in words if word not in said] == []
    assert is_clean(checkout, run)


def test_files_of_ones_own_where_the_sample_goes_are_not_deleted(checkout: Path, run: Callable, flow: Callable) -> None:
    mine = checkout / "data/sources/digits/train.csv"
    sample = mine.read_bytes()
    mine.unlink()  # a link into DVC's cache, perhaps
    mine.write_text("label,pixel0\n1,2\n")
    said = flow("--set", "sample.digits.seed=1", code=2)
    assert "Move them to another folder and name that folder with `--set ingest.digits.source=PATH`" in said
    assert mine.read_text() == "label,pixel0\n1,2\n"
    mine.write_bytes(sample)
    run("git", "checkout", "params.yaml", cwd=checkout)
    assert is_clean(checkout, run)


def test_bad_input_is_one_sentence_and_the_former_outputs_come_back(
    checkout: Path, run: Callable, flow: Callable, tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("label,pixel0\n1,2\n")
    before = (checkout / "data/raw/digits/manifest.json").read_bytes()
    said = flow("--set", f"ingest.digits.source={tmp_path}", "predict@digits", code=1)
    run("git", "checkout", "params.yaml", cwd=checkout)
    assert "ingest@digits failed (user): " in said
    assert "Traceback" not in said
    assert (checkout / "data/raw/digits/manifest.json").read_bytes() == before
    assert is_clean(checkout, run)


def test_ones_own_source_needs_no_sample(checkout: Path, run: Callable) -> None:
    from flows.repository.graph import read_graph

    source = checkout / "data/sources/mine"
    shutil.copytree(checkout / "data/sources/digits", source)
    run("gridflow", "run", "--set", f"ingest.digits.source={source}", "--check", cwd=checkout)
    names = [node.name for node in read_graph(checkout, ["predict@digits"])]
    run("git", "checkout", "params.yaml", cwd=checkout)
    shutil.rmtree(source)
    assert names == ["ingest@digits", "augment@digits", "train@digits", "predict@digits"]


def test_detection_with_ones_own_weights_and_images_trains_nothing(checkout: Path, run: Callable) -> None:
    from flows.repository.graph import read_graph

    shutil.copy(checkout / "data/models/detector/model.pt", checkout / "mine.pt")
    changes = ("--set", f"detect.detector.weights={checkout}/mine.pt", "--set", "detect.detector.source=docs")
    run("gridflow", "run", *changes, "--check", cwd=checkout)
    names = [node.name for node in read_graph(checkout, ["detect"])]
    (checkout / "mine.pt").unlink()
    run("git", "checkout", "params.yaml", cwd=checkout)
    assert names == ["detect@detector"]


def test_a_worktree_runs_its_own_code(checkout: Path, run: Callable, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    run("git", "worktree", "add", "--detach", str(tree), cwd=checkout)
    start = 'if __name__ == "__main__":\n'
    sample = tree / "tasks" / "sample.py"
    sample.write_text(sample.read_text().replace(start, f"{start}    raise SystemExit(f'this is {{__file__}}')\n"))
    try:  # what Ray's workers import is tested with the stage `train`
        done = run("dvc", "repro", "--single-item", "sample@digits", cwd=tree, code=None)
        assert f"this is {sample}" in done.stderr
    finally:
        run("git", "worktree", "remove", "--force", str(tree), cwd=checkout)
