"""The copy of this checkout that a campaign of faults works on (`bench.chaos`)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.helpers.checkouts import copy_tiny

ROOT = Path(__file__).resolve().parent.parent


def build_library(folder: Path) -> Path | None:
    """The library that fails writes; None where no C compiler is."""
    library = folder / "chaos_io.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(ROOT / "bench/chaos_io.c"), "-ldl"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(command, check=True)
        return library
    return None


def environment(folder: Path) -> dict[str, str]:
    """An environment with this checkout's command, a Prefect home, a git identity and no telemetry."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        **{f"GIT_{who}_{what}": "chaos@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }


def switch_of(root: Path, stage: str) -> Path:
    """The file that the stage depends on in the copy: another text in it makes this stage stale, and no other."""
    return root / "switches" / f"{stage}.txt"


def add_switches(root: Path) -> None:
    """Let each stage of the copy's dvc.yaml depend on a file of its own."""
    definition = yaml.safe_load((root / "dvc.yaml").read_text())
    params = yaml.safe_load((root / "params.yaml").read_text())
    for name, stage in definition["stages"].items():
        each = "do" in stage
        stage.get("do", stage)["deps"].append(f"switches/{name}@${{key}}.txt" if each else f"switches/{name}.txt")
        for key in params[name] if each else [""]:
            switch = switch_of(root, f"{name}@{key}" if each else name)
            switch.parent.mkdir(exist_ok=True)
            switch.write_text("0\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))


def prepare(folder: Path) -> Path:
    """Copy this checkout with the tiny recipe, give it a remote, and run every stage once."""
    root = folder / "checkout"
    root.mkdir()
    env = environment(folder)

    def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=cwd, env=env, text=True, check=True, stdout=subprocess.PIPE)

    copy_tiny(root, run, ROOT)
    add_switches(root)
    run("dvc", "remote", "add", "near", str(folder / "remote"), cwd=root)
    print("Running every stage once, with the recipe tiny ...", flush=True)
    run("dvc", "repro", "--quiet", cwd=root)
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "--quiet", "--message", "A run", cwd=root)
    return root
