"""The flow on a small real DVC repository, with a real Prefect server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cnn_core.comparison.banners import PLACEHOLDER
from flows.repository.git import git
from flows.ui import server as prefect_server
from tests.helpers.served import ask

pytestmark = pytest.mark.xdist_group("pipeline")  # all that use the run of the tiny recipe, which is made once

FAILS = "import json, os, pathlib, sys; pathlib.Path(os.environ['GRIDFLOW_RUN_DIR'], 'failure.json').write_text(json.dumps(dict(kind=sys.argv[1], message=sys.argv[2]))); sys.exit(1)"  # noqa: E501


@pytest.fixture
def flow(small: Path, run: Callable, repository: Path, server: str) -> Callable:
    def call(*arguments: str, code: int | None = 0):
        return run("gridflow", "run", *arguments, cwd=small, code=code,
                   PYTHONPATH=str(repository), PREFECT_API_URL=server)  # fmt: skip

    return call


def task_runs(server: str) -> list[dict]:
    """The newest flow run's task runs, by the server's own word."""
    flow_run = ask(f"{server}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    wanted = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
    return ask(f"{server}/task_runs/filter", wanted)


def make_fail(small: Path, stage: str, kind: str, message: str) -> None:
    (small / "fail.py").write_text(FAILS)
    text = (small / "dvc.yaml").read_text()
    line = next(line for line in text.splitlines() if f"{stage}.txt {stage[0]}" in line)
    (small / "dvc.yaml").write_text(text.replace(line, f'    cmd: python fail.py {kind} "{message}"'))


def test_both_doors_recognise_each_others_work(flow: Callable, small: Path, run: Callable, server: str) -> None:
    done = flow()
    assert "4 stages ran, 0 were up to date" in done.stdout + done.stderr
    assert (small / "last.txt").read_text() == "source1lx"
    assert "up to date" in run("dvc", "status", cwd=small).stdout
    (small / "source.txt").write_text("other")
    run("dvc", "repro", cwd=small)
    flow()
    states = {run["name"]: run["state_name"] for run in task_runs(server)}
    assert states == dict.fromkeys(("first", "left", "right", "last"), "Cached")


def test_what_comes_back_from_the_cache_reaches_what_needs_it(flow: Callable, small: Path, run: Callable) -> None:
    """A parameter set back: DVC has the first stage's result of then, and what follows is not what it was now."""
    for text in ("source", "other", "source"):
        (small / "source.txt").write_text(text)
        flow()
    assert (small / "first.txt").read_text() == "source1"
    assert (small / "left.txt").read_text() == "source1l"
    assert (small / "last.txt").read_text() == "source1lx"
    assert "up to date" in run("dvc", "status", cwd=small).stdout


def test_a_named_stage_runs_with_what_it_needs_and_no_more(flow: Callable, small: Path) -> None:
    flow("left")
    assert (small / "left.txt").exists()
    assert not (small / "right.txt").exists()


PAGE = """
  page:
    cmd: python page.py
    deps: [left.txt, data/metrics]
    outs: [data/reports/index.html]
"""
WRITE_PAGE = """
import pathlib
page = pathlib.Path("data/reports/index.html")
page.parent.mkdir(exist_ok=True)
names = sorted(path.name for path in pathlib.Path("data/metrics").iterdir())
page.write_text('<div id="banner"></div>metrics: ' + " ".join(names))
"""


def test_there_is_a_report_after_a_failure_too(flow: Callable, small: Path) -> None:
    (small / "data" / "metrics").mkdir(parents=True)
    (small / "data" / "metrics" / ".gitignore").write_text("")
    (small / "page.py").write_text(WRITE_PAGE)
    text = (small / "dvc.yaml").read_text().replace("right.txt", "data/metrics/right.txt")
    (small / "dvc.yaml").write_text(text + PAGE)
    good = (small / "dvc.yaml").read_text()
    line = next(line for line in good.splitlines() if "data/metrics/right.txt r" in line)
    (small / "fail.py").write_text(FAILS)
    (small / "dvc.yaml").write_text(good.replace(line, '    cmd: python fail.py user "no right"'))
    done = flow(code=1)
    assert "no right" in done.stdout
    assert (small / "data" / "reports" / "index.html").read_text() == f"{PLACEHOLDER}metrics: .gitignore"
    (of_the_run,) = re.findall(r"this run +(\S+\.html)", done.stdout)
    assert "1 stage failed in the run" in (small / of_the_run).read_text()
    assert "right failed (user): no right" in (small / of_the_run).read_text()
    assert not (small / "last.txt").exists()
    (small / "dvc.yaml").write_text(good)
    flow()
    assert (small / "data" / "reports" / "index.html").read_text() == f"{PLACEHOLDER}metrics: .gitignore right.txt"


