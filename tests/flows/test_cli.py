"""The command `gridflow`: its launcher, its help, its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import QUIET, app

pytestmark = pytest.mark.xdist_group("cli")

COMMANDS = (
    *(
        ["run"],
        ["fetch"],
        ["predict"],
        ["export"],
        ["compare"],
        ["summary"],
        ["retrain"],
        ["batch"],
        ["inbox"],
        ["ui"],
        ["clean"],
        ["new"],
        ["drop"],
        ["sets"],
        ["migrate"],
        ["detect"],
        ["segment"],
    ),
    *(["champions"], *(["champions", name] for name in ("list", "show", "fetch", "promote", "rollback"))),
)
HEAVY = ("prefect", "dvc", "torch", "ray", "pandas", "ultralytics")


def test_every_subcommand_is_listed_below() -> None:
    result = CliRunner().invoke(app, ["--help"])
    listed = [line.split()[0] for line in result.output.partition("Commands:\n")[2].splitlines()]
    assert set(listed) == {command[0] for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_subcommands_help_says_what_it_does(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_help_imports_nothing_that_takes_seconds(repository: Path) -> None:
    code = f"import sys, flows.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_that_the_command_starts_phones_home(repository: Path) -> None:
    """Nor does Prefect print how to switch that off, which it does in a terminal while it is on."""
    code = (
        "import os, flows.cli; flows.cli.app = lambda **_: None; flows.cli.main()\n"
        "from prefect._internal.analytics.enabled import is_telemetry_enabled\n"
        "from prefect.settings import get_current_settings\n"
        "print(is_telemetry_enabled(), get_current_settings().server.analytics_enabled)"
    )
    kept = {key: value for key, value in os.environ.items() if key not in (*QUIET, "CI", "GITHUB_ACTIONS")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=kept, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
    for file in ("Makefile", "deploy/Containerfile", "deploy/systemd/gridflow-worker.service"):
        assert [name for name in QUIET if name not in (repository / file).read_text()] == []


@pytest.mark.parametrize(
    "module", ["flows.ui.heartbeats", "tasks.report", "tasks.sample", "tasks.check", "tasks.inbox"]
)
def test_a_modules_help_does_nothing_else(module: str, repository: Path, tmp_path: Path) -> None:
    """Outside a checkout, without a server: whatever it did would fail."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(repository)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--name", "mine"], "add --isolated"),
        (["retrain", "cats"], "there is no model 'cats'; there are digits, scenes, detector, segmenter"),
        (["compare", "main", "--json", "--markdown"], "exclude each other"),
        (["retrain", "digits", "--alpha", "2"], "should be less than or equal to 1"),
        (["champions", "crown", "digits"], "No such command 'crown'"),
        (["predict", "data/models/digits"], "Missing argument"),
        (["clean", "--project", "."], "goes with --older-than"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_message_and_2(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("words", "module", "arguments"),
    [
        (
            ["predict", "--out", "o", "--top", "2", "--", "m", "a.png", "-b.png"],
            "cnn_core.predict",
            ["--top=2", "--tta=1", "--csv=o/predictions.csv", "--", "m", "a.png", "-b.png"],
        ),
        (["export", "m", "m.pt2"], "cnn_core.export", ["--", "m", "m.pt2"]),
    ],
    ids=["predict", "export"],
)
def test_a_models_module_takes_the_commands_place(
    words: list[str], module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flows import no torch."""
    started: list[list[str]] = []
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(os, "execv", lambda _file, command: started.append(command))
    CliRunner().invoke(app, words)
    assert started == [[sys.executable, "-m", module, *arguments]]


def test_the_command_runs_the_code_of_the_checkout_around_it(run: Callable, repository: Path, tmp_path: Path) -> None:
    """In any folder of a checkout its own code; elsewhere that of PYTHONPATH, else the environment's checkout."""
    (tmp_path / "other" / "flows").mkdir(parents=True)
    (tmp_path / "other" / "flows" / "cli.py").write_text("def main():\n    print(__file__)\n")
    (tmp_path / "other" / "flows" / "__init__.py").touch()
    (tmp_path / "other" / "docs").mkdir()
    for folder in ("other", "other/docs"):
        done = run("gridflow", cwd=tmp_path / folder, PYTHONPATH=str(repository))
        assert done.stdout.strip() == str(tmp_path / "other" / "flows" / "cli.py")
    assert "Usage: gridflow" in run("gridflow", "--help", cwd=tmp_path, PYTHONPATH=str(repository)).stdout


def test_make_writes_the_command_into_the_environment(run: Callable, repository: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "flows"):
        (tmp_path / name).symlink_to(repository / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / ".ready").touch()
    done = run("make", "--no-print-directory", "install", cwd=tmp_path)
    assert ".venv/bin/gridflow" in done.stdout.splitlines()[-1]
    command = tmp_path / ".venv" / "bin" / "gridflow"
    assert command.read_text().splitlines()[0] == f"#!{tmp_path}/.venv/bin/python"
    assert os.access(command, os.X_OK)


def test_a_person_outside_a_checkout_is_told(run: Callable, repository: Path, tmp_path: Path) -> None:
    for words, code in ((["run"], 2), (["champions", "list"], 1)):
        done = run("gridflow", *words, cwd=tmp_path, code=code, PYTHONPATH=str(repository))
        assert done.stderr.startswith(f"error: {tmp_path} is not inside a Gridflow checkout")
        assert len(done.stderr.splitlines()) == 1
