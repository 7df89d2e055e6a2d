"""Run the `Examples:` block of a docstring, so that what a reader copies works."""

from __future__ import annotations

import contextlib
import doctest
import inspect
from pathlib import Path
from typing import Any


def run_examples(documented: Any, folder: Path, **names: Any) -> None:
    """Run the ``>>>`` lines under ``Examples:`` in the docstring of a class or function, and compare what they print.

    Args:
        documented: the class or function.
        folder: the working directory of the run: the files that the examples name lie in it.
        names: further names that the examples may use without defining them.
    """
    text = inspect.getdoc(documented) or ""
    assert "Examples:" in text, f"{documented.__qualname__} has no Examples:"
    examples = text.partition("Examples:")[2]
    test = doctest.DocTestParser().get_doctest(examples, dict(names), documented.__qualname__, None, None)
    assert test.examples, f"the Examples: of {documented.__qualname__} have no line that begins with >>>"
    output: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with contextlib.chdir(folder):
        results = runner.run(test, out=output.append)
    assert results.failed == 0, "".join(output)
