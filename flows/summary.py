"""The report in short, as Markdown for a pull request's comment, and the report's page as a PDF."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cnn_core.comparison.tables import markdown
from cnn_core.locks import temporary_folder
from cnn_core.markdown import escape
from cnn_core.reporting.summary import summary
from flows.comparison.runs import compare_runs
from flows.comparison.sides import WORKSPACE, find_side

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
PRINTING_S = 180


def short(root: Path, name: str = WORKSPACE, against: str | None = None) -> str:
    """Summarise a run in Markdown, with the comparison with the run ``against`` below.

    Raises:
        ValueError: as `compare_runs`.
    """
    with temporary_folder() as scratch:
        text = summary(find_side(root, name, scratch).root)
    if against is None:
        return text
    return f"{text}\n### Against {escape(against)}\n\n{markdown(compare_runs(root, against, name))}\n"


def write_pdf(root: Path, name: str, target: Path) -> None:
    """Print the report's page to a PDF with a Chromium that is installed.

    Raises:
        ValueError: there is no Chromium, no report, or it prints nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ValueError(
            f"a PDF is printed by a Chromium, and none is installed (looked for {', '.join(BROWSERS)}): open the "
            "report in any browser and print it there"
        )
    with temporary_folder() as scratch:
        folder = scratch
        (folder / "run").mkdir()
        page = folder / "report.html"
        page.write_text(find_side(root, name, folder / "run").report(root), encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        command = [browser, "--headless", "--disable-gpu", "--no-sandbox", "--no-pdf-header-footer"]
        command += [f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={target.resolve()}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PRINTING_S, check=False)
    if not target.is_file():
        raise ValueError(f"{browser} printed nothing (exit code {done.returncode}): {done.stderr.strip()[-300:]}")
