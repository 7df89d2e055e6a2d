"""Notify people outside the UI by the webhook in ``GRIDFLOW_WEBHOOK``, whose address may hold a secret.

The body is JSON with ``text``, as Slack, Mattermost and Google Chat take it, and the same in fields.
"""

import json
import os
import urllib.request
from typing import Any

from prefect import Flow, get_run_logger
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger
from prefect.settings import get_current_settings

TIMEOUT_S = 10.0


def failed(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Post that a run failed; a hook for a flow's ``on_failure`` and ``on_crashed``."""
    text = f"{flow.name} {flow_run.name}: {(state.name or 'failed').lower()}. {state.message or ''}".strip()
    ui = get_current_settings().ui_url
    post("gridflow.run.failed", text, flow=flow.name, run=flow_run.name, state=state.name,
         url=f"{ui}/runs/flow-run/{flow_run.id}" if ui else None)  # fmt: skip


def promoted(model: str, version: str, commit: str, reason: str) -> None:
    post(
        "gridflow.champion.promoted", f"{model} {version} is the champion. {reason}", model=model, version=version,
        commit=commit, reason=reason
    )  # fmt: skip


def post(event: str, text: str, **fields: Any) -> bool:
    """Post a notification; whether it was delivered. If not, that is a warning, because the run is what counts."""
    address = os.environ.get("GRIDFLOW_WEBHOOK", "")
    if not address:
        return False
    body = json.dumps({"text": text, "event": event, **fields}).encode()
    try:
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"}, method="POST")
        if request.type not in ("http", "https"):
            raise ValueError("not an http address")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return True
    except Exception as error:  # its text may hold the address, so only the type is logged
        _logger().warning(
            "the webhook of GRIDFLOW_WEBHOOK did not take the notification %s: %s", event, type(error).__name__
        )
        return False


def _logger() -> Any:
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("gridflow")
