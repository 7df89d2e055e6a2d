"""The protocol between a stage and its runner, tried with real stage processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tasks.engine.events import StageError, classify
from tests.helpers.paths import ROOT


def stage(body: str, *, run_dir: Path | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a stage whose main has this body."""
    code = f"from tasks.engine import events\ndef main():\n    {body}\nevents.run_stage(main)\n"
    file = cwd / "stage.py"
    file.write_text(code)
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"} | ({"GRIDFLOW_RUN_DIR": str(run_dir)} if run_dir else {})
    return subprocess.run([sys.executable, str(file)], env=env, cwd=cwd, capture_output=True, text=True, check=False)


def failure(run_dir: Path) -> dict:
    return json.loads((run_dir / "failure.json").read_text())


def test_progress_is_plain_lines_when_piped(tmp_path: Path) -> None:
    done = stage("\n    with events.progress('decode', 3) as bar: bar.update(3, images_per_s=1234.5)", cwd=tmp_path)
    assert done.stdout == "decode 3/3 images · images per s 1,234\n"
    assert done.returncode == 0


def test_progress_metrics_and_resources_are_events_under_a_runner(tmp_path: Path) -> None:
    body = "\n    with events.progress('decode', 3) as bar: bar.update(3, loss=0.5)"
    body += "\n    events.write_metrics('m.json', {'n': 1})"
    done = stage(body, run_dir=tmp_path, cwd=tmp_path)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["progress", "metrics", "resources"]
    assert (events[0]["done"], events[0]["total"], events[0]["numbers"]) == (3, 3, {"loss": 0.5})
    assert events[2]["peak_memory_bytes"] > 1_000_000
    assert done.stdout == ""
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["seconds"] > 0
    assert abs(time.time() - datetime.fromisoformat(metrics["resources"]["finished"]).timestamp()) < 60


@pytest.mark.parametrize(
    ("body", "kind", "words", "traceback"),
    [
        ("raise ValueError('train.csv is empty; put rows in it')", "bug", "ValueError: train.csv is empty", True),
        ("raise events.StageError('the node went away', 'transient')", "transient", "the node went away", False),
        ("raise MemoryError", "oom", "out of memory", False),
        ("raise OSError(28, 'No space left on device')", "user", "the disk is full", False),
        ("raise ConnectionResetError('reset')", "transient", "reset", False),
        ("[][1]", "bug", "IndexError: list index out of range", True),
    ],
)
def test_a_failure_is_told_by_kind_in_one_sentence(
    tmp_path: Path, body: str, kind: str, words: str, traceback: bool
) -> None:
    done = stage(body, run_dir=tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert failure(tmp_path)["kind"] == kind
    assert words in failure(tmp_path)["message"]
    assert ("Traceback" in done.stderr) is traceback
    assert "error: " in done.stderr


def test_the_threads_of_a_stage_are_those_of_its_worker(tmp_path: Path) -> None:
    code = "import torch\nfrom tasks.engine import events\nevents.run_stage(lambda: print(torch.get_num_threads()))"
    env = {**os.environ, "GRIDFLOW_CPUS_PER_WORKER": "1", "GRIDFLOW_RUN_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_value_error_of_our_own_code_is_the_users_to_mend() -> None:
    """The stage in the test above stands outside the project, so its ValueError is a bug; ours are sentences."""
    from cnn_core.params import read_yaml

    with pytest.raises(ValueError, match="does not exist") as caught:
        read_yaml("/nowhere/params.yaml")
    assert classify(caught.value)[0] == "user"
    with pytest.raises(ValueError, match="invalid literal") as caught:
        json.loads("[1]", parse_int=lambda _: int("x"))
    assert classify(StageError("x", "oom")) == ("oom", "x")


def test_without_a_runner_a_failure_goes_to_the_terminal(tmp_path: Path) -> None:
    done = stage("raise events.StageError('put train.csv there')", cwd=tmp_path)
    assert done.stderr == "error: put train.csv there\n"
    assert not (tmp_path / "failure.json").exists()
