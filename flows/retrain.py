"""The retraining flow: new data in, a challenger trained beside everything else, and promoted only if it is better."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from cnn_core.comparison.promotion import PromotionRule
from flows.execution.sharing import check_sharing
from flows.execution.stages import stage_threads
from flows.execution.worktree_run import StagesFailed, run_stages, save_and_share
from flows.registry.inbox import Intake, data_version, lay_out, present_data, take_in
from flows.registry.models import MODELS, Model, champion, history
from flows.registry.news import chosen_source, fingerprint, remember, remembered
from flows.registry.promotion import fetch, promote
from flows.registry.results import decide_between, read_result, rows_of_champion
from flows.repository.git import experiment_of, resolve
from flows.repository.graph import find_root
from flows.repository.outputs import outputs
from flows.repository.workspace import workspace
from flows.ui import notify
from flows.ui.forms import Override, Recipe, Text
from tasks.engine.runtime import main_checkout


class Approval(RunInput):
    """What a person is asked for in the UI before a promotion."""

    promote: bool = Field(default=False, description="Make the challenger the champion")
    reason: str = Field(default="", description="For the audit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a challenge ended, and the figures."""

    better: bool
    why: str
    commit: str  # the experiment
    experiment: str
    metrics: dict[str, Any]
    figures: str = ""  # a table in Markdown


@flow(
    name="retrain",
    description="Takes in what is new, trains a challenger and promotes it only if it is better than the champion.",
    task_runner=stage_threads(),
    persist_result=False,
    on_failure=[notify.failed],
    on_crashed=[notify.failed],
)
def retrain(
    model: Literal["digits", "scenes", "detector", "segmenter"] = "digits",
    recipe: Recipe | None = None,
    overrides: list[Override] | None = None,
    revision: Text | None = None,
    inbox: Text | None = None,
    drift: Literal["off", "warn", "stop"] = "warn",
    margin: Annotated[float, Field(ge=0, le=1)] = 0.0,
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.05,
    class_bound: Annotated[float, Field(ge=0, le=1)] = 0.05,
    unseen: bool = False,
    approve: bool = False,
    approval_hours: Annotated[float, Field(gt=0)] = 24.0,
    force: bool = False,
) -> State[str]:
    """Ingest what is new, train, evaluate champion and challenger on the same held-out images, promote or keep.

    Nothing of the checkout changes but the inbox.

    Args:
        model: which champion is challenged.
        recipe: a set of parameters from recipes/; empty: as committed.
        overrides: parameters as key=value, over the recipe's.
        revision: commit or branch to train at; empty: the checkout's commit.
        inbox: folder with new data; empty: data/inbox/<model>. Detector and segmenter grow by the digits'.
        drift: what happens to new data that differ from the old.
        margin: share of right answers (detector: mAP50; segmenter: mean IoU) by which the challenger has to be better.
        alpha: what the p-value may be at most (McNemar's test; detector, segmenter: paired bootstrap).
        class_bound: share of right answers (detector: AP50; segmenter: mean IoU) by which it may be worse in a class.
        unseen: compare also on test images that came after the champion, not only on those that both know.
        approve: ask a person before a promotion.
        approval_hours: how long to wait for that person.
        force: train and compare although nothing is new.
    """
    root, say, kind = main_checkout(find_root()), get_run_logger().info, MODELS[model]
    rule = PromotionRule(margin=margin, alpha=alpha, class_bound=class_bound)
    chosen = list(overrides or [])
    try:
        check_sharing(root)
        commit = resolve(root, revision or "HEAD")
        source = chosen_source(root, commit, kind.source, recipe, chosen)
        folder = root / inbox if inbox else None
        intake = Intake(version=None, told=[])
        if kind.data:
            intake = take_in(root, model, source, inbox=folder, revision=commit, drift=drift, say=say)
        now = fingerprint(root, kind.source, commit, source, [recipe, chosen, dataclasses.astuple(rule), unseen])
        if not force and (former := remembered(root, model, now)):
            refused = "; ".join(intake.told)
            return Completed(message="; ".join(filter(None, ["nothing new", refused, f"the last time: {former}"])))
        verdict = challenge(root, kind, commit, source, recipe, chosen, rule, unseen=unseen)
    except (ValueError, StagesFailed) as error:
        return Failed(message=str(error), data=str(error))
    say(verdict.why)
    publish(kind, verdict)
    if not verdict.better:
        return _kept(root, model, now, verdict.why)
    reason, by_hand = verdict.why, ""
    if approve and champion(root, model):
        answer = ask(verdict, approval_hours)
        if answer is None:
            return Completed(message=f"kept: nobody approved within {approval_hours:g} hours. {verdict.why}", data="")
        if not answer.promote:
            return _kept(root, model, now, f"a person declined ({answer.reason or 'no reason given'}). {verdict.why}")
        by_hand = f" Approved by a person{f': {answer.reason}' if answer.reason else ''}."
    version = promote(root, model, verdict.commit, reason=reason + by_hand, metrics=verdict.metrics)
    remember(root, model, now, f"{version.name} was promoted")
    emit_event(
        "gridflow.champion.promoted",
        resource={
            "prefect.resource.id": f"gridflow.champion.{model}",
            "prefect.resource.name": f"{model} {version.name}",
        },
        payload={"model": model, "version": version.name, "commit": version.commit, "reason": reason},
    )
    notify.promoted(model, version.name, version.commit, reason + by_hand)
    return Completed(message=f"promoted: {model} {version.name}. {reason}{by_hand}", data=version.name)


