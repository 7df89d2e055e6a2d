"""Faults of what `make ui` serves: a cancelled run, a suspended one; kill -9 of a run, the server, worker and run."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.repository.git import git
from flows.ui.heartbeats import NAME, SUSPENDED
from tests.helpers import served as serving
from tests.helpers.served import Served, wait_until
from tests.helpers.trials import FIRST, Trial, make_trial

pytestmark = [pytest.mark.xdist_group("served_faults"), pytest.mark.slow, pytest.mark.timeout(3000)]
PORT = 4293
CANCELLED_S = 10.0  # on a machine that is not busy with something else
SILENT_S = 35.0  # Prefect's heartbeats come every 30 s at most
# Four processes that do not listen to SIGTERM: the stage, a child, a child in a session of its own, and one without a
# parent.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(988)"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
if os.fork() == 0:
    subprocess.Popen(sleep, start_new_session=True)
    os._exit(0)
time.sleep(988)
"""


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    make_small: Callable,
    environment: dict[str, str],
    repository: Path,
    run: Callable,
) -> Iterator[Served]:
    root = make_small(tmp_path_factory.mktemp("served") / "small")
    make_trial(root, run, repository)
    (root / "stubborn.py").write_text(STUBBORN)
    (root / "dvc.yaml").write_text(
        (root / "dvc.yaml").read_text() + "  stubborn: {cmd: python stubborn.py, outs: [x]}\n"
    )
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "stubborn", cwd=root)
    env = {**environment, **Trial(root, {}).env, "PREFECT_RUNNER_POLL_FREQUENCY": "2"}
    with serving.serve(root, env, repository, PORT) as started:
        yield started
    for server in servers():  # its `make ui` was killed
        server.terminate()


@pytest.fixture
def trial(served: Served, run: Callable) -> Trial:
    """Of the served repository: its training has not begun yet, in this test."""
    trial = Trial(served.root, {})
    for path in (trial.log, trial.state):
        path.unlink(missing_ok=True)
    (served.root / "first.py").write_text(FIRST.replace('"1"', repr(uuid.uuid4().hex)))  # new to DVC's cache
    run("git", "commit", "-qam", "another", cwd=served.root)
    trial.hold.touch()
    return trial


def slots(served: Served) -> int:
    """How many runs of the pipeline hold a place."""
    return served.deployments()["pipeline"]["global_concurrency_limit"]["active_slots"]


