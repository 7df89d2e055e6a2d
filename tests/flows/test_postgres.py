"""What `deploy/` promises, on this machine: a Prefect server on Postgres, a process work pool, two workers.

Minutes of starts: a worker and the database are killed in mid-run, and `retrain` and `batch` run as deployed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.registry.models import champion
from flows.ui.server import answers
from tests.helpers.champion_repository import make, set_skill
from tests.helpers.postgres import POSTGRES, Postgres, free_port, postgres
from tests.helpers.served import Served, wait_until
from tests.helpers.trials import Trial, make_trial

pytestmark = [
    pytest.mark.xdist_group("postgres"),
    pytest.mark.nightly,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(POSTGRES is None, reason="there is no Postgres here (Debian: apt install postgresql)"),
]


class Pool:
    """A server on a Postgres, and two workers of the process work pool ``gridflow``."""

    def __init__(self, root: Path, environment: dict[str, str], repository: Path, database: Postgres) -> None:
        self.root, self.database = root, database
        port = free_port()
        self.served = Served(root, port)
        self.environment = {
            **environment,
            "PYTHONPATH": str(repository),
            "PREFECT_API_URL": self.served.api,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PWD": str(root),
        }
        self._processes = [self._start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))]
        wait_until(lambda: answers(self.served.api), 300)
        self.workers: list[subprocess.Popen] = []

    def deploy(self, repository: Path, run: Callable) -> None:
        """As docs/operations.md says."""
        shutil.copy(repository / "prefect.yaml", self.root)
        options = {"cwd": self.root, **self.environment}
        run("prefect", "--no-prompt", "work-pool", "create", "gridflow", "--type", "process", **options)
        run("python", "-m", "flows.ui.schedules", timeout=900, **options)
        self._processes.append(self._start("python", "-m", "flows.ui.keeper"))
        for _ in range(2):
            self.start_worker()

    def start_worker(self) -> None:
        self.workers.append(self._start("prefect", "worker", "start", "--pool", "gridflow"))
        self._processes.append(self.workers[-1])

    def end(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(timeout=60)

    def _start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=subprocess.DEVNULL)


def make_pool(
    root: Path, environment: dict[str, str], repository: Path, run: Callable, env: dict[str, str]
) -> Iterator[Pool]:
    with postgres() as database:
        pool = Pool(root, {**environment, **env}, repository, database)
        try:
            pool.deploy(repository, run)
            yield pool
        finally:
            pool.end()


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, make_small: Callable, run: Callable, repository: Path) -> Trial:
    root = make_small(tmp_path_factory.mktemp("postgres") / "small")
    make_trial(root, run, repository)
    return Trial(root, {})


@pytest.fixture(scope="module")
def pool(trial: Trial, environment: dict[str, str], repository: Path, run: Callable) -> Iterator[Pool]:
    yield from make_pool(trial.root, environment, repository, run, trial.env)


def children(worker: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(worker.pid).children(recursive=True)


def test_the_database_dies_in_mid_run_and_the_run_ends_well(pool: Pool, trial: Trial, faults: Callable) -> None:
    running = pool.served.start("pipeline", {"stages": ["train"]})
    trial.hold.touch()
    trial.wait_until_held()
    pool.database.kill()
    pool.database.start()
    trial.hold.unlink()
    assert pool.served.end(running)["type"] == "COMPLETED"
    assert trial.starts() == ["first", "train from 0"]
    faults("Postgres killed in mid-run, started again", "the same run ended well", 0)


def test_a_worker_dies_with_its_run_and_the_other_one_goes_on(
    pool: Pool, trial: Trial, run: Callable, faults: Callable
) -> None:
    trial.log.unlink()
    trial.state.unlink()
    (trial.root / "first.py").write_text((trial.root / "first.py").read_text().replace('"1"', '"2"'))
    run("git", "commit", "-qam", "another", cwd=trial.root)
    trial.hold.touch()
    running = pool.served.start("pipeline", {"stages": ["train"]})
    trial.wait_until_held()
    worker = next(worker for worker in pool.workers if children(worker))
    dying = [psutil.Process(worker.pid), *children(worker)]
    for process in dying:
        process.kill()
    wait_until(lambda: not trial.working("train.py"))
    assert pool.served.end(running)["type"] == "CRASHED"
    trial.hold.unlink()
    again = pool.served.end(pool.served.start("pipeline", {"stages": ["train"]}))
    assert again["type"] == "COMPLETED", again
    assert trial.starts() == ["first", "train from 0", "train from 2"]
    faults("a worker killed with its run", "Crashed; the other worker goes on from the last epoch", 0)


def test_retrain_and_batch_run_on_the_pool(
    tmp_path: Path, environment: dict[str, str], repository: Path, run: Callable
) -> None:
    root = make(tmp_path / "champions", run, repository)
    set_skill(root, 0.8)
    run("git", "commit", "-qam", "skill", cwd=root)
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"x")
    for pool in make_pool(root, environment, repository, run, {}):
        state = pool.served.end(pool.served.start("retrain", {"model": "digits"}), 900)
        assert state["type"] == "COMPLETED", state
        assert champion(root, "digits") is not None
        words = {"folder": str(images), "steps": ["classify"], "classifier": "digits", "output": str(tmp_path / "out")}
        state = pool.served.end(pool.served.start("batch", words), 900)
        assert state["type"] == "COMPLETED", state
        assert (tmp_path / "out" / "digits" / "predictions.csv").read_text() == "a.png,0.8\n"