MEASURE = """
import json, pathlib
figures = {"accuracy": 0.5, "n": 10, "resources": {"finished": "2026-11-29T07:15:00+00:00"}}
pathlib.Path("data/metrics/right.json").write_text(json.dumps(figures))
"""


def test_figures_of_a_stage_that_failed_are_of_an_earlier_run(flow: Callable, small: Path) -> None:
    (small / "data" / "metrics").mkdir(parents=True)
    (small / "data" / "metrics" / ".gitignore").write_text("")
    for name, content in (("page.py", WRITE_PAGE), ("measure.py", MEASURE), ("fail.py", FAILS)):
        (small / name).write_text(content)
    text = (small / "dvc.yaml").read_text() + PAGE
    text = text.replace("python append.py first.txt right.txt r", "python measure.py").replace(
        "right.txt", "data/metrics/right.json"
    )
    (small / "dvc.yaml").write_text(
        text.replace("outs: [data/metrics/right.json]", "metrics: [data/metrics/right.json]")
    )
    assert "this run" not in flow().stdout  # nothing to say beside the report
    failing = (small / "dvc.yaml").read_text().replace("python measure.py", 'python fail.py user "no right"')
    (small / "dvc.yaml").write_text(failing)
    (of_the_run,) = re.findall(r"this run +(\S+\.html)", flow(code=1).stdout)
    assert "Of an earlier run are the figures of right (of 2026-11-29 07:15 UTC)" in (small / of_the_run).read_text()


def test_a_failure_is_told_in_its_sentence_and_takes_only_its_downstream(
    flow: Callable, small: Path, server: str
) -> None:
    flow()
    make_fail(small, "right", "user", "the flag is at half mast")
    (small / "source.txt").write_text("new")
    done = flow(code=1)
    assert "right failed (user): the flag is at half mast" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (small / "left.txt").read_text() == "new1l"  # the sibling finished
    assert (small / "right.txt").read_text() == "source1r"  # the former output is back
    assert (small / "last.txt").read_text() == "source1lx"  # downstream did not start
    runs = {run["name"]: run for run in task_runs(server)}
    assert runs["right"]["state"]["message"] == "user: the flag is at half mast"
    assert runs["right"]["run_count"] == 1  # a person has to mend it: no retry
    assert runs["last"]["state_name"] == "NotReady"
    flow_run = ask(f"{server}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    assert flow_run["state"]["message"] == "right failed (user): the flag is at half mast"


def test_what_can_heal_is_tried_again(flow: Callable, small: Path, server: str) -> None:
    make_fail(small, "right", "transient", "the line was cut")
    flow(code=1)
    assert {run["name"]: run["run_count"] for run in task_runs(server)}["right"] == 2  # retries: 1 in dvc.yaml


@pytest.mark.parametrize("where", [[], ["--isolated", "--name", "half"]], ids=["checkout", "isolated"])
def test_a_run_whose_task_broke_outside_its_stage_is_not_whole(
    flow: Callable, small: Path, run: Callable, server: str, where: list[str]
) -> None:
    text = (small / "dvc.yaml").read_text()
    broken = "first.txt 1 && touch $GRIDFLOW_RUN_DIR/../left"  # a file where the folder of left's events goes
    (small / "dvc.yaml").write_text(text.replace("first.txt 1", broken))
    run("git", "commit", "-qam", "a broken disk", cwd=small)
    done = flow(*where, code=1)
    assert "left failed (bug): its task broke outside the stage: " in done.stdout
    assert re.search(r"\nright +done .*\nlast +not started\n", done.stdout)
    flow_run = ask(f"{server}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    assert flow_run["state"]["type"] == "FAILED"
    assert git(small, "for-each-ref", "refs/exps") == ""


def test_outputs_are_assets_and_their_lineage_is_told(flow: Callable, small: Path, server: str) -> None:
    flow("left")
    flow_run = ask(f"{server}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]["id"]
    made, used = (asset_events(server, flow_run, word, 2) for word in ("materialization.succeeded", "referenced"))
    assert set(made) == {"dvc://gridflow/first.txt", "dvc://gridflow/left.txt"}
    assert set(used) == {"dvc://gridflow/source.txt", "dvc://gridflow/first.txt"}
    left, first = (made[f"dvc://gridflow/{name}.txt"]["payload"] for name in ("left", "first"))
    assert left["md5"] == hashlib.md5(b"source1l").hexdigest()
    assert left["made_of"] == {"first.txt": first["md5"]}
    assert left["commit"] == git(small, "rev-parse", "HEAD")
    upstream = [one["prefect.resource.id"] for one in made["dvc://gridflow/left.txt"]["related"]]
    assert "dvc://gridflow/first.txt" in upstream
    wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run]}, "key": {"any_": ["lineage"]}}}
    table = json.loads(ask(f"{server}/artifacts/filter", wanted)[0]["data"])
    assert [(row["output"], row["md5"], row["stage"]) for row in table] == [
        ("first.txt", first["md5"], "first"),
        ("left.txt", left["md5"], "left"),
    ]


