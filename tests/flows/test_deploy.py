"""``make ui``: three deployments are served, runs start from the server, and cancelling one ends every process."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image
from prefect.utilities.schema_tools.validation import ValidationError, build_error_obj, validate

from flows.deploy import read_definition
from flows.deploy import without_work_pool as deployment
from flows.repository.git import git
from flows.repository.recipes import recipes
from flows.ui.artifacts import LARGEST, picture
from flows.ui.forms import Values, form_fields
from flows.ui.heartbeats import EVERY_S, TAG, VARIABLE
from tests.helpers import served as serving
from tests.helpers.served import Served, wait_until

pytestmark = pytest.mark.xdist_group("deploy")

SLEEP = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(987)']).wait()"
NAMES = ["pipeline", "retrain", "batch"]


@pytest.fixture(scope="module")
def forms() -> dict[str, dict]:
    """The schema of each deployment's parameters, as the UI gets it."""
    return {
        one["name"]: deployment(one, [])._parameter_openapi_schema.model_dump()["properties"]
        for one in read_definition()
    }


def keys(node: dict, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield from keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_the_form_offers_the_recipes_there_are(forms: dict[str, dict], repository: Path) -> None:
    for name in ("pipeline", "retrain"):
        assert forms[name]["recipe"]["enum"] == ["", *recipes(repository)]
    assert [one["name"] for one in read_definition()] == NAMES


def test_every_field_of_the_form_is_described_and_may_stay_empty(forms: dict[str, dict]) -> None:
    assert list(forms["pipeline"]) == ["stages", "recipe", "values", "overrides", "isolated", "revision", "name"]
    assert not any(field["default"] for field in forms["pipeline"].values())
    for form in forms.values():
        assert all(field["description"] for field in form.values())
    for one in read_definition():
        assert one["parameters"] == {}
        assert one["work_pool"]["job_variables"]["env"][VARIABLE] == str(EVERY_S)
        assert TAG in one["tags"]


def test_the_values_of_the_form_are_parameters(repository: Path) -> None:
    known = set(keys(yaml.safe_load((repository / "params.yaml").read_text())))
    fields = form_fields(repository)
    assert {field["title"] for field in fields.values()} <= known
    assert {"ingest.digits.source", "train.scenes.epochs", "train_detector.detector.lr0"} <= {
        field["title"] for field in fields.values()
    }
    assert all(field["description"] and "default" not in field for field in fields.values())
    values = Values.model_validate(
        {"train__digits__epochs": 3, "ingest.scenes.source": "a b", "train.digits.seed": None}
    )
    assert list(values.overrides()) == ["train.digits.epochs=3", "ingest.scenes.source=a b"]
    validate_form(fields, repository)


def validate_form(fields: dict[str, dict], repository: Path) -> None:
    """What params.yaml holds is what the form takes."""
    params = yaml.safe_load((repository / "params.yaml").read_text())
    for field in fields.values():
        section, entry, name = field["title"].split(".")
        assert validate({"x": params[section][entry][name]}, {"type": "object", "properties": {"x": field}}) == []


def test_the_form_follows_the_entries(repository: Path, tmp_path: Path) -> None:
    params = yaml.safe_load((repository / "params.yaml").read_text())
    params["train"] = {"birds": params["train"]["scenes"]}
    params["train_detector"] = {}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    names = {field["title"] for field in form_fields(tmp_path).values()}
    assert {name for name in names if name.startswith("train")} == {
        *(f"train.birds.{name}" for name in ("epochs", "learning_rate", "batch_size", "optimizer")),
        *(f"train_segmenter.segmenter.{name}" for name in ("source", "epochs", "learning_rate", "batch")),
    }


@pytest.mark.parametrize(
    ("name", "parameters", "answer"),
    [
        ("pipeline", {"values": {"train__digits__epochs": 0}}, "0 is less than the minimum of 1"),
        ("pipeline", {"values": {"train__digits__optimizer": "adam"}}, "'adam' is not one of ['adamw', 'sgd']"),
        ("pipeline", {"recipe": "tny"}, "'tny' is not one of ['', 'gpu', 'real', 'resnet18', 'tiny']"),
        ("pipeline", {"stages": ["train@digits", ""]}, "'' should be non-empty"),
        ("retrain", {"model": "digit"}, "'digit' is not one of ['digits', 'scenes', 'detector', 'segmenter']"),
        ("batch", {"folder": "a", "steps": ["find"]}, "'find' is not one of ['detect', 'segment', 'classify']"),
    ],
    ids=str,
)
def test_a_wrong_value_is_answered_by_the_field_and_what_is_allowed(name: str, parameters: dict, answer: str) -> None:
    """As the form gets it while a person fills it, and as the API says it."""
    (definition,) = (one for one in read_definition() if one["name"] == name)
    schema = deployment(definition, [])._parameter_openapi_schema.model_dump()
    assert answer in str(build_error_obj(validate(parameters, schema))["errors"])
    assert "given schemas" not in str(build_error_obj(validate(parameters, schema)))
    with pytest.raises(ValidationError, match=re.escape(answer)):
        validate(parameters, schema, raise_on_error=True)


def test_what_the_form_leaves_empty_is_accepted(forms: dict[str, dict]) -> None:
    for definition in read_definition():
        schema = deployment(definition, [])._parameter_openapi_schema.model_dump()
        sent = {key: field["default"] for key, field in schema["properties"].items() if "default" in field}
        needed = {"batch": {"folder": "a"}, "retrain": {"model": "digits"}}.get(definition["name"], {})
        assert validate(sent | needed, schema) == []


def test_a_picture_is_small_enough_for_the_database(tmp_path: Path) -> None:
    Image.effect_noise((200, 150), 100).resize((2000, 1500)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > LARGEST
    shown = picture(tmp_path / "large.png")
    assert "(data:image/jpeg;base64," in shown
    assert len(shown) < 1.4 * LARGEST
    Image.linear_gradient("L").save(tmp_path / "small.png")
    assert picture(tmp_path / "small.png").startswith("**small**\n\n![small](data:image/png;base64,")
    assert picture(tmp_path / "none.png") == ""


@pytest.fixture(scope="module")
def ui(
    tmp_path_factory: pytest.TempPathFactory,
    make_small: Callable,
    environment: dict[str, str],
    repository: Path,
    run: Callable,
) -> Iterator[Served]:
    root = make_small(tmp_path_factory.mktemp("deploy"))
    Image.linear_gradient("L").save(root / "picture.png")
    text = (root / "dvc.yaml").read_text().replace("left.txt l\n", "left.txt l && cp picture.png left.png\n")
    (root / "dvc.yaml").write_text(text.replace("outs: [left.txt]", "outs: [left.txt]\n    plots: [left.png]"))
    run("git", "add", ".", cwd=root)
    run("git", "commit", "-qm", "a picture", cwd=root)
    with serving.serve(root, environment, repository, 4287) as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_run_from_the_server_is_isolated_and_can_be_cancelled(ui: Served, run: Callable) -> None:
    small = ui.root
    before = git(small, "status", "--porcelain")
    done = ui.start("pipeline", {"stages": ["left"], "overrides": ["report.title=theirs"]})
    state = ui.end(done)
    assert state["type"] == "COMPLETED", state
    assert "2 stages ran, 0 were up to date; experiment" in state["message"]
    artifacts = ui.artifacts(done)
    assert "dvc exp apply" in artifacts["summary"]["data"]
    assert "data:image/png;base64" in artifacts["left-plots"]["data"]
    assert git(small, "status", "--porcelain") == before
    assert not (small / "first.txt").exists()

    bad = ui.start("pipeline", {"overrides": ["report.titel=theirs"]})
    assert "report.titel is not a parameter; did you mean report.title" in ui.end(bad)["message"]

    (small / "append.py").write_text(SLEEP)
    run("git", "commit", "-qam", "sleeps", cwd=small)
    running = ui.start("pipeline", {"stages": ["right"], "isolated": True, "overrides": ["report.title=b"]})
    wait_until(lambda: bool(sleepers()), 500)
    ui.cancel(running)
    assert ui.end(running)["type"] == "CANCELLED"
    wait_until(lambda: not sleepers(), 20)


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_what_is_served_is_what_prefect_deploy_makes(ui: Served, repository: Path, run: Callable) -> None:
    """Of the same file, by Prefect's own reader, into a process work pool, with the schedules as the UI has them.

    The last one: it takes the place of what is served.
    """
    retrain = ui.deployments()["retrain"]
    schedules_of_retrain = f"deployments/{retrain['id']}/schedules"
    assert not any(schedule["active"] for schedule in retrain["schedules"])
    on = next(schedule for schedule in retrain["schedules"] if schedule["slug"] == "digits")
    ui.ask(f"{schedules_of_retrain}/{on['id']}", {"active": True}, method="PATCH")  # as the UI does
    wait_until(lambda: all(one["parameters"] for one in ui.deployments()["retrain"]["schedules"]), 120)
    added = {"schedule": {"cron": "0 5 * * *"}, "active": True, "parameters": {"model": "detector"}}
    ui.ask(schedules_of_retrain, [added])
    found = ui.deployments()
    pool = {"name": "gridflow", "type": "process"}
    ui.ask("work_pools/", pool)
    shutil.copy(repository / "prefect.yaml", ui.root)
    options = {"PREFECT_API_URL": ui.api, "PWD": str(ui.root), "PYTHONPATH": str(repository)}
    run("python", "-m", "flows.ui.schedules", cwd=ui.root, timeout=900, **options)
    deployed = ui.deployments()
    same = ("id", "name", "description", "tags", "entrypoint", "parameters", "parameter_openapi_schema")
    for name in NAMES:
        assert deployed[name]["work_pool_name"] == "gridflow"
        for key in same:
            assert deployed[name][key] == found[name][key], (name, key)
        assert deployed[name]["global_concurrency_limit"]["limit"] == found[name]["global_concurrency_limit"]["limit"]
        assert deployed[name]["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert schedules(deployed[name]) == schedules(found[name])
    assert [active for *_, active in schedules(deployed["retrain"])] == [True, True, False]


def schedules(found: dict) -> list[tuple]:
    return sorted(
        (one["slug"] or "", one["schedule"]["cron"], one["parameters"]["model"], one["active"])
        for one in found["schedules"]
    )


def sleepers() -> list[psutil.Process]:
    return [
        one for one in psutil.process_iter(["cmdline"]) if "import time; time.sleep(987)" in (one.info["cmdline"] or [])
    ]
