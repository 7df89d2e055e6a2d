"""What may be removed of folders that others may still need."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tasks.engine.locks import HOLD, last_change, sweep_held, temporary_folder, try_lock
from tests.helpers.paths import ROOT

DAY = 86400.0


def make(folder: Path, *, marked: bool, days: float) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("")
    if marked:
        (folder / HOLD).write_text("")
    for path in [*folder.rglob("*"), folder]:
        age(path, days)
    return folder


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def test_only_old_folders_of_ours_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    make(tmp_path / "run-a-persons", marked=False, days=30)
    make(tmp_path / "other", marked=True, days=30)
    make(tmp_path / "run-old", marked=True, days=30)
    make(tmp_path / "run-young", marked=True, days=1)
    grown = make(tmp_path / "run-grown", marked=True, days=30)
    age(grown / "inner" / "file", 1)
    held = make(tmp_path / "run-held", marked=True, days=30)
    (tmp_path / "run-link").symlink_to(make(tmp_path / "elsewhere" / "x", marked=True, days=30))
    with try_lock(held / HOLD):
        assert sweep_held(tmp_path, "run-*", older_than_s=7 * DAY) == ["run-old"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "run-a-persons", "other", "run-young", "run-grown", "run-held", "run-link", "elsewhere"
    }  # fmt: skip
    assert (tmp_path / "elsewhere" / "x" / "inner" / "file").exists()


def test_the_newest_stay(tmp_path: Path) -> None:
    for number in range(4):
        make(tmp_path / f"run-{number}", marked=True, days=10 + number)
    assert sweep_held(tmp_path, "run-*", older_than_s=7 * DAY, keep=3) == ["run-3"]


def test_the_newest_content_counts(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", marked=True, days=30)
    age(folder / "inner" / "file", 2)
    assert abs(time.time() - last_change(folder) - 2 * DAY) < 60


def test_the_next_one_removes_the_temporary_folder_of_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tasks.engine.locks import temporary_folder\n"
        "with temporary_folder(Path(sys.argv[1])) as folder: print(folder, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    killed = Path(process.stdout.readline().strip())
    with temporary_folder(tmp_path) as living:
        assert killed.is_dir()
        process.kill()
        process.wait()
        with temporary_folder(tmp_path):
            assert living.is_dir()
            assert not killed.exists()
    assert list(tmp_path.iterdir()) == []
