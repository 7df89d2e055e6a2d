"""Ray that does not answer, does not start or loses its own processes: one sentence, and another attempt may help."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from flows.execution.failures import kind_of_failure
from tests.helpers.paths import ROOT

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.slow]
CONNECT = """
from tasks.engine import events
from tasks.engine.cluster import ray_cluster
from tasks.engine.runtime import load_runtime

def main():
    with ray_cluster(load_runtime()):
        print("started", flush=True)

events.run_stage(main)
"""
# Loses one of Ray's own processes while it trains.
LOSE = """
import dataclasses, sys, threading, time
import psutil
from tasks.engine import distributed, events
from tasks.engine.cluster import ray_cluster
from tasks.engine.runtime import load_runtime
from tasks.engine.state import run_in_progress

def work(job, context):
    import torch
    for epoch in range(1, 1000):
        time.sleep(0.2)
        context.report_epoch({"epoch": epoch}, lambda: {"weights": torch.zeros(1)})

def lose(message):
    if message.get("record", {}).get("epoch") == 3:
        for process in psutil.Process().children(recursive=True):
            if process.name().startswith(sys.argv[1]):
                process.kill()
                print("killed", process.name(), flush=True)

def main(_name):
    runtime = load_runtime()
    with run_in_progress(runtime, "lost") as run, ray_cluster(runtime):
        distributed.fit(work, None, runtime, run, on_message=lose)

events.run_stage(main)
"""
# Loses its raylet as soon as that listens.
LOSE_EARLY = """
import pathlib, tempfile, threading, time
import psutil
from tasks.engine import events
from tasks.engine.cluster import ray_cluster
from tasks.engine.runtime import load_runtime

def lose():
    while not list(pathlib.Path(tempfile.gettempdir()).glob("session_*/sockets/raylet")):
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        if process.name() == "raylet":
            process.kill()

def main():
    threading.Thread(target=lose, daemon=True).start()
    with ray_cluster(load_runtime()):
        import ray
        ray.get(ray.remote(int).remote())

events.run_stage(main)
"""


def stage(code: str, folder: Path, *arguments: str, **env: str) -> tuple[str, str, float]:
    """Run a stage's code; the kind of its failure, its sentence, and how many seconds it took."""
    began = time.monotonic()
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "GRIDFLOW_RUN_DIR": str(folder), "GRIDFLOW_STATE": str(folder / "state"), **env},
    )  # fmt: skip
    print(done.stdout[-1500:], done.stderr[-1500:])
    assert done.returncode
    line = f"ERROR: failed to run: python stage.py, exited with {done.returncode}"
    return (*kind_of_failure(folder, 255, [line]), time.monotonic() - began)


@pytest.mark.parametrize("kind", ["closed", "silent", "nowhere"])
def test_an_address_that_answers_nobody_is_said_soon(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}" if kind != "nowhere" else "10.255.255.1:6379"
        if kind == "closed":
            listening.close()
        how, sentence, took = stage(CONNECT, tmp_path / "run", RAY_ADDRESS=address)
    print(f"{kind}: {sentence} ({took:.1f} s)")
    assert how == "transient"
    assert sentence.startswith(f"no Ray cluster answers at {address} (ray_address in runtime.yaml, or RAY_ADDRESS)")
    assert took < 30 * (3 if os.getloadavg()[0] > 2 * os.cpu_count() else 1)


def test_a_raylet_lost_while_ray_starts_is_transient(tmp_path: Path) -> None:
    how, sentence, took = stage(LOSE_EARLY, tmp_path / "run")
    print(f"{sentence} ({took:.1f} s)")
    assert how == "transient"


@pytest.mark.parametrize("name", ["raylet", pytest.param("gcs_server", marks=pytest.mark.nightly)])
def test_a_lost_process_of_rays_own_is_transient(tmp_path: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="too-long-for-the-sockets-") as temporary:  # with our names
        how, sentence, took = stage(LOSE, tmp_path / "run", name, TMPDIR=temporary)
    print(f"{name}: {sentence} ({took:.1f} s)")
    assert how == "transient"
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert {"event": "ray", "running": True}.items() <= next(one for one in events if one["event"] == "ray").items()
