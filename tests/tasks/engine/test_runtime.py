from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.engine import runtime as runtime_module
from tasks.engine.runtime import Runtime, available_cores, load_runtime, machine_memory, main_checkout, state_folder
from tasks.engine.state import MARK, code_files, input_sha256, key_of, run_in_progress
from tests.helpers.paths import ROOT


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for key in ("GRIDFLOW_STATE", "GRIDFLOW_NUM_WORKERS", "GRIDFLOW_USE_GPU", "GRIDFLOW_FEED", "RAY_ADDRESS"):
        monkeypatch.delenv(key, raising=False)


def test_the_environment_goes_before_the_file(monkeypatch):
    assert (load_runtime().num_workers, load_runtime().feed) == ((1, 1), "auto")
    monkeypatch.setenv("GRIDFLOW_NUM_WORKERS", "2")
    monkeypatch.setenv("GRIDFLOW_USE_GPU", "false")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = load_runtime()
    assert (found.num_workers, found.use_gpu, found.ray_address) == ((2, 2), False, "10.0.0.1:6379")
    assert not found.elastic


def test_the_workers_may_be_a_range(monkeypatch):
    monkeypatch.setenv("GRIDFLOW_NUM_WORKERS", "1-4")
    assert load_runtime().num_workers == (1, 4)
    assert load_runtime().elastic


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("two", r"GRIDFLOW_\*.*num_workers must be a whole number or a range such as 1-4, not 'two'"),
        ("0", "num_workers must be at least 1, not 0"),
        ("0-2", "num_workers must be at least 1, not 0"),
        ("4-2", "num_workers is a range from the fewest to the most, not 4-2"),
        ("-1", "num_workers must be a whole number or a range such as 1-4, not -1"),
    ],
)
def test_a_bad_value_of_the_environment_is_told_as_such(monkeypatch, value, sentence):
    monkeypatch.setenv("GRIDFLOW_NUM_WORKERS", value)
    with pytest.raises(ValueError, match=sentence):
        load_runtime()


def test_a_bad_file_is_told(tmp_path):
    (tmp_path / "runtime.yaml").write_text((ROOT / "runtime.yaml").read_text() + "threads: 3\n")
    with pytest.raises(ValueError, match=r"runtime\.threads is not a parameter"):
        load_runtime(tmp_path / "runtime.yaml")


def settings(**changes):
    values = {
        "num_workers": (1, 1),
        "use_gpu": False,
        "cpus_per_worker": 0,
        "micro_batch": 0,
        "local_images": 0,
        "oom_smaller_batch": True,
        "compile": False,
        "feed": "auto",
        "ray_address": "",
        "state": "",
        "pull_from": "",
        "push_to": "",
        "push_experiment_to": "",
        "sharing_secret": "",
    }
    return Runtime(**values | changes)


def test_the_cores_are_shared_out_evenly(monkeypatch):
    monkeypatch.setattr(runtime_module, "available_cores", lambda: 5)
    assert [settings(num_workers=(n, n)).cpus() for n in (1, 2, 9)] == [5, 2, 1]
    assert settings(num_workers=(2, 2), cpus_per_worker=1).cpus() == 1
    assert settings(num_workers=(1, 2)).cpus() == 2


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups of a test's own: a function that writes one of their files."""
    monkeypatch.setattr(runtime_module, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(runtime_module, "OWN_GROUPS", tmp_path / "self")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))

    def write(own, **files):
        (tmp_path / "self").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_the_quota_of_version_2_counts_also_that_of_a_group_around(groups):
    groups("0::/system.slice/ours\n", **{"system.slice/ours/cpu.max": "max 100000\n"})
    assert available_cores() == 16
    groups(
        "0::/system.slice/ours\n", **{"system.slice/cpu.max": "350000 100000\n", "system.slice/memory.max": "1000\n"}
    )
    assert (available_cores(), machine_memory()) == (3, 1000)
    groups("0::/\n", **{"cpu.max": "50000 100000\n"})  # as a container sees its own
    assert available_cores() == 1


