"""What a run shares: a second clone gets its results from a local remote and from S3, and runs nothing."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from flows.execution.sharing import _clean, check_sharing
from flows.repository.git import git
from tests.helpers.served import ask

pytestmark = pytest.mark.xdist_group("sharing")

WEB = "http://127.0.0.1:9/nobody.git"  # where no server is
ALLOWED = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@pytest.fixture
def remote(small: Path, run: Callable) -> Path:
    """The folder of the DVC remote `near`; the git remote `origin` is a bare repository that has the code."""
    run("dvc", "remote", "add", "near", "../near", cwd=small)
    run("git", "commit", "-qam", "near", cwd=small)
    run("git", "clone", "-q", "--bare", str(small), "../origin.git", cwd=small)
    run("git", "remote", "add", "origin", "../origin.git", cwd=small)
    return small.parent / "near"


@pytest.fixture
def pipeline(small: Path, run: Callable, repository: Path, server: str) -> Callable:
    """``pipeline("--isolated", GRIDFLOW_PUSH_TO="near")``: what a run printed."""

    def call(*arguments: str, cwd: Path = small, code: int = 0, **env: str) -> str:
        done = run("gridflow", "run", *arguments, cwd=cwd, code=code,
                   PYTHONPATH=str(repository), PREFECT_API_URL=server, **env)  # fmt: skip
        return done.stdout + done.stderr

    return call


def clone(small: Path, run: Callable, repository: Path) -> Path:
    """A second clone, on "another machine": it has no cache, and not the program that its stages would run."""
    second = small.parent / f"second-{uuid.uuid4().hex[:6]}"
    run("git", "clone", "-q", str(small.parent / "origin.git"), str(second), cwd=small)
    for package in ("tasks", "cnn_core"):
        (second / package).symlink_to(repository / package)
    (second / "append.py").write_text("raise SystemExit('a stage ran')")
    return second


def last_state(server: str) -> dict:
    """Of the flow run that started last."""
    begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}  # other tests' schedules may wait there
    wanted = {"sort": "START_TIME_DESC", "limit": 1, "flow_runs": begun}
    return ask(f"{server}/flow_runs/filter", wanted)[0]["state"]


def test_a_remote_that_is_not_there_is_told_before_the_first_stage(
    small: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_sharing(small)  # nothing is shared
    monkeypatch.setenv("GRIDFLOW_PUSH_TO", "near")
    monkeypatch.setenv("GRIDFLOW_PUSH_EXPERIMENT_TO", "origin")
    check_sharing(small)
    monkeypatch.setenv("GRIDFLOW_PUSH_TO", "far")
    with pytest.raises(ValueError, match=r"runtime\.push_to: far is no DVC remote here \(there is near\); `dvc remote"):
        check_sharing(small)
    monkeypatch.setenv("GRIDFLOW_PUSH_TO", "near")
    monkeypatch.setenv("GRIDFLOW_PUSH_EXPERIMENT_TO", "https://me:hidden@example.com/x.git")
    with pytest.raises(ValueError, match="no git remote here") as told:
        check_sharing(small)
    assert "hidden" not in str(told.value)


def test_secrets_are_taken_out_of_what_is_printed(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(
        "['remote \"cloud\"']\n    url = s3://bucket\n    secret_access_key = ab/cd+ef%gh\n"
    )
    env = {"MY_TOKEN": "tok-12345", "USE_KEY": "true", "HOME": "/home/me"}
    printed = "ab/cd+ef%gh ab%2Fcd%2Bef%25gh s3://bucket https://me:word@host/x.git tok-12345 true /home/me"
    assert _clean(printed, tmp_path, env) == "*** *** s3://bucket https://***@host/x.git *** true /home/me"


@pytest.mark.slow
def test_a_second_clone_gets_the_results_of_a_run_without_running_anything(
    pipeline: Callable, small: Path, remote: Path, run: Callable, repository: Path, server: str
) -> None:
    pipeline("first")
    assert not remote.exists()  # off by default
    assert "not shared" not in pipeline("left", GRIDFLOW_PUSH_TO="near")
    sent = len([path for path in remote.rglob("*") if path.is_file()])
    assert sent == 2  # the outputs of the run's stages: first.txt, left.txt
    pipeline(GRIDFLOW_PUSH_TO="near")
    run("git", "add", ".", cwd=small)
    run("git", "commit", "-qm", "results", cwd=small)
    run("git", "push", "-q", "origin", "HEAD", cwd=small)

    second = clone(small, run, repository)
    run("dvc", "pull", "--remote", "near", cwd=second)
    assert (second / "last.txt").read_text() == "source1lx"
    assert "up to date" in run("dvc", "repro", cwd=second).stdout  # append.py is no dependency, and would fail


@pytest.mark.slow
def test_an_experiment_is_pulled_applied_and_run_again_in_a_second_clone(
    pipeline: Callable, small: Path, remote: Path, run: Callable, repository: Path, server: str
) -> None:
    env = {"GRIDFLOW_PUSH_TO": "near", "GRIDFLOW_PUSH_EXPERIMENT_TO": "origin"}
    said = pipeline("--isolated", "--name", "shared", "--set", "report.title=mine", **env)
    assert "4 stages ran, 0 were up to date; experiment shared" in said
    assert last_state(server)["name"] == "Completed"
    assert git(small.parent / "origin.git", "for-each-ref", "--format=%(refname)", "refs/exps").endswith("/shared")

    second = clone(small, run, repository)
    run("git", "checkout", "-q", "--", "append.py", cwd=second)
    run("dvc", "exp", "pull", "--no-cache", "origin", "shared", cwd=second)
    text = (second / "append.py").read_text()
    (second / "append.py").write_text("raise SystemExit('a stage ran')")
    run("git", "commit", "-qam", "no stage can run here", cwd=second)
    said = pipeline("--isolated", "--revision", "shared", cwd=second, GRIDFLOW_PULL_FROM="near")
    assert "0 stages ran, 4 were up to date" in said
    (second / "append.py").write_text(text)
    run("git", "reset", "-q", "--hard", "HEAD~1", cwd=second)
    run("dvc", "exp", "pull", "--remote", "near", "origin", "shared", cwd=second)
    run("dvc", "exp", "apply", "shared", cwd=second)
    assert (second / "last.txt").read_text() == "source1lx"
    assert "title: mine" in (second / "params.yaml").read_text()


@pytest.mark.slow
def test_a_push_that_fails_loses_nothing_and_the_same_run_again_sends_it(
    pipeline: Callable, small: Path, remote: Path, run: Callable, server: str
) -> None:
    remote.write_text("in the way: a file where the remote should be")
    said = pipeline(GRIDFLOW_PUSH_TO="near")
    state = last_state(server)
    assert (state["type"], state["name"]) == ("COMPLETED", "NotShared")
    assert state["message"].startswith("4 stages ran, 0 were up to date; not shared: the DVC remote near did not take")
    assert "sends it" in said
    assert (small / "last.txt").read_text() == "source1lx"
    remote.unlink()
    assert "not shared" not in pipeline(GRIDFLOW_PUSH_TO="near")
    assert last_state(server)["name"] == "Completed"
    assert len([path for path in remote.rglob("*") if path.is_file()]) == 4

    run("git", "remote", "add", "web", WEB.replace("//", "//me:sesame-open@"), cwd=small)
    said = pipeline("--isolated", "--name", "kept", GRIDFLOW_PUSH_EXPERIMENT_TO="web")
    assert "the git remote web did not take the experiment" in said
    assert "Retry 2/2" in said  # a server that does not answer may answer later
    assert "sesame-open" not in said
    assert "kept" in run("dvc", "exp", "list", "--name-only", cwd=small).stdout


@pytest.mark.slow
def test_a_remote_that_does_not_answer_stops_no_isolated_run(
    pipeline: Callable, small: Path, remote: Path, run: Callable
) -> None:
    run("dvc", "repro", cwd=small)
    run("git", "add", "dvc.lock", cwd=small)
    run("git", "commit", "-qm", "results that are in no cache", cwd=small)
    shutil.rmtree(small / ".dvc" / "cache")
    remote.write_text("in the way")
    said = pipeline("--isolated", GRIDFLOW_PULL_FROM="near")
    assert "nothing was fetched from the DVC remote near: " in said
    assert "4 stages ran" in said


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """An S3 server that checks signatures: its address, and the key of the one user who may use the bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "administrator")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        address = "http://127.0.0.1:{1}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="results")
        users = boto3.client("iam", endpoint_url=address)
        users.create_user(UserName="gridflow")
        users.put_user_policy(UserName="gridflow", PolicyName="s3", PolicyDocument=json.dumps(ALLOWED))
        key = users.create_access_key(UserName="gridflow")["AccessKey"]
        httpx.post(f"{address}/moto-api/reset-auth", content=b"0").raise_for_status()  # from now on it checks
    yield {"address": address, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    server.stop()


def holders(secret: str, *folders: Path) -> list[str]:
    """Files that hold the secret."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path.name for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.nightly
def test_s3_with_credentials_that_stay_secret(
    pipeline: Callable, small: Path, remote: Path, run: Callable, repository: Path, server: str, s3: dict[str, str],
    environment: dict[str, str],
) -> None:  # fmt: skip
    run("dvc", "remote", "add", "cloud", "s3://results/gridflow", cwd=small)
    run("dvc", "remote", "modify", "cloud", "endpointurl", s3["address"], cwd=small)
    run("dvc", "remote", "modify", "cloud", "region", "us-east-1", cwd=small)
    run("git", "commit", "-qam", "cloud", cwd=small)
    keys = {"AWS_ACCESS_KEY_ID": s3["id"], "AWS_SECRET_ACCESS_KEY": s3["secret"]}
    wrong = "not-the-secret-of-the-user"

    said = pipeline("first", **keys | {"AWS_SECRET_ACCESS_KEY": wrong}, GRIDFLOW_PUSH_TO="cloud")
    assert "not shared: the DVC remote cloud did not take the data: " in said
    assert last_state(server)["name"] == "NotShared"
    assert "Retry 1/2" not in said  # another attempt with the same secret would end the same
    assert wrong not in said

    said = pipeline("left", **keys, GRIDFLOW_PUSH_TO="cloud")  # by the environment
    assert last_state(server)["name"] == "Completed", said

    block = f"from prefect.blocks.system import Secret; Secret(value={keys!r}).save('cloud-keys')"
    run("python", "-c", block, cwd=small, PREFECT_API_URL=server)
    shared = {"GRIDFLOW_PUSH_TO": "cloud", "GRIDFLOW_SHARING_SECRET": "cloud-keys"}
    said += pipeline("right", **shared)
    assert last_state(server)["name"] == "Completed", said
    said += pipeline("right", code=1, **shared | {"GRIDFLOW_SHARING_SECRET": "no-such"})
    assert "the Prefect server has no Secret block no-such" in said

    run("dvc", "remote", "modify", "--local", "cloud", "access_key_id", s3["id"], cwd=small)
    run("dvc", "remote", "modify", "--local", "cloud", "secret_access_key", s3["secret"], cwd=small)
    run("git", "push", "-q", "origin", "HEAD", cwd=small)
    said += pipeline("--isolated", "--name", "cloudy", GRIDFLOW_PUSH_TO="cloud", GRIDFLOW_PUSH_EXPERIMENT_TO="origin")
    assert last_state(server)["name"] == "Completed", said

    second = clone(small, run, repository)
    run("git", "checkout", "-q", "--", "append.py", cwd=second)
    run("dvc", "exp", "pull", "--no-cache", "origin", "cloudy", cwd=second)
    run("dvc", "exp", "apply", "cloudy", cwd=second, code=None)  # dvc.lock is there, its data not yet
    run("dvc", "pull", "--remote", "cloud", cwd=second, **keys)
    assert (second / "last.txt").read_text() == "source1lx"
    (second / "append.py").write_text("raise SystemExit('a stage ran')")
    assert "up to date" in run("dvc", "repro", cwd=second).stdout

    assert s3["secret"] not in said
    assert holders(s3["secret"], small.parent, Path(environment["PREFECT_HOME"])) == ["config.local"]
    assert (small / ".dvc" / "config.local").exists()
