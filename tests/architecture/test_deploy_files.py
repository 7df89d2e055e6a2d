"""The files of deploy/ against the schemas of those who read them, as far as a package brings these."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import Settings
from prefect.settings.legacy import _get_valid_setting_names
from prefect.utilities.templating import apply_values, find_placeholders

from flows.ui.server import SETTINGS
from tasks.engine.runtime import Runtime
from tests.helpers.paths import ROOT

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
KUBERNETES = ("1.31", "1.37")  # the versions against which manifests are held
# What a RayCluster and a RayJob may say, from KubeRay's API reference (ray.io/v1 of KubeRay 1.7): its schema is in no
# package registry, so these are held against names alone. Their pods are held against Kubernetes' own schema.
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling",
           "autoscalerOptions", "suspend"}  # fmt: skip
JOB = {"entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
       "rayClusterSpec", "runtimeEnvYAML", "activeDeadlineSeconds", "submitterPodTemplate"}  # fmt: skip
HEAD = {"serviceType", "rayStartParams", "template", "headService", "enableIngress"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}


def command(*words: str) -> str:
    """What a checker prints when it finds nothing wrong."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def template() -> dict:
    return json.loads((DEPLOY / "kubernetes" / "base-job-template.json").read_text())


def validate(resource: dict) -> None:
    """Against Kubernetes' schema, in which no field may be unknown."""
    for version in KUBERNETES:
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_containerfile_pleases_hadolint() -> None:
    assert command(str(BIN / "hadolint"), str(DEPLOY / "Containerfile")) == ""


