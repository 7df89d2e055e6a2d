"""Banners on top of a report's page: what one run was, and how it compares with another.

The page itself is a function of a run's files. What depends on the moment (a stage that failed,
what is committed, today's champion) is put on top of a copy of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cnn_core.comparison.differences import Differences
from cnn_core.comparison.tables import (
    MEANINGS,
    METHOD,
    difference,
    figure_cells,
    head_row,
    metric_row,
    param_rows,
    remarks,
)

PLACEHOLDER = '<div id="banner"></div>'  # in the report's page


def add_banner(page: str, *banners: str) -> str:
    """Put banners, which are HTML, above the verdict of a finished page.

    Raises:
        ValueError: the page has no placeholder for them: it is of another version, or no report.
    """
    if page.count(PLACEHOLDER) != 1:
        raise ValueError("this report has no place for a banner: run its stage report again")
    return page.replace(PLACEHOLDER, f'<div id="banner">{"".join(banners)}</div>')


def difference_banner(differences: Differences) -> str:
    """Write how the run ``after`` compares with ``before``."""
    return _rendered(
        "difference_banner.html.j2",
        differences=differences,
        head=head_row(differences),
        headlines=[
            (
                change,
                figure_cells(change, "before"),
                figure_cells(change, "after"),
                difference(change),
                MEANINGS[change.meaning],
            )
            for change in differences.headlines
        ],
        params=param_rows(differences.params),
        others=[
            metric_row(change) for change in differences.metrics if change.meaning != "same" and not change.headline
        ],
        remarks=remarks(differences, every=True),
        method=METHOD,
    )


def run_banner(
    name: str,
    commit: str,
    *,
    failures: Sequence[str],
    changed_params: Mapping[str, tuple[Any, Any]],
    former: Sequence[str] = (),
) -> str:
    """Write what a run was.

    Args:
        commit: that the run worked at, in the form to show.
        failures: a sentence for each stage that failed.
        changed_params: those that differ from the commit, with the commit's value and the run's.
        former: the stages whose figures are of an earlier run, each with its moment.
    """
    params = param_rows(changed_params)
    values = {"name": name, "commit": commit, "failures": failures, "params": params, "former": former}
    return _rendered("run_banner.html.j2", **values)


def _rendered(template: str, **values: Any) -> str:
    loader = PackageLoader("cnn_core.comparison", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(**values).strip()
