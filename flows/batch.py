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
from flows.registry.models import Model, Task, champion, find_model, read_models
from flows.registry.promotion import fetch
from flows.repository.git import experiment_of, resolve
from flows.repository.graph import find_root
from flows.repository.outputs import ignored_folder
from flows.repository.workspace import Workspace, safe_name, workspace
from flows.ui import notify
from flows.ui.forms import NOTHING, Empty, ModelName, Override, Text
from tasks.engine.runtime import main_checkout

StepName = Literal["detect", "segment", "classify"]
TASKS: dict[StepName, Task] = {"detect": "detection", "segment": "segmentation", "classify": "classification"}
RECORD = "batch.json"  # in the folder of the results: where they are from
DEFAULT_STEPS: tuple[StepName, ...] = ("detect", "classify")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchStep:
    """A stage of the pipeline that takes any images, with the champion that it uses."""

    model: Model  # whose champion it takes
    prompts: str = ""  # the output of the step that gives a segmenter its boxes

    @property
    def stage(self) -> str:
        return self.model.stages["predict"]

    @property
    def section(self) -> str:
        """The section of params.yaml with its `weights` and `source`."""
        return self.stage.replace("@", ".")

    @property
    def output(self) -> str:
        return f"data/predictions/{self.stage.rpartition('@')[2]}"

    @property
    def overrides(self) -> list[str]:
        values = {} if self.model.task == "classification" else {"match": "*"}  # the entry's own may choose a split
        values |= {"prompt": "boxes", "prompts": self.prompts} if self.prompts else {}
        return [f"{self.section}.{key}={value}" for key, value in values.items()]


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
    models: list[ModelName] | Empty = NOTHING,
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
        models: The models that do it. Empty: of each task the only model, or the only one with a champion.
        output: The folder for the results; empty: data/batch/<run>.
        overrides: Parameters as key=value, such as detect.detector.weights=data/weights/yolo11n.pt.
        revision: The commit whose code runs; empty: the checkout's commit.
    """
    root, name = main_checkout(find_root()), safe_name(f"batch-{flow_run.get_name() or 'run'}")
    target = root / output if output else ignored_folder(root / "data" / "batch") / name
    try:
        check_sharing(root)
        source = check_folders(root / folder, target)
        chosen = choose_steps(root, steps or DEFAULT_STEPS, models or (), overrides or [])
        weights, used = champions_of(root, chosen, overrides or [])
        with workspace(root, name=name, revision=resolve(root, revision or "HEAD")) as worktree:
            settings = [f"{step.section}.source={source}" for step in chosen]
            settings += [override for step in chosen for override in step.overrides]
            stages = [step.stage for step in chosen]
            nodes = run_stages(worktree, stages, None, [*settings, *weights, *(overrides or [])])
            commit = save_and_share(worktree, name, nodes)
            run = {"experiment": experiment_of(root, commit), "commit": commit}
            collect(worktree, chosen, target, {"source": str(source), "models": used, **run})
    except (ValueError, StagesFailed) as error:
        return Failed(message=str(error), data=str(error))
    text = "\n".join(
        [f"Results: {code(target)}", "", *(f"- {stage}: {escape(model)}" for stage, model in used.items())]
    )
    create_markdown_artifact(text, key="batch", description=f"{folder} through the champions")
    get_run_logger().info("results: %s", target)
    return Completed(message=f"{', '.join(stages)}: {target}", data=str(target))


def choose_steps(
    root: Path, names: Sequence[StepName], models: Sequence[str], overrides: Sequence[str]
) -> list[BatchStep]:
    """Describe the steps that were asked for; what a step before it detected is segmented box by box.

    Raises:
        ValueError: it is not clear which model does a step, or nothing gives the segmenter its prompts.
    """
    chosen, steps = [find_model(root, name) for name in models], list[BatchStep]()
    for name in names:
        model = choose_model(root, TASKS[name], [model for model in chosen if model.task == TASKS[name]])
        boxes = next((step.output for step in steps if step.model.task == "detection"), "")
        step = BatchStep(model=model, prompts=boxes if model.task == "segmentation" else "")
        prompted = tuple(f"{step.section}.{setting}" for setting in ("prompts=", "prompt=everything"))
        if name == "segment" and not boxes and not any(override.startswith(prompted) for override in overrides):
            raise ValueError(f"segment takes its prompts from detect: name that step before it, or {prompted[0]}FILE")
        steps.append(step)
    return steps


def choose_model(root: Path, task: Task, chosen: Sequence[Model]) -> Model:
    """The model that was chosen for a task; else the only one, or the only one with a champion.

    Raises:
        ValueError: there is none, or more than one.
    """
    candidates = list(chosen) or [model for model in read_models(root).values() if model.task == task]
    if len(candidates) > 1:
        candidates = [model for model in candidates if champion(root, model.name)] or candidates
    if len(candidates) != 1:
        names = ", ".join(model.name for model in candidates)
        raise ValueError(f"name one model for {task}: {names}" if names else f"there is no model for {task} here")
    return candidates[0]


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
        name = step.model.name
        current = champion(root, name)
        if current is None:
            raise ValueError(
                f"{step.stage} needs a champion of {name}, and there is none yet: promote one "
                f"(gridflow champions promote {name}), or name weights with {key}=PATH"
            )
        settings.append(f"{key}={fetch(root, name)}")
        models[step.stage] = f"{name} {current.name} ({current.commit[:10]})"
    return settings, models


def collect(worktree: Workspace, steps: Sequence[BatchStep], target: Path, origin: dict[str, Any]) -> None:
    """Copy the steps' outputs into one folder, with their origin in ``batch.json``."""
    with whole_folder(target) as partial:
        for step in steps:
            shutil.copytree(worktree.root / step.output, partial / Path(step.output).name, symlinks=False)
        folders = [Path(step.output).name for step in steps]
        write_json(partial / RECORD, {**origin, "folders": folders})


def _folders(target: Path) -> list[str]:
    """The folders of an earlier batch's results; a version that did not list them knew these."""
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
