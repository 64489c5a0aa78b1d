"""The page in a real browser, without a network, on a phone and on a laptop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Chromium, executable
from tests.report.samples import full_study
from tests.report.test_report import study
from tilewright.report.page import study_page

COMMAND = executable()
pytestmark = pytest.mark.skipif(
    COMMAND is None, reason="needs Chromium (Debian: apt-get install chromium), or TILEWRIGHT_CHROMIUM"
)
WIDTHS = ((390, 844), (1280, 800))
#: CSS pixels of the smallest text that is read.
SMALLEST = 12.0

#: Elements that stick out of the window, by the words in them.
STICKING_OUT = """[...document.body.querySelectorAll('*')]
  .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 40))"""

#: Size of each text as it is drawn, SVG's scale counted in, smallest first.
TEXT_SIZES = """(() => {
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, svg = e.closest('svg');
    if (!walk.currentNode.data.trim() || !e.getClientRects().length || e.tagName == 'TITLE') continue;
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    found.push([parseFloat(getComputedStyle(e).fontSize) * scale, walk.currentNode.data.trim().slice(0, 30)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
})()"""

#: Lowest contrast of a text with what lies behind it (WCAG 2, relative luminance).
CONTRASTS = """(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  return [...document.body.querySelectorAll('p, td, th, li, h1, h2, h3, summary, .verdict, .soft, .tag, .value')]
    .filter(e => e.getClientRects().length && e.textContent.trim()).map(e => {
      const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return [(a + .05) / (b + .05), e.className + ': ' + e.textContent.trim().slice(0, 30)]; })
    .sort((a, b) => a[0] - b[0]);
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert COMMAND is not None
    chromium = Chromium(COMMAND, tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(study_page(full_study()), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_the_page_opens_without_a_network_and_without_complaint(
    browser: Chromium, page: Path, width: int, height: int
) -> None:
    browser.open(page, width, height)
    assert browser.run("document.readyState") == "complete"
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith("file:")] == []
    assert len(browser.requests()) == 1
    assert browser.run("document.title") == "toy & co with a rather long name on RTX 4090 - Tilewright"
    if folder := os.environ.get("TILEWRIGHT_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"report-{width}.png")


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_nothing_scrolls_sideways(browser: Chromium, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height)
    assert browser.run("innerWidth") == width
    for _ in range(2):  # as it opens, then with all that is folded away
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(STICKING_OUT) == []
        browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_text_is_large_enough(browser: Chromium, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    size, words = browser.run(TEXT_SIZES)[0]
    assert size >= SMALLEST, words


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(browser: Chromium, page: Path, dark: bool) -> None:
    browser.open(page, 1280, 800, dark=dark)
    contrast, words = browser.run(CONTRASTS)[0]
    assert contrast >= 4.5, words


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_plots_are_drawn(browser: Chromium, page: Path, width: int, height: int) -> None:
    browser.open(page, width, height)
    sizes = browser.run("[...document.querySelectorAll('svg.roofline')].map(e => e.getBoundingClientRect().width)")
    assert len(sizes) == 1
    assert 250 < sizes[0] <= width
    inside = browser.run(
        "(() => { const box = document.querySelector('svg.roofline').getBoundingClientRect();"
        " return [...document.querySelectorAll('svg.roofline .point circle')].map(e => e.getBoundingClientRect())"
        ".filter(r => r.width > 5 && r.left >= box.left && r.right <= box.right && r.top >= box.top"
        " && r.bottom <= box.bottom).length; })()"
    )
    assert inside == 4  # a native operation and a kernel, before and after
    bars = browser.run("[...document.querySelectorAll('#times .fill')].map(e => e.getBoundingClientRect().width)")
    assert len(bars) == 3
    assert bars[0] == pytest.approx(bars[2] * 4.6 / 2.0, rel=0.02)
    parts = browser.run("[...document.querySelectorAll('#where .fill')].map(e => e.getBoundingClientRect().width)")
    assert len(parts) == 4
    assert min(parts) > 5
    before, after = sum(parts[:2]), sum(parts[2:])
    assert after / before == pytest.approx(2.0 / 4.2, rel=0.03)


def test_what_is_folded_away_opens(browser: Chromium, page: Path) -> None:
    browser.open(page, 390, 844)
    closed = browser.run("document.querySelector('#difference pre').checkVisibility()")
    browser.run("document.querySelector('#difference summary').click()")
    opened = browser.run("document.querySelector('#difference pre').checkVisibility()")
    assert (closed, opened) == (False, True)
    assert "given code" in browser.run("document.querySelector('#difference pre').textContent")


def test_a_study_with_little_in_it(browser: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(study_page(study(better=False)), encoding="utf-8")
    browser.open(file, 390, 844)
    assert browser.complaints() == []
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.querySelectorAll('svg.roofline').length") == 0