def challenge(
    root: Path, kind: Model, commit: str, source: str, recipe: str | None, overrides: Sequence[str],
    rule: PromotionRule, *, unseen: bool
) -> Verdict:  # fmt: skip
    """Train in a worktree, save the experiment, and let champion and challenger answer the same test part.

    Raises:
        StagesFailed: a stage failed.
        ValueError: something is missing or a parameter is wrong; nothing has run.
    """
    say = get_run_logger().info
    name = f"retrain-{kind.name}-{flow_run.get_name() or 'run'}"
    with workspace(root, name=name, revision=commit) as place:
        if version := present_data(root, kind.source, source):  # the grown source, not the one that it grew from
            overrides = [*overrides, f"ingest.{kind.source}.source={lay_out(place, kind.source, version)}"]
        elif data_version(root, kind.source):
            say(f"the inbox's data grew from another source than {source}, which is used alone")
        saved = save_and_share(place, name, run_stages(place, [kind.train, kind.evaluate], recipe, overrides))
        challenger, made = read_result(place.root, kind), outputs(root, saved)
        told = {"commit": saved, "experiment": experiment_of(root, saved), "metrics": challenger.metrics}
        say(f"the challenger is the experiment {told['experiment']}")
        now = champion(root, kind.name)
        if now is None:
            return Verdict(better=True, why=f"There was no champion of {kind.name} yet.", **told)
        if why := _known_already(root, kind, made[kind.folder]):
            return Verdict(better=False, why=why, **told)
        run_stages(place, [kind.evaluate], None, [f"{kind.weights}={fetch(root, kind.name)}"])
        former = read_result(place.root, kind)
        same_data = not kind.data or made.get(f"data/raw/{kind.data}") == now.notes["data_md5"]
        rows = None if same_data else rows_of_champion(root, kind, now)
        (better, why), figures = decide_between(former, challenger, rule, champion_rows=rows, unseen=unseen)
        return Verdict(better=better, why=f"{why} The champion is {now.name}.", figures=figures, **told)


def ask(verdict: Verdict, hours: float) -> Approval | None:
    """What a person decides in the UI; None when nobody does in time."""
    text = f"{verdict.why}\n\n{verdict.figures}"
    get_run_logger().info("waiting for a person's approval: Resume this run in the UI")
    try:
        return pause_flow_run(wait_for_input=Approval.with_initial_data(description=text), timeout=int(hours * 3600))
    except FlowPauseTimeout:
        return None


def publish(kind: Model, verdict: Verdict) -> None:
    """The verdict as an artifact of the run."""
    heading = "Challenger is better" if verdict.better else "Champion is kept"
    origin = f"Experiment `{verdict.experiment}`, commit `{verdict.commit}`."
    text = "\n\n".join([f"# {heading}", verdict.why, verdict.figures, origin])
    create_markdown_artifact(text, key=f"challenge-{kind.name}", description=f"{kind.name}: champion and challenger")


def _known_already(root: Path, kind: Model, md5: str) -> str:
    """A sentence when just this model is or was the champion."""
    assigned = history(root, kind.name)
    if assigned[-1].version.notes["model_md5"] == md5:
        return (
            f"The challenger is the champion itself ({assigned[-1].version.name}): nothing that it depends on is new."
        )
    for entry in assigned:
        if entry.version.notes["model_md5"] == md5:
            return f"The challenger is {entry.version.name}, which was the champion before and was replaced."
    return ""


def _kept(root: Path, model: str, now: str, why: str) -> State[str]:
    remember(root, model, now, f"kept. {why}")
    return Completed(message=f"kept: {why}", data="")
