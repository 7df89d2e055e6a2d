"""No code names a data set or a model: the demo's entries under other names run, retrain and are reported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helpers.checkouts import copy_tiny

pytestmark = [pytest.mark.xdist_group("other_names"), pytest.mark.nightly]

SETS = {"digits": "quoll", "scenes": "heron", "numbers": "newt"}
MODELS = {"digits": "tapir", "scenes": "okapi", "detector": "egret", "segmenter": "civet"}
SET_SECTIONS = ("sample", "ingest", "augment", "compose")


def renamed(params: dict) -> dict:
    """The parameters with every entry under another name, and every path and reference that leads to one."""
    entries = {
        section: {(SETS if section in SET_SECTIONS else MODELS)[name]: entry for name, entry in content.items()}
        for section, content in params.items()
        if section not in ("report", "study")
    }
    expected = {MODELS[name]: metrics for name, metrics in params["report"]["expected"].items()}
    study = params["study"]
    text = yaml.safe_dump({**entries, "study": study, "report": {**params["report"], "expected": expected}})
    for folders, names in (("sources raw augmented composed", SETS), ("models predictions", MODELS)):
        for folder in folders.split():
            for former, name in names.items():
                text = re.sub(rf"data/{folder}/{former}(?=[-/\s]|$)", f"data/{folder}/{name}", text)
    text = re.sub(rf"(\n    data: )({'|'.join(SETS)})\n", lambda match: f"{match[1]}{SETS[match[2]]}\n", text)
    return yaml.safe_load(text)


def test_the_demo_runs_under_other_names(tmp_path: Path, run: Callable, repository: Path) -> None:
    root = copy_tiny(tmp_path / "checkout", run, repository)
    params = renamed(yaml.safe_load((root / "params.yaml").read_text()))
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    graph = (root / "dvc.yaml").read_text()
    graph = graph[: graph.index("\nplots:\n")] + "\n"
    (root / "dvc.yaml").write_text(graph)
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "renamed", cwd=root)

    run("gridflow", "run", cwd=root, timeout=2500)
    assert "up to date" in run("dvc", "status", cwd=root).stdout
    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    former = {f"@{name}" for name in (*SETS, *MODELS)}
    assert not [stage for stage in lock if f"@{stage.partition('@')[2]}" in former]
    assert {stage.partition("@")[2] for stage in lock} == {*SETS.values(), *MODELS.values(), ""}
    words = "|".join({*SETS, *MODELS})
    made = [path.relative_to(root).as_posix() for path in (root / "data").rglob("*")]
    parts = [part for path in made for part in re.split(r"[/.-]", path) if not path.startswith("data/sources/")]
    # read's own table is called digits.parquet
    assert [part for part in parts if re.fullmatch(words, part) and part != "digits"] == []
    page = (root / "data/reports/index.html").read_text()
    keys = set(re.findall(r'data-(?:metric|param|table|gallery|confusion)="([^"]+)"', page))
    names = {key for key in keys if re.search(rf"[-.@/]({words})(?=[-.:/]|$)", key) and not key.startswith("study.")}
    assert names == set()
    for name in MODELS.values():
        assert f'id="model-{name}"' in page
    assert "Parts are missing" not in page
    summary = run("gridflow", "summary", cwd=root).stdout
    assert "okapi recognised" in summary
    listed = {one["name"]: one["models"] for one in json.loads(run("gridflow", "sets", "--json", cwd=root).stdout)}
    assert {name: sorted(models) for name, models in listed.items()} == {
        "quoll": ["civet", "egret", "tapir"], "heron": ["okapi"],
    }  # fmt: skip

    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "a run", cwd=root)
    for name in MODELS.values():
        run("gridflow", "champions", "promote", name, "--reason", "first", cwd=root)
    changes = ("--set", "train.tapir.epochs=3", "--set", "train_detector.egret.lr0=0.002")
    for model, change in (("tapir", changes[:2]), ("egret", changes[2:])):
        printed = run("gridflow", "retrain", model, *change, cwd=root, timeout=1500).stdout
        assert "kept" in printed or "promoted" in printed, printed
    listing = run("gridflow", "champions", "list", cwd=root).stdout
    assert all(name in listing for name in MODELS.values())
    assert not re.search(rf"\b({words})\b", listing)
