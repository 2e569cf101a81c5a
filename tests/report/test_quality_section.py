"""The report's section about quality: values against plain definitions, foreign text dead, a slider that answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import browser
from helpers.scored_run import LANGUAGES, SCORERS, documents, register, write
from hypothesis import given
from hypothesis import strategies as st

from codeshell.data import select
from codeshell.data.sketches import Sketch
from codeshell.engine import LocalEngine
from codeshell.engine.files import write_json, write_text
from codeshell.recipe import from_tree, to_toml
from codeshell.report import quality
from codeshell.report.run_page import render
from codeshell.report.run_page import write as write_page

HOSTILE = "</pre><script>alert('x')</script>\u202e"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = documents(300)
    for at, row in enumerate(rows):
        row["text"] = f"{HOSTILE} {at}\n" + row["text"]
    run = write(tmp_path_factory.mktemp("quality") / "run", rows)
    tree = {
        "name": "judged",
        "score": {"scorers": [*SCORERS]},
        "select": {
            "minimum": {"*": {"quality": 1.0}},
            "highest": {"*": {"bits": 0.1}},
            "weights": {"quality": 1.0},
            "budget": 9000,
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        recipe = from_tree(tree, "test")
        write_json(run / "select/stats.json", select.run(recipe, run, LocalEngine(1)))
    write_text(run / "recipe.toml", to_toml(recipe))
    write_json(run / "run.json", {"codeshell": "0"})
    write_page(run, run / "report.html")
    return run


class Attributes(HTMLParser):
    """Every `data-points` of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[list[dict[str, object]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.points += [json.loads(value or "") for name, value in attributes if name == "data-points"]


def test_the_page_has_the_section_and_foreign_text_is_dead(judged: Path) -> None:
    page = (judged / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="quality">') : page.index('<section id="corpus">')]
    for heading in ("Distributions", "What would change if", "Documents at the limits", "How the scores go together"):
        assert heading in section
    assert "<script" not in section and "\u202e" not in section and "&lt;script&gt;" in section
    assert "Just dropped" in section and "Just kept" in section
    assert '<a href="#quality">' in page and "Select" in page
    # The same files give the same page.
    assert render(judged) == page


def test_a_run_without_the_stage_has_no_section(judged: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"codeshell": "0"})
    page = render(tmp_path)
    assert 'id="quality"' not in page and "#quality" not in page and "stage-select" not in page


def test_sliders_count_what_a_threshold_would_drop(judged: Path) -> None:
    parser = Attributes()
    parser.feed((judged / "report.html").read_text(encoding="utf-8"))
    by_first = {json.dumps(entry["points"]): entry for points in parser.points for entry in points}
    assert len(parser.points) == 2 and len(by_first) == 2 * len(LANGUAGES)
    rows = documents(300)
    for column, points in zip(("quality", "bits"), parser.points, strict=True):
        for entry in points:
            mine = [r for r in rows if r["language"] == entry["language"] and r[column] is not None]
            assert entry["documents"] == len(mine)
            for value, count, amount in entry["points"]:  # type: ignore[attr-defined]
                gone = [r for r in mine if (r[column] > value if entry["above"] else r[column] < value)]
                assert count == len(gone)
                assert amount == sum(r["bytes"] for r in gone)
            start = entry["points"][entry["start"]][0]  # type: ignore[index]
            assert start == float(entry["limit"]) if column == "quality" else start > 4  # type: ignore[arg-type]


def test_languages_come_in_and_stay(judged: Path) -> None:
    node = quality.quality(judged, {"select": json.loads((judged / "select/stats.json").read_text())})
    assert node is not None
    rows = documents(300)
    for row in node["languages"]:
        assert row["before"]["documents"] == sum(r["language"] == row["name"] for r in rows)
        assert row["before"]["bytes"] == sum(r["bytes"] for r in rows if r["language"] == row["name"])
    # Each curve holds all documents of its language.
    for chart in node["charts"]:
        for series in chart.series:
            assert sum(y for _, y in series.points) == pytest.approx(100)
    # The text of an edge is the beginning of the document.
    for edge in node["edges"]:
        for side in edge["sides"]:
            assert all(entry["excerpt"].startswith("</pre><script>") for entry in side["entries"])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40))
def test_spearman_is_that_of_the_definition(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(column, np.float64) for column in zip(*pairs, strict=True))

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])

    found = quality.spearman(np.append(one, np.nan), np.append(other, 1.0))
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(np.corrcoef(ranks(one), ranks(other))[0, 1], abs=1e-12)


def test_what_is_damaged_or_absent_costs_no_page(judged: Path, tmp_path: Path) -> None:
    (tmp_path / "select").mkdir()
    write_json(tmp_path / "select/stats.json", {"limits": [{"rule": 3}, "x"], "by_language": None, "kept": []})
    write_text(tmp_path / "recipe.toml", "no toml [")
    page = render(tmp_path)
    assert 'id="quality"' in page


def test_points_of_a_coarse_sketch_are_short_by_a_bin_at_most() -> None:
    values = np.random.default_rng(1).normal(size=5000)
    sketch = Sketch.of(values, np.ones(5000, np.int64), 256)
    for above in (False, True):
        for value, documents_gone, amount in quality._points(sketch, above, 0.1234):
            exact = int((values > value).sum() if above else (values < value).sum())
            assert 0 <= exact - documents_gone <= sketch.count.max() and amount == documents_gone


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Browser]:
    program = browser.find()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(browser.NAMES)} is on PATH; the sliders were not moved")
    with browser.start(program) as one:
        yield one


def test_a_slider_answers(tab: browser.Browser, judged: Path) -> None:
    tab.problems.clear()
    tab.open(judged / "report.html")
    assert tab.problems == [] and tab.evaluate("document.documentElement.scrollWidth") == 1280
    part = "document.querySelector('#threshold-quality')"
    answer = f"{part}.querySelector('.answer').textContent"
    assert re.match(r"below 1: \d+ of \d+ documents .*; the limit of this run is 1$", tab.evaluate(answer))
    tab.evaluate(
        f"{part}.querySelector('input').value = 0; {part}.querySelector('input').dispatchEvent(new Event('input'))"
    )
    assert tab.evaluate(answer).startswith("below 0: 0 of ")
    before = tab.evaluate(answer)
    tab.evaluate(
        f"{part}.querySelector('select').value = 1; {part}.querySelector('select').dispatchEvent(new Event('change'))"
    )
    assert tab.evaluate(answer) != before and "limit of this run is 1" in tab.evaluate(answer)
    assert tab.evaluate(f"{part}.querySelector('input').getAttribute('aria-valuetext')") == "1"
