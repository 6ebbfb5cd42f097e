"""The page in a real Chromium: no script error, nothing fetched, nothing wider than the screen, in light and dark.

Without Chromium these tests fail and say how to install it; PTQ4DM_NO_BROWSER=1 skips them where that is meant.
PTQ4DM_CHROMIUM names another binary, PTQ4DM_SCREENSHOTS a folder that keeps pictures of the page.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from report.browser import Browser, chromium, open_browser
from report.example import write_example
from report.study_example import write_study

from ptq4dm.report.report import build_report
from ptq4dm.report.study_page import build_study_page

HEADINGS = [
    "The same seeds, drawn twice",
    "How close to the float model",
    "How fast and how small on this machine",
    "Why the time‑step matters",
    "Error layer by layer",
    "What stayed in float, and why",
    "Against the data",
    "Repeat it",
]
OUTSIDE = (
    "[...document.querySelectorAll('svg text')].filter(item => item.getClientRects().length).filter(item => {"
    "const a = item.getBoundingClientRect(), b = item.ownerSVGElement.getBoundingClientRect();"
    "return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1"
    "}).map(item => item.textContent)"
)
"""The texts of charts that stick out of them."""
SCREENS = [(390, False), (390, True), (1280, False), (1280, True)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if os.environ.get("PTQ4DM_NO_BROWSER") == "1":
        pytest.skip("PTQ4DM_NO_BROWSER=1: the page is not looked at in a browser")
    binary = chromium()
    if binary is None:
        pytest.fail("no Chromium: `apt-get install chromium`, or set PTQ4DM_NO_BROWSER=1 to go without these tests")
    with open_browser(binary) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(write_example(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def bare_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    return build_report(write_example(folder, {"format_version": 1, "model": {"name": "net"}}))


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_page_is_sound_at_every_width_in_light_and_dark(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert browser.ask("innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("[...document.querySelectorAll('h2')].map(item => item.textContent)") == HEADINGS
    assert browser.ask("[...document.images].filter(item => !item.complete || !item.naturalWidth).length") == 0
    background = browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(background) < 60) if dark else (min(background) > 200)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("data:", "file:"))] == []
    if folder := os.environ.get("PTQ4DM_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"report-{width}-{'dark' if dark else 'light'}.png")


def test_tables_are_stacked_on_a_phone_and_nothing_scrolls_sideways(browser: Browser, page: Path) -> None:
    cells = (
        "[...document.querySelectorAll('.stacked tbody td')].filter(item => item.textContent).map(item => "
        "[getComputedStyle(item, '::before').content, getComputedStyle(item).display, item.dataset.label, "
        "parseFloat(getComputedStyle(item).paddingLeft)])"
    )
    sideways = (
        "[...document.querySelectorAll('.scroll:has(table)')].filter(item => item.scrollWidth > item.clientWidth)"
    )
    browser.open(page, 390)
    browser.ask("document.querySelectorAll('details').forEach(item => item.open = true)")
    narrow = browser.ask(cells)
    assert len(narrow) > 100
    assert all(
        label and before == f'"{label}"' and (display, left) == ("block", 112)
        for before, display, label, left in narrow
    )
    assert browser.ask(f"{sideways}.length") == 0
    assert browser.ask("document.querySelector('.stacked thead').getBoundingClientRect().height") <= 1
    browser.open(page, 1280)
    assert all(before == "none" and display == "table-cell" for before, display, *_ in browser.ask(cells))


@pytest.mark.parametrize("width", [390, 1280])
def test_text_of_charts_stays_inside_them_and_is_legible(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    outside = browser.ask(OUTSIDE)
    assert outside == []
    heights = browser.ask(
        "[...document.querySelectorAll('svg text')].filter(item => item.getClientRects().length)"
        ".map(item => item.getBoundingClientRect().height)"
    )
    assert len(heights) > 50
    assert min(heights) > 10


def test_each_chart_is_shown_once(browser: Browser, page: Path) -> None:
    for width in (390, 1280):
        browser.open(page, width)
        shown = browser.ask(
            "[...document.querySelectorAll('svg')].filter(item => item.getClientRects().length)"
            ".map(item => item.querySelector('title').textContent)"
        )
        assert len(shown) == len(set(shown)) == 12


def test_blink_lays_the_float_pictures_over_the_int8_ones(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    over = "getComputedStyle(document.querySelector('#blink .stack img + img')).opacity"
    button = "document.querySelector('#blink button')"
    assert browser.ask(over) == "0"
    browser.ask(f"{button}.click()")
    assert browser.ask(over) == "1"
    assert browser.ask(f"{button}.getAttribute('aria-pressed')") == "true"
    browser.ask(f"{button}.click()")
    assert browser.ask(over) == "0"
    assert browser.complaints == []


def test_page_is_complete_without_scripts(browser: Browser, page: Path) -> None:
    browser.open(page, 390, scripts=False)
    seen = browser.ask("[...document.querySelectorAll('.sheets img')].filter(item => item.offsetWidth > 100).length")
    button = browser.ask("document.querySelector('#blink button').offsetWidth")
    browser.open(page, 390)
    assert seen == 3
    assert button == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_page_of_results_with_nothing_measured_is_sound_too(browser: Browser, bare_page: Path, width: int) -> None:
    browser.open(bare_page, width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("[...document.querySelectorAll('h2')].map(item => item.textContent)") == HEADINGS
    assert browser.complaints == []


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_of_a_study_is_sound(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    browser.open(build_study_page(write_study(tmp_path)), width, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(item => item.open = true)")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("[...document.images].filter(item => !item.complete || !item.naturalWidth).length") == 0
    assert browser.ask(OUTSIDE) == []
    shown = browser.ask("[...document.querySelectorAll('svg')].filter(item => item.checkVisibility()).length")
    assert 2 * shown == browser.ask("document.querySelectorAll('svg').length") > 8
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("data:", "file:"))] == []
    if folder := os.environ.get("PTQ4DM_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"study-{width}-{'dark' if dark else 'light'}.png")