def asset_events(server: str, flow_run: str, word: str, count: int) -> dict[str, dict]:
    """A flow run's events of assets by the asset's key, once the server has so many."""
    wanted = {"event": {"name": [f"prefect.asset.{word}"]}, "related": {"id": [f"prefect.flow-run.{flow_run}"]}}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = ask(f"{server}/events/filter", {"filter": wanted})["events"]
        if len(found) >= count:
            return {event["resource"]["prefect.resource.id"]: event for event in found}
        time.sleep(0.5)
    raise AssertionError(f"the server has {len(found)} events of {word}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_flow_leaves_no_process(
    small: Path, environment: dict[str, str], repository: Path, server: str, number: int
) -> None:
    (small / "sleep.py").write_text(
        "import subprocess, sys, time\n"
        "from tasks.engine import events\n"
        "def main():\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)'], start_new_session=True)\n"
        "    time.sleep(987)\n"
        "events.run_stage(main)\n"
    )
    text = (small / "dvc.yaml").read_text()
    (small / "dvc.yaml").write_text(
        text.replace("cmd: python append.py source.txt first.txt 1", "cmd: python sleep.py")
    )
    env = {**environment, "PYTHONPATH": str(repository), "PREFECT_API_URL": server}
    command = ["gridflow", "run"]
    flow = subprocess.Popen(command, cwd=small, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    family = wait_for_sleepers(flow.pid)
    flow.send_signal(number)
    flow.wait(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=15)
    for process in alive:
        process.kill()
    assert not alive, [process.cmdline() for process in alive]


def wait_for_sleepers(pid: int) -> list[psutil.Process]:
    """The flow's descendants, once the stage and its own child sleep."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        family = psutil.Process(pid).children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):  # one of them has just ended (a zombie is such a one too)
            if sum("987" in " ".join(process.cmdline()) for process in family) == 1:
                return family
        time.sleep(0.2)
    raise AssertionError("the stage did not start")


def test_without_a_server_it_starts_one_for_itself(small: Path, run: Callable, repository: Path) -> None:
    done = run("gridflow", "run", "first", cwd=small, PYTHONPATH=str(repository))
    assert "temporary server" in done.stdout + done.stderr
    assert (small / "first.txt").exists()


def test_a_server_that_does_not_answer_is_one_sentence(small: Path, run: Callable, repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    done = run("gridflow", "run", cwd=small, code=2, PYTHONPATH=str(repository), PREFECT_API_URL=address)
    assert done.stderr.startswith(f"error: no Prefect server answers at {address}: start it (`make ui`), or unset ")
    assert "Traceback" not in done.stdout + done.stderr
    assert not (small / "first.txt").exists()


@pytest.mark.slow
def test_a_server_that_wants_a_password_is_one_sentence(
    small: Path, run: Callable, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:sesame")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    server = prefect_server.start_server(port=port)
    env = {"PYTHONPATH": str(repository), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    try:
        done = run("gridflow", "run", "first", cwd=small, code=2, **env)
        assert "refuses the client (HTTP status 401): set PREFECT_API_AUTH_STRING=" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        run("gridflow", "run", "first", cwd=small, PREFECT_API_AUTH_STRING="me:sesame", **env)
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert (small / "first.txt").exists()
