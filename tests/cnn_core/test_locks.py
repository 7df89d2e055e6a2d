"""What may be removed of folders that others may still need."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from cnn_core.locks import HOLD, last_change, sweep_held, temporary_folder, try_lock
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
        "import sys, time; from pathlib import Path; from cnn_core.locks import temporary_folder\n"
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


WAITS = """
import sys, time
from pathlib import Path
here = Path(sys.argv[1])

def wait():
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))

"""
WRITERS = {
    "a download": (
        "from cnn_core.downloads.common import folder_beside\n"
        "with folder_beside(here / 'net.pth') as folder: (folder / 'half').write_text(''); wait()"
    ),
    "an archive": (
        "from cnn_core.data.objects.source import on_disk\n"
        "with on_disk(here / 'set.zip', here) as (folder, _): assert (folder / 'a.txt').is_file(); wait()"
    ),
    "a detector's training": (
        "import types\nfrom tasks.train_detector import ultralytics_folder\n"
        "context = types.SimpleNamespace(remote_state=False, run_folder=str(here))\n"
        "with ultralytics_folder(context) as folder: (folder / 'settings.json').write_text(''); wait()"
    ),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_what_a_killed_process_wrote_beside_its_target_is_removed_by_the_next(tmp_path: Path, writer: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    head = "import sys, time; from pathlib import Path; here = Path(sys.argv[1])\n"
    command = [
        sys.executable,
        "-c",
        f"{head}def wait(): print('ready', flush=True); time.sleep(float(sys.argv[2]))\n{writer}",
    ]
    killed = subprocess.Popen([*command, str(tmp_path), "60"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert killed.stdout.readline() == "ready\n"
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    subprocess.run([*command, str(tmp_path), "0"], check=True, cwd=ROOT)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


REMOVE = """
import sys, pathlib
from cnn_core.locks import sweep_held
sys.addaudithook(lambda event, arguments: event in ("os.remove", "os.rmdir") and print(arguments[0]))
sweep_held(pathlib.Path.cwd(), "run-*")
"""


def test_the_mark_of_a_folder_goes_last(tmp_path: Path) -> None:
    folder = make(tmp_path / "run-old", marked=True, days=30)
    for name in "abcdefgh":
        (folder / name).write_text("")
    command = [sys.executable, "-c", REMOVE]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    removed = [Path(line).name for line in done.stdout.splitlines()]
    assert removed[-2:] == [HOLD, "run-old"]
    assert len(removed) == 12
    assert not folder.exists()
