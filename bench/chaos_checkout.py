"""The copy of this checkout that a campaign of faults works on (`bench.chaos`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.helpers.checkouts import copy_tiny

ROOT = Path(__file__).resolve().parent.parent
MADE_BY_TINY = ("params.yaml", "dvc.yaml", "dvc.lock")  # files that the copy has otherwise than this checkout


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
        "DVC_NO_ANALYTICS": "1",
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
    """Copy this checkout with the tiny recipe, give it a remote, and run every stage once.

    A copy that is there already gets the code as it is now, and runs what this made stale.
    """
    root = folder / "checkout"
    env = environment(folder)

    def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=cwd, env=env, text=True, check=True, stdout=subprocess.PIPE)

    if (root / "dvc.lock").is_file():
        _copy_code(root, run)
    else:
        root.mkdir(parents=True)
        copy_tiny(root, run, ROOT)
        add_switches(root)
        run("dvc", "remote", "add", "near", str(folder / "remote"), cwd=root)
    print("Running every stage that is stale, with the recipe tiny ...", flush=True)
    run("dvc", "repro", "--quiet", cwd=root)
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "--quiet", "--allow-empty", "--message", "A run", cwd=root)
    return root


def copy_of(checkout: Path, folder: Path, run: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """Copy a checkout of the tiny recipe whose stages have all run, with its cache, so that none has to run again.

    Args:
        run: runs a command, as the tests' fixture of this name does.
    """
    root = folder / "checkout"
    cache = run("dvc", "cache", "dir", cwd=checkout).stdout.strip()
    shutil.copytree(checkout, root, symlinks=True, ignore=shutil.ignore_patterns(".gridflow", "cache", "config.local"))
    shutil.copytree(cache, root / ".dvc/cache")
    add_switches(root)
    run("dvc", "remote", "add", "near", str(folder / "remote"), cwd=root)
    run("dvc", "commit", "--force", "--quiet", cwd=root)  # the stages' new dependencies, not what they made
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "--quiet", "--message", "A run", cwd=root)
    return root


def _copy_code(root: Path, run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    listing = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    for name in run(*listing, cwd=ROOT).stdout.splitlines():
        if name not in MADE_BY_TINY and not name.startswith(".dvc/") and (ROOT / name).is_file():
            content = (ROOT / name).read_bytes()
            if not (root / name).is_file() or (root / name).read_bytes() != content:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
