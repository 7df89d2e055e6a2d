"""A training on a Ray cluster of two nodes, on one machine, that loses one of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tasks.engine.cluster import judge_shared, wait_for_room
from tasks.engine.events import StageError
from tasks.engine.runtime import load_runtime
from tests.helpers.stages import EPOCHS, curve, finish, plain, small_set, start, wait_for, write_params

RAY = str(Path(sys.executable).parent / "ray")
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


def test_folders_that_a_node_does_not_see_are_named():
    judge_shared({"10.0.0.1": (True, True), "10.0.0.2": (True, True)}, "/state", "/data")
    with pytest.raises(
        StageError, match=r"node 10\.0\.0\.2 .* does not see the state folder /state; set `state`"
    ) as raised:
        judge_shared({"10.0.0.1": (True, True), "10.0.0.2": (False, True)}, "/state", "/data")
    assert raised.value.kind == "user"
    with pytest.raises(StageError, match=r"node 10\.0\.0\.1 .* does not see the data folder /data; run from"):
        judge_shared({"10.0.0.1": (True, False)}, "/state", "/data")


def test_a_cluster_that_stays_too_small_is_told(monkeypatch):
    monkeypatch.setenv("GRIDFLOW_NUM_WORKERS", "3-4")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("tasks.engine.cluster.node_cores", lambda: [6, 3])
    wait_for_room(load_runtime(), 3)
    monkeypatch.setattr("tasks.engine.cluster.node_cores", lambda: [6, 2])
    monkeypatch.setattr("tasks.engine.cluster.WAIT_FOR_NODES_S", 0)
    monkeypatch.setattr("tasks.engine.cluster.time.sleep", lambda _: None)
    with pytest.raises(StageError, match=r"at 10\.0\.0\.1:6379 has room for 2 of the 3 workers of 3 cores; add"):
        wait_for_room(load_runtime(), 3)


class Nodes:
    """Ray nodes of one core each, the first of them the head; every one a process that holds what belongs to it."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.processes = folder, []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self) -> None:
        if self.processes:
            arguments = [f"--address={self.address}"]
        else:
            arguments = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.folder}"]
        store = f"--object-store-memory={100 * 2**20}"
        command = [RAY, "start", *arguments, "--node-ip-address=127.0.0.1", "--num-cpus=1", store, "--block"]
        log = Path(self.folder, f"node-{len(self.processes)}.log")
        with log.open("w") as file:
            settings = {"env": os.environ | QUIET, "stdout": file, "stderr": subprocess.STDOUT}
            self.processes.append(subprocess.Popen(command, start_new_session=True, **settings))
        deadline = time.monotonic() + 180
        while "Ray runtime started" not in log.read_text():
            assert self.processes[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)

    def kill(self, number: int) -> None:
        """As the machine's power switch would: the node's raylet, without which its workers end."""
        children = psutil.Process(self.processes[number].pid).children(recursive=True)
        next(child for child in children if child.name() == "raylet").kill()

    def end(self) -> None:
        every = []
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                every += [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(every, timeout=15)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.processes:
            process.wait()


@pytest.fixture
def nodes():
    folder = tempfile.mkdtemp(prefix="gf-", dir="/tmp")  # short: the sockets in it have 107 characters
    nodes = Nodes(folder)
    try:
        nodes.add()
        nodes.add()
        yield nodes
    finally:
        nodes.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def workplace(tmp_path):
    small_set(tmp_path)
    write_params(tmp_path)
    return tmp_path


def begin(workplace, nodes, workers):
    """The training, three epochs on, and what it said so far."""
    process = start(workplace, RAY_ADDRESS=nodes.address, GRIDFLOW_NUM_WORKERS=workers, **QUIET)
    return process, wait_for(process, f"epoch 3/{EPOCHS}")


def assert_whole(workplace, output):
    actual, expected = curve(workplace), plain(workplace)
    assert [row["epoch"] for row in actual] == [row["epoch"] for row in expected] == list(range(1, EPOCHS + 1))
    for one, other in zip(actual, expected, strict=True):
        assert one["learning_rate"] == pytest.approx(other["learning_rate"], abs=1e-6)
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.2, abs=0.02), output
    assert actual[-1]["val_accuracy"] == pytest.approx(expected[-1]["val_accuracy"], abs=0.05)


@pytest.mark.nightly
def test_an_elastic_training_goes_on_with_what_is_left_of_the_cluster(workplace, nodes):
    process, before = begin(workplace, nodes, "1-2")
    assert "training on 2 workers" in before
    nodes.kill(1)
    killed = time.monotonic()
    between = wait_for(process, "a training worker died")
    assert time.monotonic() - killed < 45, "noticed at once on a quiet machine"
    after = finish(process)
    assert "training on 1 worker\n" in after, before + between + after
    assert "resuming at epoch" in after
    assert_whole(workplace, before + between + after)


@pytest.mark.nightly
def test_a_fixed_number_of_workers_waits_for_another_node(workplace, nodes):
    process, before = begin(workplace, nodes, "2")
    nodes.kill(1)
    between = wait_for(process, "waiting for nodes: there is room for 1 of 2 workers")
    assert "a training worker died" in between
    nodes.add()
    after = finish(process)
    assert "training on 2 workers" in after, before + between + after
    assert "resuming at epoch" in after
    assert_whole(workplace, before + between + after)
