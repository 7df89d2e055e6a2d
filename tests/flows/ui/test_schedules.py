"""What people change of schedules in the UI outlives the next start; a change of prefect.yaml holds all the same."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule

from flows.ui.schedules import merged

pytestmark = pytest.mark.xdist_group("schedules")
NIGHTLY = {"slug": "digits", "cron": "0 2 * * *", "timezone": "UTC", "active": False, "parameters": {"model": "digits"}}


def of_server(slug: str | None, cron: str, *, active: bool = True, **parameters: Any) -> DeploymentSchedule:
    return DeploymentSchedule(slug=slug, schedule=CronSchedule(cron=cron), active=active, parameters=parameters)


def seen(schedules: list[DeploymentScheduleCreate]) -> list[tuple]:
    return [(one.slug, getattr(one.schedule, "cron", None), one.active, one.parameters) for one in schedules]


def test_a_new_deployment_gets_those_of_the_file() -> None:
    expected = [("digits", "0 2 * * *", False, {"model": "digits"})]
    assert seen(merged({"digits": NIGHTLY}, {}, None)) == expected


def test_what_was_added_switched_on_or_deleted_in_the_ui_holds() -> None:
    entries = {"digits": NIGHTLY, "scenes": {**NIGHTLY, "slug": "scenes"}}
    on_server = [of_server("digits", "0 3 * * *", model="digits"), of_server(None, "0 5 * * *", model="detector")]
    assert seen(merged(entries, entries, on_server)) == [
        ("digits", "0 3 * * *", True, {"model": "digits"}),
        (None, "0 5 * * *", True, {"model": "detector"}),
    ]


def test_a_change_of_the_file_holds() -> None:
    changed = {**NIGHTLY, "cron": "0 4 * * *"}
    on_server = [of_server("digits", "0 3 * * *"), of_server("gone", "0 1 * * *"), of_server(None, "0 5 * * *")]
    remembered = {"digits": NIGHTLY, "gone": {**NIGHTLY, "slug": "gone"}}
    assert [one[:3] for one in seen(merged({"digits": changed}, remembered, on_server))] == [
        ("digits", "0 4 * * *", False),
        (None, "0 5 * * *", True),
    ]
