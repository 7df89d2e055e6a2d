"""Keep what people change of schedules in the UI, though prefect.yaml is registered anew at each start.

What was registered last is remembered in the checkout. An entry of prefect.yaml that has changed since then holds; of
the others the server's schedules hold, those included that were added, switched on or deleted in the UI.

``python -m flows.ui.schedules`` is `prefect deploy --all` that keeps them. By itself that command switches the
schedules of prefect.yaml back to what is written there, and deletes those that were added in the UI without a slug.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cnn_core.files import write_json
from flows.repository.graph import find_root

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import DeploymentSchedule

REMEMBERED = ".gridflow/schedules.json"
Entries = Mapping[str, Any]  # slug -> the entry of prefect.yaml


def register(root: Path, name: str, entries: Sequence[Entries]) -> list[DeploymentScheduleCreate]:
    """The schedules with which a deployment is registered, which are remembered."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound

    file, remembered = root / REMEMBERED, _remembered(root)
    with get_client(sync_client=True) as client:
        try:
            on_server = client.read_deployment_by_name(f"{name}/{name}").schedules
        except ObjectNotFound:
            on_server = None
    now = {entry["slug"]: dict(entry) for entry in entries}
    chosen = merged(now, remembered.get(name, {}), on_server)
    file.parent.mkdir(exist_ok=True)
    write_json(file, {**remembered, name: now})
    return chosen


def merged(
    entries: Entries, remembered: Entries, on_server: Sequence[DeploymentSchedule] | None
) -> list[DeploymentScheduleCreate]:
    """Merge three ways.

    Args:
        entries: of prefect.yaml.
        remembered: those with which the deployment was registered last.
        on_server: what the server has now; None: it does not know the deployment.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    chosen = []
    for slug, entry in entries.items():
        if on_server is not None and remembered.get(slug) == entry:
            continue
        cron = CronSchedule(cron=entry["cron"], timezone=entry.get("timezone", "UTC"))
        rest = {"active": entry.get("active", True), "parameters": entry.get("parameters", {})}
        chosen.append(DeploymentScheduleCreate(schedule=cron, slug=slug, **rest))
    for schedule in on_server or ():
        slug = schedule.slug or ""  # one made in the UI may have none
        changed = slug in entries and remembered.get(slug) != entries[slug]
        removed = slug in remembered and slug not in entries
        if not changed and not removed:
            values = schedule.model_dump(include={"active", "max_scheduled_runs", "parameters", "slug"})
            values["parameters"] = schedule.parameters or entries.get(slug, {}).get("parameters", {})
            chosen.append(DeploymentScheduleCreate(schedule=schedule.schedule, **values))
    return chosen


def restore_parameters(client: SyncPrefectClient, root: Path, say: Callable[[str], None]) -> None:
    """Give schedules that were registered the parameters back that Prefect's server drops when one is switched on.

    Its API takes a change without parameters for one to no parameters (prefect.server.schemas.actions,
    `DeploymentScheduleUpdate`), and the UI sends such changes.
    """
    from prefect.exceptions import ObjectNotFound

    for name, entries in _remembered(root).items():
        if not any(entry.get("parameters") for entry in entries.values()):
            continue
        try:
            deployment = client.read_deployment_by_name(f"{name}/{name}")
        except ObjectNotFound:
            continue
        for schedule in deployment.schedules:
            parameters = entries.get(schedule.slug or "", {}).get("parameters")
            if parameters and not schedule.parameters:
                client.update_deployment_schedule(deployment.id, schedule.id, parameters=parameters)
                say(f"the schedule {schedule.slug} of {name} has its parameters again: {parameters}")


def _remembered(root: Path) -> dict[str, Entries]:
    """The entries with which each deployment was registered last."""
    file = root / REMEMBERED
    return json.loads(file.read_text()) if file.is_file() else {}


def deploy_all(root: Path) -> int:
    """Deploy prefect.yaml into its work pool, and set the schedules as `register` chooses them; Prefect's exit code."""
    from prefect import get_client

    definitions = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    chosen = {one["name"]: register(root, one["name"], one["schedules"]) for one in definitions}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    if code := subprocess.run(command, cwd=root, check=False).returncode:
        return code
    with get_client(sync_client=True) as client:
        for name, schedules in chosen.items():
            deployment = client.read_deployment_by_name(f"{name}/{name}")
            for schedule in deployment.schedules:
                client.delete_deployment_schedule(deployment.id, schedule.id)
            client.create_deployment_schedules(deployment.id, schedules)
    return 0


def main() -> int:
    text = "Deploy prefect.yaml as `prefect deploy --all` does, and keep what was changed of schedules in the UI."
    argparse.ArgumentParser(prog="python -m flows.ui.schedules", description=text).parse_args()
    return deploy_all(find_root())


if __name__ == "__main__":
    sys.exit(main())
