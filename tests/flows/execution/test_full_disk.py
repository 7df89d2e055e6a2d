"""A disk that is full, as a small file system in memory (which takes the rights of root)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cnn_core.data.augmented import arrays_writer
from flows.execution.failures import kind_of_failure
from tasks.engine.events import classify

pytestmark = [pytest.mark.xdist_group("full_disk"), pytest.mark.slow]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / "large").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)


@pytest.mark.parametrize("where", [[], ["--isolated"]], ids=["checkout", "isolated"])
def test_a_run_on_a_full_disk_is_one_sentence(
    disk: Path, make_small: Callable, run: Callable, repository: Path, server: str, where: list[str]
) -> None:
    root = make_small(disk / "small")
    fill(disk)
    done = run("gridflow", "run", *where, "--set", "report.title=other", cwd=root, code=None,
               PYTHONPATH=str(repository), PREFECT_API_URL=server)  # fmt: skip
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stdout + done.stderr
    assert "the disk is full" in done.stdout + done.stderr or "No space left on device" in done.stdout + done.stderr


def test_mapped_arrays_on_a_full_disk_are_an_error_and_no_signal(disk: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left") as caught,
        arrays_writer(disk / "set", name="set", classes=["a"], shape=(1, 64, 64), copies=0) as writer,
    ):
        writer.add("train", [str(n) for n in range(10_000)], np.zeros(10_000, np.int64))[:] = 1
    assert classify(caught.value)[0] == "user"


# In a mount namespace with a /dev/shm of 64 KB, as small as docker's is for what stages write there.
WRITE = """
import pathlib
from tasks.engine import events

def main():
    with open("/dev/shm/large", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))

events.run_stage(main)
"""


def test_a_full_dev_shm_is_named_with_what_gives_more(repository: Path) -> None:
    script = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, WRITE]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert "/dev/shm is full" in done.stderr
    assert "docker: --shm-size=2g" in done.stderr
    assert kind_of_failure(Path(), 255, ["failed to run: x, exited with -7"])[1].endswith("--shm-size=2g)")
