"""Two runs side by side: ``python -m flows.compare A B [--all] [--markdown | --json] [--html FILE]``

A and B are each ``workspace``, ``champion``, a DVC experiment, a commit, branch or tag, or a folder of a run; B
(default: the workspace) is what is looked at, A what it is held against. Told are the parameters that differ, and of
every metric how it changed and whether by more than luck (cnn_core/comparison/changes.py). The exit code
does not say who is better.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cnn_core.comparison.tables import markdown, plain, text
from flows.comparison.runs import compare_runs
from flows.comparison.sides import WORKSPACE
from flows.repository.graph import find_root


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.compare", description=__doc__)
    parser.add_argument("before", metavar="A", help="what it is held against")
    parser.add_argument("after", metavar="B", nargs="?", default=WORKSPACE, help=f"a run (default: {WORKSPACE})")
    parser.add_argument("--all", action="store_true", help="also what did not change, and single classes and parts")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report of B, with the comparison on top")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--markdown", action="store_true", help="print it as Markdown, for a pull request")
    forms.add_argument("--json", action="store_true", help="print it as JSON")
    arguments = parser.parse_args()
    try:
        root = find_root()
        found = compare_runs(root, arguments.before, arguments.after, arguments.html)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(plain(found), indent=2, ensure_ascii=False))
    else:
        print((markdown if arguments.markdown else text)(found, every=arguments.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
