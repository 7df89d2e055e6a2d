"""The page of one run: its report, below banners with what the run changed and what failed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from cnn_core.comparison.banners import add_banner, difference_banner, run_banner
from cnn_core.comparison.differences import Differences, changed_params
from cnn_core.comparison.tables import markdown
from cnn_core.locks import temporary_folder
from flows.comparison.runs import compare_with_champions
from flows.comparison.sides import REPORT
from flows.execution.messages import failures, former_figures
from flows.execution.stage import PipelineRun
from flows.registry.models import champion, read_models
from flows.repository.git import git
from flows.repository.graph import StageNode
from flows.ui.artifacts import if_it_can_be_shown
from tasks.engine.runtime import main_checkout

PAGE = "report.html"


def publish_page(run: PipelineRun, nodes: Sequence[StageNode], experiment: str | None = None) -> Path | None:
    """Write the page into the run's folder, which outlives its worktree, and publish the comparison with the champions.

    Returns:
        the page's path; None where the run made no report, or the page would say no more than the report.
    """
    failed = failures(run)
    compared = None if failed else publish_comparison(run, nodes, experiment)
    report, changed = run.root / REPORT, changed_since_commit(run.root)
    if not any(REPORT in node.outputs for node in nodes) or not report.is_file():
        return None
    if not (failed or compared or changed or run.isolated):
        return None
    name = experiment or flow_run.get_name() or "of the command line"
    commit = git(run.root, "rev-parse", "--short=10", "HEAD").strip()
    former = former_figures(run, nodes)
    banners = [run_banner(name, commit, failures=failed, changed_params=changed, former=former)]
    banners += [difference_banner(compared)] if compared else []
    page = run.folder / PAGE
    page.write_text(add_banner(report.read_text(encoding="utf-8"), *banners), encoding="utf-8")
    return page.relative_to(run.folder.parents[2])  # .gridflow/runs/ID


def publish_comparison(run: PipelineRun, nodes: Sequence[StageNode], experiment: str | None) -> Differences | None:
    """Publish the comparison with the champions; None where nothing can be compared or shown."""
    compared = None
    with if_it_can_be_shown("the comparison with the champions"):
        if not any(champion(run.root, model) for model in read_models(run.root)):
            return None
        stages = [node.name for node in nodes]
        compared = compare_with_champions(main_checkout(run.root), run.root, experiment or "this run", stages)
        if compared is not None:
            create_markdown_artifact(
                markdown(compared), key="against-the-champion", description="This run compared with the champions"
            )
    return compared


def changed_since_commit(root: Path) -> dict[str, tuple[Any, Any]]:
    """The parameters that differ from the commit that is checked out, with both values."""
    with temporary_folder() as scratch:
        (scratch / "params.yaml").write_text(git(root, "show", "HEAD:./params.yaml"), encoding="utf-8")
        return changed_params(scratch, root)
