"""Parts that are whole or absent, whatever becomes of the processes that work on them."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import psutil
import pytest
import ray
from ray._private.node import Node

from cnn_core.media import Part
from tasks.cluster import NOT_NEEDED, ray_cluster
from tasks.events import StageError
from tasks.parts import Room, finished, run_parts
from tasks.runtime import load_runtime

ROOM = Room(actors=1, cpus=1, gpus=0)


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
    def __init__(self, deaths: Path) -> None:
        self.deaths = deaths

    def __call__(self, part: Pictures, folder: Path) -> dict[str, int]:
        died = self.deaths / part.name
        times = died.stat().st_size if died.exists() else 0
        if times < part.deadly:
            died.write_bytes(b"." * (times + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "done").touch()
        return {"images": len(part)}


def test_a_part_says_which_images_it_is() -> None:
    place = {"path": "photos", "first": 0}
    few = Part(kind="files", start=0, stop=3, names=("a.jpg", "b.jpg", "deep/c.jpg"), **place)
    assert str(few) == "photos/a.jpg to deep/c.jpg (3 images)"
    assert str(Part(kind="files", start=0, stop=1, names=("a.jpg",), **place)) == "photos/a.jpg"
    assert str(Part(kind="parquet", start=128, stop=256, **place)) == "photos, rows 128 to 255"
    assert str(Part(kind="video", start=0, stop=1200, **place)) == "photos, frames 0 to 1,199"


@pytest.mark.slow
def test_a_ray_of_ones_own_has_no_watchers() -> None:
    runtime = dataclasses.replace(load_runtime(), ray_address="", num_workers=(1, 1))
    with ray_cluster(runtime):
        assert ray.get(ray.remote(num_cpus=1)(lambda: 7).remote()) == 7
        words = [word for child in psutil.Process().children() for word in child.cmdline()]  # and no zombies
        assert any("raylet" in word for word in words)
        assert not any(word.endswith(("monitor.py", "dashboard.py")) for word in words)
    for name in NOT_NEEDED:  # and others' Rays are as ever
        assert getattr(Node, name).__module__ == "ray._private.node"


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_but_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the actors load what stands here
    parts = [Pictures(name="good", deadly=0), Pictures(name="unlucky", deadly=2), Pictures(name="bad", deadly=99)]
    folder = tmp_path / "parts"

    def go() -> None:
        run_parts(parts, lambda: Mortal(tmp_path), folder, ROOM, label="detect")

    runtime = dataclasses.replace(load_runtime(), ray_address="", num_workers=(1, 1))
    with ray_cluster(runtime):
        with pytest.raises(
            StageError, match=r"^the process that works on bad died 3 times: .*\. Take them out"
        ) as told:
            go()
        assert told.value.kind == "user"
        assert (tmp_path / "bad").stat().st_size == 3
        assert [finished(folder, number) for number in range(3)] == [True, True, False]
        (tmp_path / "bad").write_bytes(b"." * 98)  # and another run may try again
        go()
    assert sorted(path.name for path in folder.iterdir()) == ["part-00000", "part-00001", "part-00002"]
