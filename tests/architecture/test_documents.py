"""What the documents print is there: commands with their options and parameters, targets of make, files, links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cnn_core.params import flatten
from flows.cli import app
from tests.helpers.paths import ROOT

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(r"(?:^|[`\s/])(?<!--namespace )gridflow ((?:\\\n|[^`\n])+)", re.MULTILINE)
PARAMETERS = {key for key, _ in flatten(yaml.safe_load((ROOT / "params.yaml").read_text()))}
RECIPES = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
MADE = {"study/dvc.yaml"}  # by `make study`
FOLDERS = r"(?:cnn_core|tasks|flows|tests|bench|deploy|docs|recipes|study)"


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def text(request: pytest.FixtureRequest) -> str:
    return request.param.read_text()


def commands(text: str) -> list[list[str]]:
    """The words of every `gridflow …`, without the comment behind it and the brackets of what may be left out."""
    printed = []
    for match in COMMAND.finditer(text):
        line = re.sub(r"\s#.*", "", match[1].replace("\\\n", " ")).translate(str.maketrans("[]()", "    "))
        words = line.rstrip(".,;:").split()
        if words and words[0] in {*typer.main.get_command(app).commands, "--help"}:
            printed.append(words)
    return printed


def test_commands_have_the_options_that_are_printed(text: str) -> None:
    for words in commands(text):
        command: Any = typer.main.get_command(app)
        rest = list(words)
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, " ".join(words)
            command = command.commands[rest.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for index, word in enumerate(rest):
            if word.startswith("--") and word != "--":
                assert word.partition("=")[0] in options, " ".join(words)
            if (
                word == "--set"
                and words[0] not in ("new", "detect", "segment")
                and rest[index + 1] not in ("key=value", "KEY=VALUE")
            ):
                assert rest[index + 1].partition("=")[0] in PARAMETERS, rest[index + 1]
            if word == "--recipe":
                assert rest[index + 1] in RECIPES | {"NAME"}, rest[index + 1]


def test_parameters_that_are_set_exist(text: str) -> None:
    for key in re.findall(r"--set ([a-z_]+(?:\.[a-z_0-9]+)+)=", text):
        assert key in PARAMETERS, key


def test_targets_of_make_exist(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_and_modules_exist(text: str) -> None:
    parameters = set(
        subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\n")
    )
    for path in re.findall(rf"(?<![\w/.*-]){FOLDERS}/[\w./-]*\w", text):
        candidate = ROOT / path
        is_placeholder = any(part.isupper() for part in re.split(r"[/.]", path))
        assert is_placeholder or candidate.exists() or path in parameters | MADE, path
    for module in re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)+)", text):
        if module.partition(".")[0] in ("cnn_core", "tasks", "flows", "bench"):
            assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file(), module


def test_links_lead_somewhere(text: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", text):
        if "://" not in target:
            assert any((folder / target).exists() for folder in (ROOT, ROOT / "docs")), target


def test_the_readmes_reset_deletes_all_that_stages_make_and_nothing_else() -> None:
    (line,) = re.findall(r"^rm -rf .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    paths = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line.removeprefix('rm -rf ')}"], capture_output=True, text=True, check=True
    ).stdout.split()
    pipeline, values = (yaml.safe_load((ROOT / name).read_text()) for name in ("dvc.yaml", "params.yaml"))
    made: set[str] = set()
    for name, stage in pipeline["stages"].items():
        body = stage.get("do", stage)
        keys = list(values[name]) if "foreach" in stage else [""]
        for entry in [*body.get("outs", []), *body.get("metrics", []), *body.get("plots", [])]:
            path = entry if isinstance(entry, str) else next(iter(entry))
            made |= {path.replace("${key}", key) for key in keys}
    assert {"dvc.lock", ".dvc/cache"} <= set(paths)
    for path in made:
        assert any(Path(path).is_relative_to(one) for one in paths), path
    for path in set(paths) - {"dvc.lock", ".dvc/cache"}:
        assert any(Path(out).is_relative_to(path) for out in made), path
