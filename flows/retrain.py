"""The retraining flow: new data, a challenger, and a promotion only if it is better."""

from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed
from pydantic import Field

from cnn_core.comparison.promotion import PromotionRule
from cnn_core.markdown import code, escape
from flows.execution.sharing import check_sharing
from flows.execution.stages import StagesFailed, stage_threads
from flows.registry.challenge import Challenge, ChallengeOutcome, run_challenge
from flows.registry.fingerprint import chosen_source, fingerprint, former_outcome, remember
from flows.registry.inbox import DriftPolicy, take_in
from flows.registry.models import Model, Version, champion, find_model, learns_from_set, source_of
from flows.registry.promotion import promote
from flows.repository.git import resolve
from flows.repository.graph import find_root
from flows.ui import notify
from flows.ui.forms import Empty, ModelName, Override, Recipe
from tasks.engine.runtime import main_checkout


class Approval(RunInput):
    """What a person is asked for in the UI before a promotion."""

    promote: bool = Field(default=False, description="Make the challenger the champion")
    reason: str = Field(default="", description="For the audit")


@flow(
    name="retrain",
    description="Takes in what is new, trains a challenger and promotes it only if it is better than the champion.",
    task_runner=stage_threads(),
    persist_result=False,
    on_failure=[notify.failed],
    on_crashed=[notify.failed],
)
def retrain(
    model: ModelName,
    recipe: Recipe | Empty = "",
    overrides: list[Override] | None = None,
    revision: str | Empty = "",
    inbox: str | Empty = "",
    drift: DriftPolicy = "warn",
    background: bool = False,
    margin: Annotated[float, Field(ge=0, le=1)] = 0.0,
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.05,
    class_bound: Annotated[float, Field(ge=0, le=1)] = 0.05,
    unseen: bool = False,
    approve: bool = False,
    approval_hours: Annotated[float, Field(gt=0)] = 24.0,
    force: bool = False,
) -> State[str]:
    """Take in new data, train a challenger, and promote it only if it is better.

    Nothing of the checkout changes but the inbox.

    Args:
        model: The model whose champion is challenged.
        recipe: A set of parameters from recipes/; empty: as committed.
        overrides: Parameters as key=value, over the recipe's.
        revision: The commit or branch to train at; empty: the checkout's commit.
        inbox: The folder with new data; empty: data/inbox/<set>. A model takes in what comes for the set that
            it learns from; what is made of a set's images grows with the set.
        drift: What happens to new data that differ from the old.
        background: In a set of boxes or masks, take images without a label as images that show no
            object. Without it they are left out, but for those in a folder called background.
        margin: The share of right answers (detector: mAP50; segmenter: mean IoU) by which the
            challenger has to be better.
        alpha: The highest p-value that counts as better (McNemar's test; detector, segmenter:
            paired bootstrap).
        class_bound: The share of right answers (detector: AP50; segmenter: mean IoU) by which the
            challenger may be worse in a class.
        unseen: Compare also on test images that came after the champion, not only on those that
            both know.
        approve: Ask a person before a promotion.
        approval_hours: How long to wait for that person.
        force: Train and compare although nothing is new.
    """
    root, settings = main_checkout(find_root()), tuple(overrides or ())
    try:
        kind = find_model(root, model)
        check_sharing(root)
        commit, (name, path) = resolve(root, revision or "HEAD"), source_of(root, kind, origin=True)
        challenge = Challenge(
            model=kind,
            commit=commit,
            source_set=name,
            source=chosen_source(root, commit, name, recipe or None, settings) if name else path,
            recipe=recipe or None,
            overrides=settings,
            rule=PromotionRule(margin=margin, alpha=alpha, class_bound=class_bound),
            unseen=unseen,
        )
        sentences = take_in_waiting(root, challenge, inbox or None, drift, background=background)
        state_hash = fingerprint(root, name, commit, challenge.source, challenge.settings)
        if not force and (former := former_outcome(root, model, state_hash)):
            return Completed(message="; ".join(["nothing new", *sentences, f"the last time: {former}"]))
        outcome = run_challenge(root, challenge)
    except (ValueError, StagesFailed) as error:
        return Failed(message=str(error), data=str(error))
    get_run_logger().info(outcome.decision.reason)
    publish_outcome(kind, outcome)
    return conclude(root, model, outcome, state_hash, approval_hours if approve else None)


