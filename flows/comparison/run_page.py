"""The page of one run: its report, and on top what it changed, what failed and how it stands against the champions."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from cnn_core.comparison.banners import add_banner, of_differences, of_run
from cnn_core.comparison.differences import changed_params
from cnn_core.comparison.tables import markdown
from flows.comparison.runs import against_champions
from flows.comparison.sides import REPORT
from flows.execution.messages import failures
from flows.execution.stage import Run
from flows.registry.models import MODELS, champion
from flows.repository.git import git, main_checkout
from flows.repository.graph import StageNode
from flows.ui.artifacts import if_it_can_be_shown

PAGE = "report.html"


def publish_page(run: Run, nodes: Sequence[StageNode], experiment: str | None = None) -> Path | None:
    """Write the page into the run's folder, which stays when an isolated run's worktree is gone; in the UI publish the
    comparison with the champions.

    Returns:
        where it lies; None where the run made no report, or there is nothing to tell that the report does not.
    """
    checkout, failed, found = main_checkout(run.root), failures(run), None
    with if_it_can_be_shown("the comparison with the champions"):
        if not failed and any(champion(run.root, model) for model in MODELS):
            found = against_champions(checkout, run.root, experiment or "this run", [node.name for node in nodes])
        if found is not None:
            text = markdown(found)
            create_markdown_artifact(text, key="against-the-champion", description="This run against the champions")
    report, changed = run.root / REPORT, changed_since_commit(run.root)
    if not any(REPORT in node.outputs for node in nodes) or not report.is_file():
        return None
    if not (failed or found or changed or run.isolated):
        return None
    name = experiment or flow_run.get_name() or "of the command line"
    banners = [of_run(name, git(run.root, "rev-parse", "--short=10", "HEAD").strip(), failed=failed, changed=changed)]
    banners += [of_differences(found)] if found else []
    page = run.folder / PAGE
    page.write_text(add_banner(report.read_text(encoding="utf-8"), *banners), encoding="utf-8")
    return page.relative_to(run.folder.parents[2])  # .gridflow/runs/ID


def changed_since_commit(root: Path) -> dict[str, tuple[Any, Any]]:
    """Parameter -> its value at the commit that is checked out, and now, where they differ."""
    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        (Path(scratch) / "params.yaml").write_text(git(root, "show", "HEAD:params.yaml"), encoding="utf-8")
        return changed_params(Path(scratch), root)
