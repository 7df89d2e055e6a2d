"""A challenge: train a challenger in a worktree and compare it with the champion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.runtime import flow_run

from cnn_core.comparison.promotion import Decision, PromotionRule
from flows.execution.stages import run_stages, save_and_share
from flows.registry.data_versions import data_grown_from, data_version, lay_out
from flows.registry.known_classes import known_classes, nothing_in_common, with_names_of_today
from flows.registry.models import Model, champion, history
from flows.registry.promotion import fetch
from flows.registry.results import Result, decide_between, read_result, rows_of_champion
from flows.repository.git import experiment_of
from flows.repository.outputs import outputs
from flows.repository.workspace import Workspace, workspace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Challenge:
    """Who challenges the champion, and the rule that decides."""

    model: Model
    commit: str  # that the challenger is trained at
    source_set: str  # whose inbox the model grows by; empty: none
    source: str  # value of the parameter ingest.<set>.source, without the inbox
    recipe: str | None
    overrides: tuple[str, ...]
    rule: PromotionRule
    unseen: bool  # compare also on test images that came after the champion

    @property
    def settings(self) -> list[Any]:
        """What tells this challenge from others of the same commit and data, as JSON values."""
        return [self.recipe, list(self.overrides), dataclasses.astuple(self.rule), self.unseen]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChallengeOutcome:
    """How a challenge ended."""

    decision: Decision
    figures: str  # a table in Markdown; empty where nothing was compared
    commit: str  # of the experiment that holds the challenger
    experiment: str
    metrics: dict[str, Any]  # of the challenger


def run_challenge(root: Path, challenge: Challenge) -> ChallengeOutcome:
    """Train a challenger in a worktree, save it as an experiment, and compare it with the champion.

    Raises:
        StagesFailed, ValueError: as `run_stages`.
    """
    model = challenge.model
    name = f"retrain-{model.name}-{flow_run.get_name() or 'run'}"
    with workspace(root, name=name, revision=challenge.commit) as worktree:
        overrides = [*challenge.overrides, *_grown_source(root, worktree, challenge)]
        nodes = run_stages(worktree, [model.train, model.evaluate], challenge.recipe, overrides)
        commit = save_and_share(worktree, name, nodes)
        experiment, challenger = experiment_of(root, commit), read_result(worktree.root, model)
        get_run_logger().info("the challenger is the experiment %s", experiment)
        decision, figures = _decide(root, worktree, challenge, challenger, outputs(root, commit), experiment)
    return ChallengeOutcome(
        decision=decision, figures=figures, commit=commit, experiment=experiment, metrics=challenger.metrics
    )


def _grown_source(root: Path, worktree: Workspace, challenge: Challenge) -> list[str]:
    """The override that names the source which the inbox has grown, where there is one."""
    name = challenge.source_set
    if name and (version := data_grown_from(root, name, challenge.source)):
        return [f"ingest.{name}.source={lay_out(worktree, version)}"]
    if name and data_version(root, name):
        get_run_logger().info(
            "the inbox's data grew from another source than %s, which is used alone", challenge.source
        )
    return []


def _decide(
    root: Path,
    worktree: Workspace,
    challenge: Challenge,
    challenger: Result,
    md5s: Mapping[str, str],
    experiment: str,
) -> tuple[Decision, str]:
    """Decide on the challenger, whose outputs have the hashes ``md5s``, and give a table of the figures."""
    model, current = challenge.model, champion(root, challenge.model.name)
    if current is None:
        return Decision(True, f"There was no champion of {model.name} yet."), ""
    if reason := _already_champion(root, model, md5s[model.folder]):
        return Decision(False, reason), ""
    folder = fetch(root, model.name)
    known = known_classes(root, worktree, model, current, folder, challenger)
    if reason := nothing_in_common(known, model, experiment):
        return Decision(False, reason), ""
    folder = with_names_of_today(folder, worktree, known)
    run_stages(worktree, [model.evaluate], None, [f"{model.weights}={folder}"])
    same_data = not model.data or md5s.get(f"data/raw/{model.data}") == current.notes["data_md5"]
    decision, figures = decide_between(
        read_result(worktree.root, model),
        challenger,
        challenge.rule,
        champion_rows=None if same_data else rows_of_champion(root, model, current),
        unseen=challenge.unseen,
        known=known,
    )
    return decision._replace(reason=f"{decision.reason} The champion is {current.name}."), figures


def _already_champion(root: Path, model: Model, md5: str) -> str:
    """A sentence where this very model is or was the champion; else an empty text."""
    same = [entry.version for entry in history(root, model.name) if entry.version.notes["model_md5"] == md5]
    if not same:
        return ""
    if same[-1] == champion(root, model.name):
        return f"The challenger is the champion itself ({same[-1].name}): nothing that it depends on is new."
    return f"The challenger is {same[-1].name}, which was the champion before and was replaced."
