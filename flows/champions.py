"""The champions: which model of each kind is in use, since when and why; promoted and rolled back in one step.

``python -m flows.champions list | show MODEL | promote MODEL [REVISION] | rollback MODEL | fetch MODEL``

Versions and champions are annotated tags (flows/registry/models.py); the branch ``champion/digits`` follows them.
``git push origin champion/digits --tags`` and ``dvc push --all-tags`` share them.
"""

from __future__ import annotations

import argparse
import sys

from flows.registry.models import (
    MODELS,
)
from flows.registry.promotion import audit, fetch, how_to_use, listing, promote, rollback
from flows.repository.graph import find_root

# The command line


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.champions", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the champions")
    texts = {
        "show": "every champion of a model there has been, and why",
        "promote": "make the model of a run the champion, without a comparison (`flows.retrain` compares)",
        "rollback": "make the version before the present champion the champion again",
        "fetch": "bring the champion's model folder out of DVC's cache and print where it lies",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("model", choices=list(MODELS))
        if name == "promote":
            command.add_argument(
                "revision", nargs="?", help="an experiment or commit (default: the checkout's dvc.lock)"
            )
        if name == "rollback":
            command.add_argument("--to", metavar="VERSION", help="v2.0.0, say (default: the one before)")
        if name in ("promote", "rollback"):
            command.add_argument("--reason", default="", help="for the audit")
    arguments = parser.parse_args()
    try:
        root = find_root()
        if arguments.command == "list":
            print(listing(root))
        elif arguments.command == "show":
            print(audit(root, arguments.model))
        elif arguments.command == "fetch":
            print(fetch(root, arguments.model))
        else:
            if arguments.command == "promote":
                reason = arguments.reason or "promoted by hand"
                version = promote(root, arguments.model, arguments.revision, reason=reason)
            else:
                version = rollback(root, arguments.model, to=arguments.to, reason=arguments.reason)
            print(f"{version.model} {version.name} is the champion ({version.headline}, commit {version.commit[:10]})")
            print(how_to_use(arguments.model))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
