"""The page in a real browser: no error, no request, sections open, charts answer the pointer, no sideways scrolling."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import browser


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Browser]:
    program = browser.find()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(browser.NAMES)} is on PATH; the report was not seen by a browser")
    with browser.start(program) as one:
        yield one


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_loads_without_errors_and_without_asking_for_anything(
    tab: browser.Browser, run: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    tab.problems.clear()
    tab.requests.clear()
    tab.open(run / "report.html", width=width, dark=dark)
    assert tab.problems == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [(run / "report.html").as_uri()]
    assert tab.evaluate("document.documentElement.dataset.ready") == "yes", "the script did not run to its end"
    # Wide tables scroll in their own boxes; the page does not. Hostile names must not push it wider either.
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 21, 23)" if dark else "rgb(251, 250, 248)"
    )
    tab.screenshot(tmp_path / "page.png")
    assert struct.unpack(">II", (tmp_path / "page.png").read_bytes()[16:24]) == (width, 900)


def test_only_our_elements_exist(tab: browser.Browser, run: Path) -> None:
    tab.open(run / "report.html")
    assert tab.evaluate("document.scripts.length") == 2
    assert tab.evaluate("document.querySelectorAll('img, iframe, object, embed, form, audio, video').length") == 0
    assert tab.evaluate("document.querySelectorAll('[onerror], [onload], [style]:not(.values)').length") == 0


def test_the_policy_stops_a_script_that_got_in(tab: browser.Browser, run: Path, tmp_path: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    injected = text.replace(
        "</main>", "<script>document.title = 'taken'</script><img src='http://192.0.2.1/x.png'></main>"
    )
    (tmp_path / "injected.html").write_text(injected, encoding="utf-8")
    tab.problems.clear()
    tab.open(tmp_path / "injected.html")
    assert tab.evaluate("document.title") == "demo · codeshell run"
    assert any("Content Security Policy" in problem for problem in tab.problems)


def test_clusters_open_and_show_their_diff(tab: browser.Browser, run: Path) -> None:
    tab.open(run / "report.html")
    seen = "[...document.querySelectorAll('details.pair .diff')].filter((one) => one.checkVisibility()).length"
    pairs = tab.evaluate("document.querySelectorAll('details.pair').length")
    assert pairs >= 15
    assert tab.evaluate(seen) == 0
    tab.evaluate("document.querySelector('details.pair summary').click()")
    assert tab.evaluate(seen) == 1
    tab.evaluate("document.querySelector('[data-open=duplicates]').click()")
    assert tab.evaluate(seen) == pairs
    tab.evaluate("document.querySelector('[data-close=duplicates]').click()")
    assert tab.evaluate(seen) == 0


def test_chart_names_the_value_under_the_pointer(tab: browser.Browser, run: Path) -> None:
    tab.open(run / "report.html")
    tab.evaluate(
        "document.querySelector('#chart-loss .plot.wide').scrollIntoView({behavior: 'instant', block: 'center'})"
    )
    box = tab.evaluate(
        "(({x, y, width, height}) => [x, y, width, height])"
        "(document.querySelector('#chart-loss .plot.wide').getBoundingClientRect())"
    )
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + box[2] / 2, y=box[1] + box[3] / 2)
    shown = tab.evaluate("document.querySelector('#chart-loss .values:not([hidden])')?.textContent")
    assert shown is not None
    assert "tokens trained on" in shown and "training" in shown and "validation" in shown
    inside = """(() => {
      const area = document.querySelector('#chart-loss .plot.wide').getBoundingClientRect();
      const box = document.querySelector('#chart-loss .values:not([hidden])').getBoundingClientRect();
      return box.left >= area.left && box.right <= area.right && box.top >= area.top && box.bottom <= area.bottom;
    })()"""
    assert tab.evaluate(inside), "the box of values is not on its chart"
    tab.evaluate("document.querySelector('#chart-loss .plot.wide').focus()")
    for _ in range(3):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert tab.evaluate("document.querySelector('#chart-loss .values:not([hidden])').textContent") != shown


def test_language_table_sorts(tab: browser.Browser, run: Path) -> None:
    tab.open(run / "report.html")
    files = "[...document.querySelectorAll('#languages table tbody')[0].rows].map((row) => +row.cells[2].dataset.value)"
    before = tab.evaluate(files)
    tab.evaluate("document.querySelectorAll('#languages thead')[0].rows[1].cells[2].querySelector('button').click()")
    assert tab.evaluate(files) == sorted(before, reverse=True)
    assert tab.evaluate("document.querySelector('#languages [aria-sort]').getAttribute('aria-sort')") == "descending"
    tab.evaluate("document.querySelectorAll('#languages thead')[0].rows[1].cells[2].querySelector('button').click()")
    assert tab.evaluate(files) == sorted(before)
