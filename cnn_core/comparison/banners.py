"""What stands on top of a report's page: what one run was, and how it compares with another.

The page itself is a function of a run's files. What depends on the moment (a stage that failed, what is committed, the
champion of today) is put on top of a copy of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cnn_core.comparison.differences import Differences
from cnn_core.comparison.tables import (
    MEANINGS,
    METHOD,
    difference,
    head_row,
    param_rows,
    remarks,
    row_of,
    shown,
)

PLACE = '<div id="banner"></div>'  # in the report's page


def add_banner(page: str, *banners: str) -> str:
    """The finished ``page`` with HTML above its verdict.

    Raises:
        ValueError: the page has no place for it: another version of this project made it, or it is another page.
    """
    if page.count(PLACE) != 1:
        raise ValueError("this report has no place for a banner: run its stage report again")
    return page.replace(PLACE, f'<div id="banner">{"".join(banners)}</div>')


def of_differences(found: Differences) -> str:
    """How the run ``after`` compares with ``before``."""
    return _rendered(
        "difference_banner.html.j2",
        found=found,
        head=head_row(found),
        headlines=[
            (change, shown(change, "before"), shown(change, "after"), difference(change), MEANINGS[change.meaning])
            for change in found.headlines
        ],
        params=param_rows(found.params),
        others=[row_of(change) for change in found.metrics if change.meaning != "same" and not change.headline],
        remarks=remarks(found, every=True),
        method=METHOD,
    )


def of_run(name: str, commit: str, *, failed: Sequence[str], changed: Mapping[str, tuple[Any, Any]]) -> str:
    """What a run was.

    Args:
        name: of the run.
        commit: that it worked at, as it is shown.
        failed: a sentence for each stage that failed.
        changed: parameter -> its value at the commit and in the run, where they differ.
    """
    return _rendered("run_banner.html.j2", name=name, commit=commit, failed=failed, params=param_rows(changed))


def _rendered(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cnn_core.comparison", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(**values).strip()
