"""Parts that are whole or absent, whatever becomes of the processes that work on them."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from cnn_core.images.media import Part
from tasks.engine.cluster import ray_cluster
from tasks.engine.events import StageError
from tasks.engine.parts import one_process_will_do, run_parts
from tasks.engine.runtime import ROOT, Runtime, load_runtime
from tasks.engine.workers import Resources, finished


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """A part that kills who works on it the first ``deadly`` times: a crash, or the lack of memory."""

    name: str
    deadly: int

    def __len__(self) -> int:
        return 10

    def __str__(self) -> str:
        return self.name


class Mortal:
    """And writes which process and which room it has."""

    def __init__(self, deaths: Path, resources: Resources) -> None:
        self.deaths, self.resources = deaths, resources

    def __call__(self, part: Pictures, folder: Path) -> dict[str, int]:
        died = self.deaths / part.name
        times = died.stat().st_size if died.exists() else 0
        if times < part.deadly:
            died.write_bytes(b"." * (times + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "done").write_text(f"{os.getpid()} {os.getppid()} {self.resources.cpus}")
        return {"images": len(part)}


def settings(**changes: object) -> Runtime:
    few = {"ray_address": "", "num_workers": (1, 1), "use_gpu": False, "local_images": 30, "cpus_per_worker": 1}
    return dataclasses.replace(load_runtime(), **few | changes)


def test_a_part_says_which_images_it_is() -> None:
    place = {"path": "photos", "first": 0}
    few = Part(kind="files", start=0, stop=3, names=("a.jpg", "b.jpg", "deep/c.jpg"), **place)
    assert str(few) == "photos/a.jpg to deep/c.jpg (3 images)"
    assert str(Part(kind="files", start=0, stop=1, names=("a.jpg",), **place)) == "photos/a.jpg"
    assert str(Part(kind="parquet", start=128, stop=256, **place)) == "photos, rows 128 to 255"
    assert str(Part(kind="video", start=0, stop=1200, **place)) == "photos, frames 0 to 1,199"


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, with a path short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.slow
def test_a_ray_of_the_stage_works_and_leaves_nothing_behind(short_folder: Path) -> None:
    others = psutil.Process().children(recursive=True)  # a server of another test in this process, perhaps
    with ray_cluster(settings()):
        assert ray.get(ray.remote(num_cpus=1)(lambda: 7).remote()) == 7
        assert list(short_folder.glob("gridflow-*"))
        processes = [each for each in psutil.Process().children(recursive=True) if each not in others]
        assert any("raylet" in process.name() for process in processes)
    psutil.wait_procs(processes, timeout=10)
    assert not [process for process in processes if process.is_running()]
    assert not list(short_folder.glob("gridflow-*"))


def test_few_images_on_one_machine_need_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one_process_will_do(settings(), units) for units in (1, 30, 31)] == [True, True, False]
    changes = ({"local_images": 0}, {"ray_address": "auto"}, {"num_workers": (1, 2)}, {"use_gpu": True})
    for change in changes:
        assert not one_process_will_do(settings(**change), 1)
    for found in (0, 1):
        monkeypatch.setattr("tasks.engine.parts.gpu_count", lambda found=found: found)
        assert one_process_will_do(settings(use_gpu="auto"), 1) is (not found)


def test_few_parts_are_done_by_one_process_beside_this_one(tmp_path: Path) -> None:
    parts = [Pictures(name="first", deadly=0), Pictures(name="second", deadly=0)]
    run_parts(parts, functools.partial(Mortal, tmp_path), tmp_path / "parts", settings(), label="detect")
    seen = [path.read_text().split() for path in sorted(tmp_path.glob("parts/*/done"))]
    assert len(seen) == 2
    assert seen[0] == seen[1]
    process, parent, cpus = map(int, seen[0])
    assert (parent, cpus) == (os.getpid(), 1)
    assert not psutil.pid_exists(process)
    assert not ray.is_initialized()


class Slow(Mortal):
    def __call__(self, part: Pictures, folder: Path) -> dict[str, int]:
        super().__call__(part, folder)
        (folder.parent / "busy").write_text((folder / "done").read_text())
        time.sleep(600)
        return {}


class Last(Mortal):
    """Dies when its part is in place, and leaves a child with all that it has open."""

    def __call__(self, part: Pictures, folder: Path) -> dict[str, int]:
        if not os.fork():
            time.sleep(20)
            os._exit(0)
        super().__call__(part, folder)
        folder.rename(folder.parent / "part-00000")
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


SLOW = """
import functools
from pathlib import Path
from tests.tasks.engine.test_parts import Pictures, Slow, run_parts, settings

run_parts([Pictures(name="slow", deadly=0)], functools.partial(Slow, Path()), Path("parts"), settings(), label="detect")
"""


def test_the_process_beside_ends_with_the_stage_however_that_ends(tmp_path: Path) -> None:
    stage = subprocess.Popen([sys.executable, "-c", SLOW], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "parts/busy").exists():
        assert stage.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    beside = psutil.Process(int((tmp_path / "parts/busy").read_text().split()[0]))
    stage.kill()
    stage.wait()
    beside.wait(5)  # raises where it lives on
    assert not finished(tmp_path / "parts", 0)


def test_what_was_done_before_the_process_died_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    run_parts(
        [Pictures(name="only", deadly=0)], functools.partial(Last, tmp_path), tmp_path / "parts", settings(), label="x"
    )
    assert time.monotonic() - began < 10, "its child is not waited for"
    assert "x 10/10 images" in capsys.readouterr().out
    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("local_images", [30, pytest.param(0, marks=pytest.mark.nightly)])
def test_a_worker_that_dies_is_replaced_but_not_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], local_images: int
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the actors load what stands here
    parts = [Pictures(name="good", deadly=0), Pictures(name="unlucky", deadly=2), Pictures(name="bad", deadly=99)]
    folder = tmp_path / "parts"
    runtime = settings(local_images=local_images)  # begun by one process beside this one, or by Ray
    go = functools.partial(run_parts, parts, functools.partial(Mortal, tmp_path), folder, runtime, label="detect")
    with pytest.raises(StageError, match=r"^the process that works on bad died 3 times: .*\. Take them out") as told:
        go()
    assert told.value.kind == "user"
    assert (tmp_path / "bad").stat().st_size == 3
    assert [finished(folder, number) for number in range(3)] == [True, True, False]
    first = (folder / "part-00000/done").read_text().split()[1] == str(os.getpid())
    assert first == (local_images > 0), "the process beside did it, and nobody again"
    assert ("the process of detect died; Ray goes on" in capsys.readouterr().out) == (local_images > 0)
    (tmp_path / "bad").write_bytes(b"." * 98)  # and another run may try again
    go()
    assert sorted(path.name for path in folder.iterdir()) == ["part-00000", "part-00001", "part-00002"]
    assert not ray.is_initialized()