def processes(root: Path, word: str = "") -> list[psutil.Process]:
    """All that work for a run, the flows' and the stages', with that word in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            known = process.environ()
            flow = "PREFECT__FLOW_RUN_ID" in known and known.get("PYTHONPATH") and Path(process.cwd()) == root
            stage = known.get("GRIDFLOW_RUN_DIR", "").startswith(f"{root}/")
            if (flow or stage) and word in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill(*found: psutil.Process) -> None:
    for process in found:
        process.send_signal(signal.SIGKILL)


def flow_processes(root: Path) -> list[psutil.Process]:
    return [process for process in processes(root) if "GRIDFLOW_RUN_DIR" not in process.environ()]


def goes_on(served: Served, trial: Trial) -> None:
    """The next run needs no cleaning and begins where the other one was killed."""
    wait_until(lambda: not trial.working("train.py"))  # it has noticed, and ended itself
    trial.hold.unlink()
    state = served.end(served.start("pipeline", {"stages": ["train"]}))
    assert state["type"] == "COMPLETED", state
    assert trial.starts() == ["first", "train from 0", "train from 2"]
    wait_until(lambda: slots(served) == 0)


def test_a_cancelled_run_is_gone_within_ten_seconds(served: Served, faults: Callable) -> None:
    running = served.start("pipeline", {"stages": ["stubborn"]})
    wait_until(lambda: len(processes(served.root, "988")) == 3)
    began, busy = time.monotonic(), os.getloadavg()[0] > 2 * os.cpu_count()
    served.cancel(running)
    wait_until(lambda: not processes(served.root))
    took = time.monotonic() - began
    print(f"every process of a cancelled run was gone after {took:.1f} s")
    assert took < CANCELLED_S * (5 if busy else 1)
    assert served.end(running)["type"] == "CANCELLED"
    wait_until(lambda: slots(served) == 0)
    assert not list((served.root / ".gridflow/worktrees").iterdir())
    assert git(served.root, "worktree", "list").count("\n") == 0
    faults("cancelled, its processes deaf to SIGTERM", f"all gone in {took:.1f} s, place free, worktree removed", 0)


def test_a_suspended_run_ends_its_stage_and_goes_on_where_it_was(
    served: Served, trial: Trial, faults: Callable
) -> None:
    running = served.start("pipeline", {"stages": ["train"]})
    trial.wait_until_held()
    later = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).isoformat()
    details = {"pause_reschedule": True, "pause_timeout": later}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    assert served.ask(f"flow_runs/{running}/set_state", {"state": state})["status"] == "ACCEPT"
    wait_until(lambda: not processes(served.root))
    assert served.state(running)["name"] == "Suspended"
    assert slots(served) == 0
    assert not list((served.root / ".gridflow/worktrees").iterdir())
    # The automation expects no heartbeat any more, or it would call the run Crashed.
    wait_until(lambda: newest_event(served, running) == SUSPENDED, 60)
    served.ask(f"flow_runs/{running}/resume", {})
    trial.hold.unlink()
    assert served.end(running)["type"] == "COMPLETED"
    assert trial.starts() == ["first", "train from 0", "train from 2"]
    faults("suspended while a stage works, resumed", "stage ended, place free; last epoch", 0)


def newest_event(served: Served, run: str) -> str:
    """Of the events that the automation waits for or expects."""
    names, resource = ["prefect.flow-run.heartbeat", SUSPENDED], {"id": [f"prefect.flow-run.{run}"]}
    chosen = {"event": {"name": names}, "resource": resource, "order": "DESC"}
    return served.ask("events/filter", {"filter": chosen, "limit": 1})["events"][0]["event"]


def test_a_killed_run_does_not_stay_running(served: Served, trial: Trial, faults: Callable) -> None:
    running = served.start("pipeline", {"stages": ["train"]})
    trial.wait_until_held()
    began = time.monotonic()
    kill(*flow_processes(served.root))
    assert served.end(running)["type"] == "CRASHED"
    took = time.monotonic() - began
    goes_on(served, trial)
    faults("kill -9 of a served run", f"Crashed in {took:.1f} s, place free; next run: last epoch", 0)


def test_a_killed_server_is_started_again_and_its_run_ends_well(served: Served, trial: Trial, faults: Callable) -> None:
    running = served.start("pipeline", {"stages": ["train"]})
    trial.wait_until_held()
    server = servers()[0]
    lease = served.state(running)["state_details"]["deployment_concurrency_lease_id"]
    kill(server)
    psutil.wait_procs([server], timeout=60)
    wait_until(lambda: len(served.deployments()) == 3)  # the same database
    # the run's claim on its place, which Prefect renews every 225 s: it would end the run if the server had lost it
    served.ask(f"v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 300})
    trial.hold.unlink()
    state = served.end(running)
    assert state["type"] == "COMPLETED", state
    assert trial.starts() == ["first", "train from 0"]
    assert served.end(served.start("pipeline", {"stages": ["train"]}))["type"] == "COMPLETED"
    faults("kill -9 of the Prefect server", "started again by make ui, the same run ended well", 0)


def test_a_killed_worker_and_all_at_once(
    served: Served, trial: Trial, environment: dict[str, str], repository: Path, faults: Callable
) -> None:
    """The last test: it ends with another `make ui`."""
    found = served.ask("automations/filter", {"automations": {"name": {"any_": [NAME]}}})
    assert [one["trigger"]["within"] for one in found] == [90.0]
    found[0]["trigger"]["within"] = SILENT_S
    served.ask(f"automations/{found[0]['id']}", {key: found[0][key] for key in CHANGED}, method="PUT")
    running = served.start("pipeline", {"stages": ["train"]})
    trial.wait_until_held()
    served.process.kill()
    served.process.wait()
    time.sleep(2)
    assert trial.working("train.py")  # a run goes on without its worker
    began = time.monotonic()
    kill(*flow_processes(served.root))
    assert served.end(running)["type"] == "CRASHED"
    took = time.monotonic() - began
    assert "no heartbeat" in served.state(running)["message"]
    served.start_serving({**environment, **trial.env}, repository)  # with the server that is there
    goes_on(served, trial)
    faults("kill -9 of worker and run", f"no heartbeat: Crashed in {took:.0f} s, place free; last epoch", 0)


CHANGED = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")


def servers() -> list[psutil.Process]:
    """Those of this port."""
    return [one for one in psutil.process_iter(["cmdline"]) if {"server", str(PORT)} <= set(one.info["cmdline"] or [])]
