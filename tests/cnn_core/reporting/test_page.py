"""The report in a browser: light, dark, on a phone and on paper; its tables, cells, filters and sliders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers import report_run

playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium here (Debian: apt install chromium)"),
]
SLOW_MS = 120_000  # a busy machine
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    "print": {"viewport": {"width": 800, "height": 1100}},
}
# Texts whose contrast with what is behind them is less than WCAG's 4.5 (3 for large ones), with their ratio.
FAINT = """() => {
  const parse = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => a * part + (1 - a) * under[i]);
  const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.map((part) => linear(part / 255))
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => element === null ? [255, 255, 255]
    : over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const found = [];
  for (const element of document.querySelectorAll("header *, nav *, main *, footer *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg, script, [hidden], [aria-hidden], option") || !element.offsetParent) continue;
    const style = getComputedStyle(element), under = behind(element), ink = over(parse(style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.6 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = report_run.whole_run(tmp_path_factory.mktemp("run"))
    report_run.page(root)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as browsers:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def view(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "light")


@pytest.fixture
def page(browser, run: Path, view: str) -> Iterator:
    """The page in a view; whatever a test does with it, nothing may be logged and nothing asked of anybody."""
    context = browser.new_context(**VIEWS[view])
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page.goto((run / "data/reports/index.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('.chart')].every((chart) => chart.querySelector('svg'))")
    yield page
    assert faults == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert len({url for url in asked if url.startswith("file")}) == 1
    context.close()


def slide(page, locator, value: int) -> None:
    locator.evaluate("(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value)


def status(page, gallery: str) -> str:
    return page.locator(f"{gallery} [data-status]").inner_text()


@pytest.mark.parametrize("view", VIEWS, indirect=True)
def test_it_is_readable_in_every_view(page, view: str) -> None:
    if view == "print":
        page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
    assert page.evaluate(FAINT) == []
    above = "(element) => element.getBoundingClientRect().top < innerHeight"
    assert page.locator(".verdict h2").evaluate(above)
    assert page.locator(".card b").first.evaluate(above)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"dark": "rgb(16, 21, 29)"}.get(view, "rgb(255, 255, 255)")


def test_the_theme_is_chosen_and_kept(page) -> None:
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate(FAINT) == []
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("view", ["dark"], indirect=True)
def test_on_paper_it_is_light_and_whole(page, tmp_path: Path) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open]):not([data-searched]):has(table)").count() == 0
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("navigation").is_visible()
    assert len(page.pdf(format="A4")) > 50_000
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() < page.locator("details").count()


def test_a_table_is_sorted_by_the_number_behind_the_text(page) -> None:
    table = page.locator("section[aria-labelledby=time] table")
    cells = "rows => rows.map(row => Number([...row.cells].at(-1).textContent.replace(',', '')) || 0)"
    head = table.get_by_role("button", name="images/s in training")
    head.click()
    rising = [value for value in table.locator("tbody tr").evaluate_all(cells) if value]
    assert len(rising) > 1
    assert rising == sorted(rising)
    head.press("Enter")
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("images/s")
    classes = page.locator("section[aria-labelledby=data] table").nth(1)
    page.locator("section[aria-labelledby=data] summary").first.click()
    classes.get_by_role("button", name="class").click()
    classes.get_by_role("button", name="class").click()
    assert classes.locator("tbody td:first-child").all_inner_texts() == list("9876543210")


def test_a_cell_of_the_confusion_shows_the_images_behind_it(page, run: Path) -> None:
    table = pd.read_csv(run / "data/plots/evaluate-scenes-confusion.csv")
    wrong = table[table["actual"] != table["predicted"]].value_counts()
    (actual, predicted), count = wrong.index[0], int(wrong.iloc[0])
    cell = page.locator(f'[data-confusion=scenes] button[data-actual="{actual}"][data-predicted="{predicted}"]')
    assert cell.inner_text() == str(count)
    cell.press("Enter")  # by keyboard
    assert cell.get_attribute("aria-pressed") == "true"
    tiles = page.locator('[data-gallery=scenes] .gallery li:has-text("predicted")')
    assert tiles.count() == count
    assert all(text.startswith(f"✗ {actual}, predicted {predicted}") for text in tiles.all_inner_texts())
    assert all(
        text.startswith("Test image test/") for text in tiles.locator("img").evaluate_all("all => all.map(i => i.alt)")
    )


def test_the_gallery_of_mistakes_is_filtered(page, run: Path) -> None:
    table = pd.read_parquet(run / "data/predictions/digits-test.parquet")
    table = table.assign(sure=table.filter(regex=r"^p\d").max(axis=1))
    wrong = table[table["label"] != table["predicted"]]
    part = "[data-gallery=digits]"
    tiles = page.locator(f"{part} .gallery li")
    assert tiles.count() == len(wrong)
    slide(page, page.locator(f"{part} [data-sure]"), 70)
    assert tiles.count() == (wrong["sure"] >= 0.7).sum()
    page.locator(f"{part} [data-wrong]").uncheck()
    assert tiles.count() == (table["sure"] >= 0.7).sum()
    page.get_by_role("button", name="show all").first.click()
    assert tiles.count() == len(table) == 30
    page.locator(f"{part} [data-actual]").select_option("3")
    assert tiles.count() == (table["label"] == 3).sum()
    assert status(page, part).startswith(f"{tiles.count()} of the 30 images")


def test_a_threshold_moves_the_detectors_boxes(page) -> None:
    part = "[data-gallery=detector]"
    assert status(page, part).startswith("1 of the 5 pictures")  # that with mistakes
    page.locator(f"{part} [data-wrong]").uncheck()
    assert status(page, part).endswith(
        "5 of the 5 pictures on this page, from 5: 7 boxes right, 1 wrong, 1 objects missed."
    )
    slide(page, page.locator(f"{part} [data-conf]"), 85)
    assert "1 boxes right, 0 wrong, 8 objects missed" in status(page, part)
    slide(page, page.locator(f"{part} [data-conf]"), 25)
    page.locator(f"{part} [data-class-filter]").select_option("6")
    assert page.locator(f"{part} .gallery li").count() == 1
    missed = page.locator('[data-confusion=detector] button[data-predicted="background"]')
    missed.click()
    assert missed.get_attribute("aria-pressed") == "true"
    assert page.locator(f"{part} .gallery li").all_text_contents() == ["0 30test/000001: 2 wrong or missed"]


def test_the_grid_follows_its_threshold(page) -> None:
    assert status(page, "[data-grid]") == "2 boxes reach 25 %; 1 of them are kept."
    slide(page, page.locator("[data-grid] [data-conf]"), 5)
    assert status(page, "[data-grid]") == "3 boxes reach 5 %; 2 of them are kept."
    assert page.locator("[data-cells] text").all_text_contents() == ["7", "0"]
    assert page.locator("[data-kept] rect").count() == 2


def test_masks_are_slid_over_the_picture(page) -> None:
    first = page.locator(".slide").first
    first.scroll_into_view_if_needed()
    box = first.bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + box["height"] / 2)
    at = first.evaluate("slide => parseFloat(slide.style.getPropertyValue('--at'))")
    assert at == pytest.approx(25, abs=6)
    first.locator("input").press("ArrowRight")
    assert first.evaluate("slide => parseFloat(slide.style.getPropertyValue('--at'))") == at + 1


def test_a_curve_tells_its_value_under_the_pointer(page) -> None:
    chart = page.locator("section[aria-labelledby=model-digits] .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    tip = page.locator("#vg-tooltip-element")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2 + 2, box["y"] + box["height"] / 2)
    tip.get_by_text("curve").wait_for()
    assert any(value in tip.inner_text() for value in ("1.5000", "1.0000"))


def test_misread_numbers_and_parameters_are_found(page) -> None:
    tiles = page.locator("[data-gallery=plates] .gallery li")
    assert sorted(tiles.all_inner_texts()) == ["✗ 346, is 345; 80\u00a0% sure", "✗ nothing, is 7"]
    page.get_by_placeholder("train.digits").fill("segment.segmenter.video.")
    rows = page.locator("[data-searched] tbody tr:visible")
    assert rows.count() == 6
    assert all("segment.segmenter.video." in text for text in rows.all_inner_texts())
