"""The report in short: ``python -m flows.summary [RUN] [--against REV] [--pdf FILE]``

Prints Markdown, for a pull request's comment, of the workspace or of any run that flows.compare knows.
``--pdf`` prints the page itself by a Chromium that is installed; without one the browser's own print does the same.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cnn_core.comparison.tables import markdown
from cnn_core.reporting.summary import summary
from flows.comparison.runs import compare_runs
from flows.comparison.sides import WORKSPACE, side
from flows.repository.graph import find_root

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
PRINTING_S = 180


def short(root: Path, name: str = WORKSPACE, against: str | None = None) -> str:
    """The summary of a run, with the comparison to another below it.

    Raises:
        ValueError: as flows.compare.
    """
    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        text = summary(side(root, name, Path(scratch)).root)
    return (
        text if against is None else f"{text}\n### Against {against}\n\n{markdown(compare_runs(root, against, name))}\n"
    )


def write_pdf(root: Path, name: str, target: Path) -> None:
    """The report's page, printed by a Chromium.

    Raises:
        ValueError: there is no Chromium, no report, or it prints nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ValueError(
            f"a PDF is printed by a Chromium, and none is installed (looked for {', '.join(BROWSERS)}): open the "
            "report in any browser and print it there"
        )
    with tempfile.TemporaryDirectory(prefix="gridflow-") as scratch:
        folder = Path(scratch)
        (folder / "run").mkdir()
        page = folder / "report.html"
        page.write_text(side(root, name, folder / "run").report(root), encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        command = [browser, "--headless", "--disable-gpu", "--no-sandbox", "--no-pdf-header-footer"]
        command += [f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={target.resolve()}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PRINTING_S, check=False)
    if not target.is_file():
        raise ValueError(f"{browser} printed nothing (exit code {done.returncode}): {done.stderr.strip()[-300:]}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.summary", description=__doc__)
    parser.add_argument("run", nargs="?", default=WORKSPACE, help=f"as in flows.compare (default: {WORKSPACE})")
    parser.add_argument("--against", metavar="REV", help="add the comparison to this run, or `champion`")
    parser.add_argument("--pdf", type=Path, metavar="FILE", help="print the report's page to a PDF instead")
    arguments = parser.parse_args()
    try:
        root = find_root()
        if arguments.pdf:
            write_pdf(root, arguments.run, arguments.pdf)
            print(arguments.pdf)
        else:
            print(short(root, arguments.run, arguments.against), end="")
    except (ValueError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
