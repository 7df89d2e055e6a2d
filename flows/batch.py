"""The batch flow: a folder of images through the champions, on demand: detect, segment, classify."""

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

from cnn_core.files import whole_folder, write_json
from flows.execution.sharing import check_sharing
from flows.execution.stages import stage_threads
from flows.execution.worktree_run import StagesFailed, run_stages, save_and_share
from flows.registry.models import champion
from flows.registry.promotion import fetch
from flows.repository.git import experiment_of, resolve
from flows.repository.graph import find_root
from flows.repository.outputs import own_folder
from flows.repository.workspace import Workspace, safe_name, workspace
from flows.ui import notify
from flows.ui.forms import Override, Text
from tasks.engine.runtime import main_checkout

Steps = Literal["detect", "segment", "classify"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of the pipeline that takes any images, fed with a folder and a champion."""

    stage: str
    section: str  # of params.yaml: its `weights` and `source`
    output: str
    model: str  # whose champion it takes
    more: tuple[str, ...] = ()  # further overrides


def step(name: str, classifier: str, earlier: Sequence[str]) -> Step:
    """
    Args:
        earlier: the steps before it: what was detected is segmented box by box.
    """
    if name == "classify":
        section, output = f"predict.{classifier}", f"data/predictions/{classifier}"
        return Step(stage=f"predict@{classifier}", section=section, output=output, model=classifier)
    if name == "detect":
        return Step(stage="detect", section="detect", output="data/predictions/detect", model="detector")
    boxes = ("segment.prompt=boxes", "segment.prompts=data/predictions/detect") if "detect" in earlier else ()
    return Step(stage="segment", section="segment", output="data/predictions/segment", model="segmenter", more=boxes)


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
    steps: list[Steps] | None = None,
    classifier: Literal["digits", "scenes"] = "scenes",
    output: Text | None = None,
    overrides: list[Override] | None = None,
    revision: Text | None = None,
) -> State[str]:
    """Nothing of the checkout changes but the folder of the results.

    Args:
        folder: images: a folder or .zip; a relative path means the checkout.
        steps: what is done; empty: detect and classify. segment takes its boxes from detect, before it.
        classifier: whose classes.
        output: where the results go; empty: data/batch/<run>.
        overrides: parameters as key=value, such as detect.weights=data/weights/yolo11n.pt.
        revision: commit whose code runs; empty: the checkout's commit.
    """
    root, name = main_checkout(find_root()), safe_name(f"batch-{flow_run.get_name() or 'run'}")
    target = root / output if output else own_folder(root / "data" / "batch") / name
    try:
        check_sharing(root)
        source = _checked(root / folder, target)
        chosen = [
            step(each, classifier, (steps or [])[:place]) for place, each in enumerate(steps or ("detect", "classify"))
        ]
        if any(each.stage == "segment" and not each.more for each in chosen) and not _prompted(overrides or []):
            raise ValueError("segment takes its prompts from detect: name that step before it, or segment.prompts=FILE")
        settings, models = champions_of(root, chosen, overrides or [])
        with workspace(root, name=name, revision=resolve(root, revision or "HEAD")) as place:
            inputs = [f"{each.section}.source={source}" for each in chosen]
            more = [override for each in chosen for override in each.more]
            stages = [each.stage for each in chosen]
            nodes = run_stages(place, stages, None, [*inputs, *more, *settings, *(overrides or [])])
            commit = save_and_share(place, name, nodes)
            story = {
                "source": str(source),
                "models": models,
                "experiment": experiment_of(root, commit),
                "commit": commit,
            }
            collect(place, chosen, target, story)
    except (ValueError, StagesFailed) as error:
        return Failed(message=str(error), data=str(error))
    text = "\n".join([f"Results: `{target}`", "", *(f"- {key}: {value}" for key, value in models.items())])
    create_markdown_artifact(text, key="batch", description=f"{folder} through the champions")
    get_run_logger().info("results: %s", target)
    return Completed(message=f"{', '.join(each.stage for each in chosen)}: {target}", data=str(target))


def champions_of(root: Path, chosen: Sequence[Step], overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides that give each step its champion, and what each takes, for people; an override of weights goes before.

    Raises:
        ValueError: a champion is needed and there is none.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    settings, models = [], {}
    for each in chosen:
        key = f"{each.section}.weights"
        if key in given:
            models[each.stage] = given[key]
            continue
        now = champion(root, each.model)
        if now is None:
            raise ValueError(
                f"{each.stage} needs a champion of {each.model}, and there is none yet: promote one "
                f"(gridflow champions promote {each.model}), or name weights with {key}=PATH"
            )
        settings.append(f"{key}={fetch(root, each.model)}")
        models[each.stage] = f"{each.model} {now.name} ({now.commit[:10]})"
    return settings, models


def collect(place: Workspace, chosen: Sequence[Step], target: Path, story: dict[str, Any]) -> None:
    """The steps' outputs, copied into one folder, a folder each, with ``batch.json``: where they come from."""
    with whole_folder(target) as partial:
        for each in chosen:
            made = place.root / each.output
            shutil.copytree(made, partial / Path(each.output).name, symlinks=False)
        write_json(partial / "batch.json", story)


def _prompted(overrides: Sequence[str]) -> bool:
    return any(override.startswith(("segment.prompts=", "segment.prompt=everything")) for override in overrides)


def _checked(source: Path, target: Path) -> Path:
    if not source.exists():
        raise ValueError(f"{source} does not exist: name a folder or .zip of images")
    if target.exists() and not (target / "batch.json").is_file():
        raise ValueError(f"{target} exists and holds no results of a batch: name another folder for them")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"the results cannot go into the folder of the images, {source}")
    return source.resolve()
