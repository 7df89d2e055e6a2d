"""A stage's metrics tell what all of its processes took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BUSY = """
import time
held = bytearray(200_000_000)
until = time.process_time() + 1.0
while time.process_time() < until:
    pass
input()
"""
# In a process of its own, as a stage is: the tests' own has had children that took more.
STAGE = """
import json, subprocess, sys, time
from tasks.engine.resources import Meter

meter = Meter()
before = meter.summary()["cpu_seconds"]
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, text=True)
while meter.summary()["cpu_seconds"] < before + 0.9 and process.poll() is None:
    time.sleep(0.1)
process.communicate("\\n")
print(json.dumps([before, meter.summary()]))
"""


def test_memory_and_time_of_a_process_that_ended_count(repository: Path) -> None:
    command = [sys.executable, "-c", STAGE, BUSY]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=300)
    before, found = json.loads(done.stdout)
    assert found["peak_memory_bytes"] > 200_000_000
    assert before + 0.9 <= found["cpu_seconds"] < before + 5
