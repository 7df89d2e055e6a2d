"""A stage's metrics tell what all of its processes took."""

from __future__ import annotations

import subprocess
import sys
import time

from tasks.resources import Meter

BUSY = """
import time
held = bytearray(200_000_000)
until = time.process_time() + 1.0
while time.process_time() < until:
    pass
"""


def test_memory_and_time_of_a_process_that_ended_count() -> None:
    meter = Meter()
    before = meter.summary()["cpu_seconds"]
    process = subprocess.Popen([sys.executable, "-c", BUSY + "input()"], stdin=subprocess.PIPE, text=True)
    while meter.summary()["cpu_seconds"] < before + 0.9 and process.poll() is None:
        time.sleep(0.1)
    process.communicate("\n")
    found = meter.summary()
    assert found["peak_memory_bytes"] > 200_000_000
    assert found["cpu_seconds"] >= before + 0.9
