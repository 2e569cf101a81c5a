"""Figure 2 as one file: what it shows, that it is an image with words for it, and that hostile text is dead in it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers import browser
from helpers.synthetic_run import HOSTILE, STEPS, SWITCH

from codeshell.cli import report
from codeshell.errors import UserError
from codeshell.report import figure

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return figure.render(run)


@pytest.fixture(scope="module")
def tree(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def test_three_parts_over_tokens_with_the_phases(tree: ElementTree.Element) -> None:
    texts = ["".join(one.itertext()) for one in tree.iter(f"{SVG}text")]
    for wanted in ("Loss", "Learning rate", "Loss by position, 256 to 1,024 tokens", "validation", "skipped updates"):
        assert wanted in texts
    assert texts.count("tokens trained on") == 2 and "position in the sequence, tokens" in texts
    # Both phases are named above both of the parts over tokens, and the second one is shaded.
    assert texts.count("context 256") == texts.count("context 1,024") == 2
    bands = [one for one in tree.iter(f"{SVG}rect") if one.get("class") == "band"]
    assert len(bands) == 2 and bands[0].get("x") == bands[1].get("x")
    # Where the context changes, as a share of the plotted width.
    x, width = float(bands[0].get("x", "")), float(bands[0].get("width", ""))
    left, right = 64.0, figure.WIDTH - 20.0
    assert (x - left) / (right - left) == pytest.approx((SWITCH - 1) / (STEPS - 1), abs=1e-3)
    assert x + width == pytest.approx(right, abs=0.2)


def test_it_says_in_words_what_it_shows(tree: ElementTree.Element) -> None:
    assert tree.get("role") == "img"
    names = dict(zip(("title", "desc"), str(tree.get("aria-labelledby")).split(), strict=True))
    for tag, name in names.items():
        (one,) = [one for one in tree.iter(f"{SVG}{tag}") if one.get("id") == name]
        said = "".join(one.itertext())
        assert "tokens" in said
    assert "Training loss goes from" in said and "Validation loss ends at" in said and "by position" not in said
    assert "The context is 256 to 2.95 M tokens, then 1,024 to 3.28 M tokens." in said
    assert "At the last positions the loss is" in said


def test_one_file_without_script(text: str) -> None:
    assert not re.search(r"<script|<image|<use|<foreignObject|href|url\(|@import|\bon\w+=", text)
    assert "style=" not in text and len(text) < 80_000


def test_the_same_run_gives_the_same_bytes(run: Path, text: str, tmp_path: Path) -> None:
    output = tmp_path / "new" / "figure2.svg"
    figure.write(run, output)
    assert output.read_text(encoding="utf-8") == text


def test_a_run_without_an_evaluation_and_with_a_hostile_name(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "</title><script>alert(1)<\u202e".replace("/", "_")
    (directory / "train").mkdir(parents=True)
    shutil.copy(run / "train" / "log.jsonl", directory / "train")
    text = figure.render(directory)
    tree = ElementTree.fromstring(text)
    assert not list(tree.iter(f"{SVG}script")) and "\u202e" not in text
    assert "[U+202E]" in "".join(tree.itertext())
    assert "position in the sequence" not in text


def test_no_log_no_figure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no training log with a loss \(train/log\.jsonl\)"):
        figure.render(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "log.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": HOSTILE}) + "\n")
    with pytest.raises(UserError, match="no training log"):
        figure.render(tmp_path)


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    output = tmp_path / "f.svg"
    assert report.main(parser.parse_args([str(run), "--figure", "2", "-o", str(output)])) == 0
    assert output.read_text(encoding="utf-8") == text and capsys.readouterr().out == f"{output}\n"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no training log"):
        report.main(parser.parse_args([str(tmp_path / "empty"), "--figure", "2"]))


def test_a_browser_draws_it_in_both_schemes(run: Path, tmp_path: Path) -> None:
    program = browser.find()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(browser.NAMES)} is on PATH; the figure was not seen by a browser")
    output = tmp_path / "figure2.svg"
    figure.write(run, output)
    with browser.start(program) as tab:
        for dark, page in ((False, "rgb(255, 255, 255)"), (True, "rgb(20, 21, 23)")):
            tab.open(output, width=800, height=960, dark=dark)
            assert tab.problems == [] and tab.requests[-1] == output.as_uri()
            assert tab.evaluate("getComputedStyle(document.querySelector('.page')).fill") == page
            # No text is cut by the edge, and none lies on another.
            outside = """[...document.querySelectorAll('text')].map((one) => one.getBoundingClientRect())
              .filter((box) => box.left < -0.5 || box.right > 760.5 || box.top < 0).length"""
            assert tab.evaluate(outside) == 0
            overlapping = """(() => {
              const boxes = [...document.querySelectorAll('text')].map((one) => one.getBoundingClientRect());
              return boxes.filter((a, i) => boxes.some((b, j) => j > i && a.left < b.right - 1 && b.left < a.right - 1
                && a.top < b.bottom - 3 && b.top < a.bottom - 3)).length;
            })()"""
            assert tab.evaluate(overlapping) == 0