def take_in_waiting(
    root: Path, challenge: Challenge, inbox: str | None, drift: DriftPolicy, *, background: bool
) -> list[str]:
    """Take in what waits in the inbox of the set that the model learns from; a sentence for each delivery."""
    if not learns_from_set(root, challenge.model):
        return []
    intake = take_in(
        root,
        challenge.source_set,
        challenge.source,
        inbox=root / inbox if inbox else None,
        revision=challenge.commit,
        drift=drift,
        background=background,
        say=get_run_logger().info,
    )
    return intake.sentences


def conclude(
    root: Path, name: str, outcome: ChallengeOutcome, state_hash: str, approval_hours: float | None
) -> State[str]:
    """Promote the challenger or keep the champion, and remember the outcome for the fingerprint ``state_hash``.

    Without ``approval_hours`` nobody is asked. Where nobody answers in time, nothing is remembered, so the next
    retraining asks again.
    """
    reason = outcome.decision.reason
    if not outcome.decision.promoted:
        return keep(root, name, state_hash, reason)
    approved = ""
    if approval_hours is not None and champion(root, name):
        approval = ask(outcome, approval_hours)
        if approval is None:
            message = f"kept: nobody approved within {approval_hours:g} hours. {reason}"
            return Completed(message=message, data="")
        if not approval.promote:
            return keep(root, name, state_hash, f"a person declined ({approval.reason or 'no reason given'}). {reason}")
        approved = f" Approved by a person{f': {approval.reason}' if approval.reason else ''}."
    version = promote(root, name, outcome.commit, reason=reason + approved, metrics=outcome.metrics)
    remember(root, name, state_hash, f"{version.name} was promoted")
    announce(version, reason)
    notify.promoted(name, version.name, version.commit, reason + approved)
    return Completed(message=f"promoted: {name} {version.name}. {reason}{approved}", data=version.name)


def keep(root: Path, name: str, state_hash: str, reason: str) -> State[str]:
    remember(root, name, state_hash, f"kept. {reason}")
    return Completed(message=f"kept: {reason}", data="")


def ask(outcome: ChallengeOutcome, hours: float) -> Approval | None:
    """A person's decision in the UI; None when nobody answers in time."""
    text = f"{escape(outcome.decision.reason)}\n\n{outcome.figures}"
    get_run_logger().info("waiting for a person's approval: Resume this run in the UI")
    try:
        return pause_flow_run(wait_for_input=Approval.with_initial_data(description=text), timeout=int(hours * 3600))
    except FlowPauseTimeout:
        return None


def publish_outcome(model: Model, outcome: ChallengeOutcome) -> None:
    heading = "Challenger is better" if outcome.decision.promoted else "Champion is kept"
    origin = f"Experiment {code(outcome.experiment)}, commit {code(outcome.commit)}."
    text = "\n\n".join([f"# {heading}", escape(outcome.decision.reason), outcome.figures, origin])
    create_markdown_artifact(text, key=f"challenge-{model.name}", description=f"{model.name}: champion and challenger")


def announce(version: Version, reason: str) -> None:
    """Send the event on which Prefect's automations may act."""
    emit_event(
        "gridflow.champion.promoted",
        resource={
            "prefect.resource.id": f"gridflow.champion.{version.model}",
            "prefect.resource.name": f"{version.model} {version.name}",
        },
        payload={"model": version.model, "version": version.name, "commit": version.commit, "reason": reason},
    )