def test_the_image_takes_every_extra_and_no_secret() -> None:
    """The line that lists what is installed is run; what holds credentials is kept out."""
    code = re.search(r'python -c "(import tomllib.*?)" >', (DEPLOY / "Containerfile").read_text(), re.DOTALL)
    assert code
    done = subprocess.run(
        [sys.executable, "-c", code[1].replace("\\\n", "")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = done.stdout.splitlines()
    assert {"torch>=2.11,<3", "dvc-s3>=3.3", "prefect-kubernetes>=0.8", "ray[default]>=2.60,<3"} <= set(listed)
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {".dvc/config.local", ".env", "**/*.env"} <= set(ignored)


def test_the_compose_file_follows_its_specification() -> None:
    command(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))
    services = documents("compose.yaml")[0]["services"]
    assert [port for service in services.values() for port in service.get("ports", [])] == ["127.0.0.1:4200:4200"]
    text = (DEPLOY / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+)", text))
    named = set(re.findall(r"^(\w+)=", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE))
    assert wanted == named
    assert re.search(r"PASSWORD=$", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE)  # no usual password


def test_the_worker_of_kubernetes_follows_its_schema() -> None:
    found = documents("kubernetes/worker.yaml")
    assert [one["kind"] for one in found] == ["ServiceAccount", "Role", "RoleBinding", "Deployment"]
    for resource in found:
        validate(resource)
    with pytest.raises(kubernetes_validate.ValidationError):
        validate({**found[-1], "spec": {**found[-1]["spec"], "replica": 1}})


def test_the_job_made_of_the_template_follows_kubernetes_schema() -> None:
    """By Prefect's own rule for templates and its own filling of them."""
    WorkPoolCreate(name="gridflow", type="kubernetes", base_job_template=template())
    variables = template()["variables"]["properties"]
    asked = {found.name for found in find_placeholders(json.dumps(template()["job_configuration"]))}
    assert asked == set(variables)
    for schema in variables.values():
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(schema["default"], schema)
        assert schema["description"]
    given = {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": [{"name": "A", "value": "b"}]}
    values = {name: schema["default"] for name, schema in variables.items()} | given
    job = apply_values(template()["job_configuration"]["job_manifest"], values)
    validate(job)
    assert "{{" not in json.dumps(job)


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_ray_on_kubernetes_is_of_known_fields_and_valid_pods(name: str) -> None:
    *others, ray = documents(f"kuberay/{name}.yaml")
    for resource in others:
        validate(resource)
    assert ray["apiVersion"] == "ray.io/v1"
    spec = ray["spec"]
    if name == "rayjob":
        assert set(spec) <= JOB
        spec = spec["rayClusterSpec"]
    assert set(spec) <= CLUSTER
    assert spec["authOptions"] == {"mode": "token"}
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(head) <= HEAD
    assert head["serviceType"] == "ClusterIP"
    for group in groups:
        assert set(group) <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for part in (head, *groups):
        assert all(isinstance(value, str) for value in part["rayStartParams"].values())
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": part["template"]}
        validate(pods)


def test_every_image_has_a_fixed_version() -> None:
    """Ours that of pyproject.toml, others a whole version or a digest, which a moving tag (17, latest) is not."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    pattern = re.compile(
        r"(?:\bimage: +|--image |--tag |\"default\": \"|^ARG \w+_IMAGE=|^\w+_IMAGE=)(\$\{\w+:-)?([\w./-]+:[\w.@:-]+)"
    )
    images = [match[2] for _, line in lines() for match in pattern.finditer(line)]
    assert {image.partition(":")[0] for image in images} == {"gridflow", "postgres", "python"}
    for image in images:
        name, _, tag = image.partition(":")
        assert tag == version if name == "gridflow" else re.match(r"\d+\.\d+", tag) or "@sha256:" in tag, image
    texts = [
        path.read_text()
        for path in (*sorted(path for path in DEPLOY.rglob("*") if path.is_file()), ROOT / "docs/operations.md")
    ]
    assert not [text for text in texts if ":latest" in text]
    sources = [line.split()[1] for _, line in lines() if line.startswith("FROM ")]
    assert sources == ["${PYTHON_IMAGE}"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_units_please_systemd(tmp_path: Path) -> None:
    """In their place stands this interpreter's folder, for systemd looks whether the commands are there."""
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        text = unit.read_text().replace("/srv/gridflow/.venv/bin", str(BIN)).replace("/srv/gridflow", str(ROOT))
        (tmp_path / unit.name).write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    said = command("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if "gridflow" in line] == []


KEEPER = "python -m flows.ui.keeper"


def test_whatever_takes_runs_has_the_keeper_beside_it() -> None:
    """It ends the runs whose process is gone, so that they hold no place, and makes the automation of heartbeats."""
    services = documents("compose.yaml")[0]["services"]
    workers = [name for name, service in services.items() if "prefect worker start" in str(service.get("command"))]
    keepers = [service for service in services.values() if service.get("command") == KEEPER.split()]
    assert len(workers) == len(keepers) == 1
    assert keepers[0]["restart"] == "unless-stopped"
    assert keepers[0]["environment"]["PREFECT_API_URL"] == services[workers[0]]["environment"]["PREFECT_API_URL"]

    (deployment,) = [one for one in documents("kubernetes/worker.yaml") if one["kind"] == "Deployment"]
    commands = [" ".join(one["command"]) for one in deployment["spec"]["template"]["spec"]["containers"]]
    assert [command for command in commands if command == KEEPER]
    assert [command for command in commands if command.startswith("prefect worker start")]

    units = {path.stem: path.read_text() for path in (DEPLOY / "systemd").glob("*.service")}
    assert re.search(rf"^ExecStart=\S*/{KEEPER}$", units["gridflow-keeper"], re.MULTILINE)
    assert "Restart=on-failure" in units["gridflow-keeper"]
    assert "Wants=gridflow-keeper.service" in units["gridflow-server"]

    by_hand = (ROOT / "docs" / "operations.md").read_text().partition("```")[2].partition("```")[0]
    assert "prefect worker start" in by_hand
    assert KEEPER in by_hand


def test_a_server_that_was_away_takes_no_place_from_a_run() -> None:
    """Its claim is on disk and does not run out; the run asks again for more than five minutes."""
    compose = documents("compose.yaml")[0]["services"]["server"]["environment"]
    unit = (DEPLOY / "systemd" / "gridflow-server.service").read_text()
    for name, value in SETTINGS.items():
        assert compose[name] == value
        assert f"{name}={value}" in unit
    definition = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["work_pool"]
    retries = int(definition["job_variables"]["env"]["PREFECT_CLIENT_MAX_RETRIES"])
    assert sum(2**attempt for attempt in range(1, retries + 1)) > 300  # seconds, by Prefect's waits


def lines() -> Iterator[tuple[Path, str]]:
    for path in sorted(path for path in DEPLOY.rglob("*") if path.is_file()):
        yield from ((path, line) for line in path.read_text().splitlines())


def test_variables_of_the_environment_are_known_to_who_reads_them() -> None:
    prefect = {name.upper() for name in _get_valid_setting_names(Settings)}
    ours = {f"GRIDFLOW_{field.name.upper()}" for field in dataclasses.fields(Runtime)} | {"GRIDFLOW_USER"}
    for path, line in lines():
        for name in re.findall(r"\b(?:PREFECT|GRIDFLOW)_[A-Z0-9_]+", line):
            known = name in prefect | ours or name.startswith("PREFECT_INTEGRATIONS_KUBERNETES_")
            assert known or name == "PREFECT_AUTH", f"{path.name}: {name}"


def test_servers_are_bound_to_loopback_and_none_is_without_authentication() -> None:
    everywhere = {path.name for path, line in lines() if "0.0.0.0" in line}
    assert everywhere == {"compose.yaml"}  # within the containers' network; published on 127.0.0.1
    assert "--host 127.0.0.1" in (DEPLOY / "systemd" / "gridflow-server.service").read_text()
    for name in ("compose.yaml", "systemd/gridflow-server.service"):
        assert "PREFECT_SERVER_API_AUTH_STRING" in (DEPLOY / name).read_text()


def test_servers_delete_old_runs_as_that_of_make_ui_does() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["server"]["environment"]
    for name, value in SETTINGS.items():
        assert str(compose[name]) == value
        assert f"{name}={value}\n" in (DEPLOY / "systemd" / "gridflow-server.service").read_text()