def test_the_quota_of_version_1_counts(groups):
    membership = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
    none = {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    groups(membership, **none, **{"memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert (available_cores(), machine_memory()) == (16, psutil.virtual_memory().total)
    groups(
        membership, **{"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "memory/docker/abc/memory.limit_in_bytes": "2000\n"}
    )
    assert (available_cores(), machine_memory()) == (2, 2000)


def test_each_nodes_share_of_the_most_workers_fits_the_smallest_node():
    assert [settings(num_workers=(1, n)).cpus([8, 4]) for n in (1, 2, 3, 4, 20)] == [4, 4, 2, 2, 1]
    assert settings(num_workers=(2, 2), cpus_per_worker=3).cpus([8, 4]) == 3


def test_images_that_take_more_than_half_of_the_memory_are_streamed(monkeypatch):
    monkeypatch.setattr(runtime_module, "machine_memory", lambda: 1000)
    assert [settings().streams(size) for size in (500, 501)] == [False, True]
    assert settings(feed="streamed").streams(1)
    assert not settings(feed="mapped").streams(10**6)
    monkeypatch.undo()
    assert runtime_module.machine_memory() > 10**8


def test_the_state_lies_in_the_main_checkout_of_a_worktree(tmp_path, monkeypatch, run):
    main, worktree = tmp_path / "main", tmp_path / "worktree"
    run("git", "init", "-q", str(main), cwd=tmp_path)
    run("git", "commit", "-q", "--allow-empty", "-m", "first", cwd=main)
    run("git", "worktree", "add", "-q", "--detach", str(worktree), cwd=main)
    monkeypatch.setattr(runtime_module, "ROOT", worktree)
    assert main_checkout() == main.resolve()
    assert state_folder(settings()) == str(main.resolve() / ".gridflow/state")
    assert state_folder(settings(state="/elsewhere")) == "/elsewhere"
    assert state_folder(settings(state="s3://bucket/state/")) == "s3://bucket/state"
    monkeypatch.setattr(runtime_module, "ROOT", tmp_path)
    assert main_checkout() == tmp_path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.engine.state.main_checkout", lambda: tmp_path)
    return settings(state=str(tmp_path / "state"))


def test_a_second_holder_of_a_run_gets_its_own_and_a_finished_run_is_gone(checkout, tmp_path):
    with run_in_progress(checkout, "train") as first:
        (Path(first.folder) / "checkpoint").mkdir(parents=True)
        with run_in_progress(checkout, "train") as second, run_in_progress(checkout, "train") as third:
            assert [first.name, second.name, third.name] == ["train", "train-2", "train-3"]
        assert Path(first.folder).is_dir()
    assert not Path(first.folder).exists()
    assert list((tmp_path / "state" / ".locks").iterdir()) == []


def _fail_in(run):
    (Path(run.folder) / "checkpoint").mkdir(parents=True)
    (Path(run.folder) / "missing").read_bytes()


def test_a_run_that_failed_or_was_killed_is_found_again(checkout, tmp_path):
    with pytest.raises(FileNotFoundError), run_in_progress(checkout, "train") as run:
        _fail_in(run)
    with run_in_progress(checkout, "train") as run:
        assert run.name == "train"
        assert (Path(run.folder) / "checkpoint").is_dir()
        (tmp_path / "kept").touch()
    holder = (
        "import sys, time; from pathlib import Path; from cnn_core.locks import try_lock\n"
        "lock = try_lock(Path(sys.argv[1]) / 'state/.locks/train.lock'); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout.readline() == b"held\n"
    with run_in_progress(checkout, "train") as run:
        assert run.name == "train-2"
    process.kill()
    process.wait()
    with run_in_progress(checkout, "train") as run:
        assert run.name == "train"


def test_only_runs_of_ours_that_nobody_goes_on_with_are_forgotten(checkout, tmp_path):
    state = tmp_path / "state"

    def make(name, *, days, mark=None):
        folder = state / name
        folder.mkdir(parents=True)
        (folder / "checkpoint").write_text("")
        if mark:
            (folder / MARK).write_text(mark)
        for path in [*folder.iterdir(), folder]:
            age(path, days)
        return folder

    def age(path, days):
        then = time.time() - days * 86400
        os.utime(path, (then, then))

    make("a-persons", days=400)
    make("copy-of-ours", days=400, mark="old")
    make("old", days=15, mark="old")
    make("young", days=13, mark="young")
    grown = make("grown", days=400, mark="grown")
    age(grown / "checkpoint", 13)
    with run_in_progress(checkout, "held") as held:  # begun long ago, still at work
        age(Path(held.folder) / MARK, 400)
        age(Path(held.folder), 400)
        with run_in_progress(checkout, "train"):
            pass
        kept = {path.name for path in state.iterdir()}
    assert kept == {"a-persons", "copy-of-ours", "young", "grown", "held", ".locks"}


def test_a_folder_that_a_person_named_like_a_run_is_left_alone(checkout, tmp_path):
    (tmp_path / "state" / "train").mkdir(parents=True)
    (tmp_path / "state" / "train" / "notes").write_text("mine")
    with run_in_progress(checkout, "train") as run:
        assert run.name == "train-2"
    assert (tmp_path / "state" / "train" / "notes").read_text() == "mine"


def test_the_state_may_be_an_fsspec_uri(tmp_path, checkout):
    with run_in_progress(settings(state=f"file://{tmp_path}/remote"), "train") as run:
        assert run.folder == f"file://{tmp_path}/remote/train"
        assert (tmp_path / "remote/train" / MARK).read_text() == "train"
    assert not (tmp_path / "remote/train").exists()


def test_at_a_uri_too_only_runs_of_ours_are_forgotten(tmp_path, checkout):
    del checkout  # whose folder has the locks
    storage = tmp_path / "remote"
    for name, days, mark in (
        ("a-persons", 400, None),
        ("copy", 400, "old"),
        ("old", 15, "old"),
        ("young", 13, "young"),
    ):
        (storage / name).mkdir(parents=True)
        for file, text in [("checkpoint", ""), *([(MARK, mark)] if mark else [])]:
            (storage / name / file).write_text(text)
            os.utime(storage / name / file, (time.time() - days * 86400,) * 2)
    (storage / "train").mkdir()
    (storage / "train" / "notes").write_text("mine")
    with run_in_progress(settings(state=f"file://{storage}"), "train") as run:
        assert run.name == "train-2"
    assert {path.name for path in storage.iterdir()} == {"a-persons", "copy", "young", "train"}
    assert (storage / "train" / "notes").read_text() == "mine"


DEPS = """
stages:
  train:
    foreach: ${train}
    do:
      deps: ['${item.source}', data/raw, tasks/train.py, cnn_core/steps, 'cnn_core/networks/${item.network}.py']
  detect:
    deps: [tasks/detect.py]
"""
CODE = ("tasks/train.py", "cnn_core/steps/one.py", "cnn_core/steps/pages/page.html", "cnn_core/networks/small.py")


@pytest.fixture
def code(tmp_path, monkeypatch):
    for name in (*CODE, "tasks/detect.py", "cnn_core/other.py", "cnn_core/steps/__pycache__/one.pyc", "data/raw/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    (tmp_path / "dvc.yaml").write_text(DEPS)
    monkeypatch.setattr("tasks.engine.state.ROOT", tmp_path)
    return tmp_path


def test_a_runs_key_follows_parameters_and_inputs(code):
    key = key_of("train", params={"a": 1}, data="x")
    assert key == key_of("train", data="x", params={"a": 1})
    others = key_of("train", params={"a": 2}, data="x"), key_of("train", params={"a": 1}, data="y")
    assert len({key, *others, key_of("detect", params={"a": 1}, data="x")}) == 4


def test_a_runs_key_follows_the_code_that_the_stage_depends_on_and_no_other(code):
    assert code_files("train") == sorted(CODE)
    assert code_files("detect") == ["tasks/detect.py"]
    key = key_of("train")
    for name in ("tasks/detect.py", "cnn_core/other.py", "cnn_core/steps/__pycache__/one.pyc", "data/raw/a"):
        (code / name).write_text("second")
        assert key_of("train") == key, name
    keys = {key}
    for name in CODE:
        (code / name).write_text("second")
        keys.add(key_of("train"))
    (code / "cnn_core/steps/two.py").touch()
    keys.add(key_of("train"))
    assert len(keys) == len(CODE) + 2


def test_an_input_is_a_file_a_folder_or_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.pt").write_text("first")
    digests = {input_sha256(tmp_path / "model"), input_sha256(tmp_path / "model/model.pt")}
    (tmp_path / "model/model.pt").write_text("second")
    digests |= {input_sha256(tmp_path / "model"), input_sha256(tmp_path / "model/model.pt")}
    assert len(digests) == 4
    assert input_sha256("data/weights/none") == "none"
