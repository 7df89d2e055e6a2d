"""A person in a browser: sees the three deployments, fills the form of one, runs it and sees it complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import served as serving
from tests.helpers.served import Served

playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.xdist_group("ui"),
    pytest.mark.slow,
    pytest.mark.timeout(2000),
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium here (Debian: apt install chromium)"),
]
SLOW_MS = 300_000  # a busy machine


@pytest.fixture
def ui(
    tmp_path: Path, make_small: Callable, environment: dict[str, str], repository: Path, run: Callable
) -> Iterator[Served]:
    root = make_small(tmp_path / "small")
    (root / "dvc.yaml").write_text(
        (root / "dvc.yaml").read_text() + "    params: [report.title]\n    meta: {retries: 1}\n"
    )
    run("git", "commit", "-qam", "the last stage depends on a parameter", cwd=root)
    with serving.serve(root, environment, repository, 4288) as started:
        yield started


@pytest.fixture
def page(tmp_path: Path) -> Iterator:
    with playwright.sync_playwright() as browsers:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(SLOW_MS)
        yield page
        browser.close()


def test_a_run_with_an_override_is_started_and_watched_in_the_browser(ui: Served, page, tmp_path: Path) -> None:
    shots = tmp_path / "screenshots"
    page.goto(f"{ui.ui}/deployments")
    for name in ("pipeline", "retrain", "batch"):
        page.get_by_role("link", name=name).first.wait_for()
    page.screenshot(path=shots / "deployments.png")

    page.get_by_role("link", name="pipeline").first.click()
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.get_by_text("Custom run").first.click()
    page.get_by_text("names from dvc.yaml, such as train@digits").wait_for()
    fill_override(page, "report.title=from the browser")
    page.screenshot(path=shots / "form.png", full_page=True)
    with page.expect_response(lambda answer: "create_flow_run" in answer.url) as created:
        page.get_by_role("button", name="Submit").click()
    flow_run = created.value.json()["id"]
    assert created.value.json()["parameters"]["overrides"] == ["report.title=from the browser"]

    page.goto(f"{ui.ui}/runs/flow-run/{flow_run}")
    assert ui.end(flow_run)["type"] == "COMPLETED"
    page.reload()
    page.get_by_text("Completed", exact=True).first.wait_for()
    page.screenshot(path=shots / "run.png")
    page.get_by_text("Task Runs", exact=True).first.click()
    for stage in ("first", "left", "right", "last"):
        page.get_by_text(stage, exact=True).first.wait_for()
    page.screenshot(path=shots / "stages.png")
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("summary", exact=True).first.wait_for()
    page.screenshot(path=shots / "artifacts.png")
    print(f"screenshots: {shots}")


def fill_override(page, text: str) -> None:
    """Make the field a list, add an item, write into it."""
    following = "xpath=//*[starts-with(normalize-space(text()),'overrides')]/following::"
    page.locator(f"{following}button[contains(.,'list')][1]").first.click()
    page.locator(f"{following}button[contains(.,'Add item')][1]").first.click()
    page.locator(f"{following}textarea[1]").first.fill(text)
