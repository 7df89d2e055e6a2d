"""The batch flow: send a folder of images through the champions (detect, segment, classify)."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from cnn_core.files import read_json, whole_folder, write_json
from cnn_core.markdown import code, escape
from flows.execution.sharing import check_sharing
from flows.execution.stages import StagesFailed, run_stages, save_and_share, stage_threads
from flows.registry.models import champion
from flows.registry.promotion import fetch
from flows.repository.git import experiment_of, resolve
from flows.repository.graph import find_root
from flows.repository.outputs import ignored_folder
from flows.repository.workspace import Workspace, safe_name, workspace
from flows.ui import notify
from flows.ui.forms import NOTHING, Empty, Override, Text
from tasks.engine.runtime import main_checkout

StepName = Literal["detect", "segment", "classify"]
RECORD = "batch.json"  # in the folder of the results: where they are from
DEFAULT_STEPS: tuple[StepName, ...] = ("detect", "classify")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchStep:
    """A stage of the pipeline that takes any images, with the champion that it uses."""

    stage: str
    section: str  # of params.yaml: its `weights` and `source`
    output: str
    model: str  # whose champion it takes
    prompts: tuple[str, ...] = ()  # overrides that name the segmenter's prompts


def batch_step(name: str, classifier: str, earlier: Sequence[str]) -> BatchStep:
    """Describe one step; what a step in ``earlier`` detected is segmented box by box."""
    if name == "classify":
        section, output = f"predict.{classifier}", f"data/predictions/{classifier}"
        return BatchStep(stage=f"predict@{classifier}", section=section, output=output, model=classifier)
    output = f"data/predictions/{name}"
    if name == "detect":
        return BatchStep(stage=name, section=name, output=output, model="detector")
    prompts = ("segment.prompt=boxes", "segment.prompts=data/predictions/detect") if "detect" in earlier else ()
    return BatchStep(stage=name, section=name, output=output, model="segmenter", prompts=prompts)


@flow(
    name="batch",
    description="Sends a folder of images through the champions: detect, segment, classify.",
    task_runner=stage_threads(),
    persist_result=False,
    on_failure=[notify.failed],
    on_crashed=[notify.failed],
)
def batch(
    folder: Text,
    steps: list[StepName] | Empty = NOTHING,
    classifier: Literal["digits", "scenes"] = "scenes",
    output: str | Empty = "",
    overrides: list[Override] | None = None,
    revision: str | Empty = "",
) -> State[str]:
    """Send a folder of images through the champions.

    Nothing of the checkout changes but the folder of the results.

    Args:
        folder: The images: a folder or .zip; a relative path starts at the checkout.
        steps: What is done; empty: detect and classify. segment takes its boxes from detect, before
            it.
        classifier: The model that classifies.
        output: The folder for the results; empty: data/batch/<run>.
        overrides: Parameters as key=value, such as detect.weights=data/weights/yolo11n.pt.
        revision: The commit whose code runs; empty: the checkout's commit.
    """
    root, name = main_checkout(find_root()), safe_name(f"batch-{flow_run.get_name() or 'run'}")
    target = root / output if output else ignored_folder(root / "data" / "batch") / name
    try:
        check_sharing(root)
        source = check_folders(root / folder, target)
        chosen = choose_steps(steps or DEFAULT_STEPS, classifier, overrides or [])
        weights, models = champions_of(root, chosen, overrides or [])
        with workspace(root, name=name, revision=resolve(root, revision or "HEAD")) as worktree:
            settings = [f"{step.section}.source={source}" for step in chosen]
            settings += [override for step in chosen for override in step.prompts]
            stages = [step.stage for step in chosen]
            nodes = run_stages(worktree, stages, None, [*settings, *weights, *(overrides or [])])
            commit = save_and_share(worktree, name, nodes)
            run = {"experiment": experiment_of(root, commit), "commit": commit}
            collect(worktree, chosen, target, {"source": str(source), "models": models, **run})
    except (ValueError, StagesFailed) as error:
        return Failed(message=str(error), data=str(error))
    text = "\n".join(
        [f"Results: {code(target)}", "", *(f"- {stage}: {escape(model)}" for stage, model in models.items())]
    )
    create_markdown_artifact(text, key="batch", description=f"{folder} through the champions")
    get_run_logger().info("results: %s", target)
    return Completed(message=f"{', '.join(stages)}: {target}", data=str(target))


def choose_steps(names: Sequence[StepName], classifier: str, overrides: Sequence[str]) -> list[BatchStep]:
    """Describe the steps that were asked for.

    Raises:
        ValueError: nothing gives the segmenter its prompts.
    """
    steps = [batch_step(name, classifier, names[:index]) for index, name in enumerate(names)]
    prompted = any(override.startswith(("segment.prompts=", "segment.prompt=everything")) for override in overrides)
    if any(step.stage == "segment" and not step.prompts for step in steps) and not prompted:
        raise ValueError("segment takes its prompts from detect: name that step before it, or segment.prompts=FILE")
    return steps


def champions_of(root: Path, steps: Sequence[BatchStep], overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides that give the steps their champions' weights, and stage -> model, for people.

    A step whose weights an override names keeps them.

    Raises:
        ValueError: a champion is needed and there is none.
    """
    values = dict(override.partition("=")[::2] for override in overrides)
    settings, models = [], {}
    for step in steps:
        key = f"{step.section}.weights"
        if key in values:
            models[step.stage] = values[key]
            continue
        current = champion(root, step.model)
        if current is None:
            raise ValueError(
                f"{step.stage} needs a champion of {step.model}, and there is none yet: promote one "
                f"(gridflow champions promote {step.model}), or name weights with {key}=PATH"
            )
        settings.append(f"{key}={fetch(root, step.model)}")
        models[step.stage] = f"{step.model} {current.name} ({current.commit[:10]})"
    return settings, models


def collect(worktree: Workspace, steps: Sequence[BatchStep], target: Path, origin: dict[str, Any]) -> None:
    """Copy the steps' outputs into one folder, with their origin in ``batch.json``."""
    with whole_folder(target) as partial:
        for step in steps:
            shutil.copytree(worktree.root / step.output, partial / Path(step.output).name, symlinks=False)
        folders = [Path(step.output).name for step in steps]
        write_json(partial / RECORD, {**origin, "folders": folders})


def _folders(target: Path) -> list[str]:
    """The folders of an earlier batch's results; one of a version that did not list them may have any of these."""
    return read_json(target / RECORD, made_by="batch").get("folders", ["detect", "segment", "digits", "scenes"])


def check_folders(source: Path, target: Path) -> Path:
    """Check both folders before anything runs; the images' absolute path.

    Raises:
        ValueError: there are no images, or the results cannot go to ``target``.
    """
    if not source.exists():
        raise ValueError(f"{source} does not exist: name a folder or .zip of images")
    if target.exists() and not (target / RECORD).is_file():
        raise ValueError(f"{target} exists and holds no results of a batch: name another folder for them")
    if target.exists() and (others := {path.name for path in target.iterdir()} - {RECORD, *_folders(target)}):
        names = ", ".join(sorted(others)[:3])
        raise ValueError(f"{target} also holds {names}, which would be lost: name another folder for the results")
    if target.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(target.resolve()):
        raise ValueError(f"the results cannot go into the folder of the images, {source}, nor around it")
    return source.resolve()
