"""The figure and the page of an ablation: whole, escaped, and with what is not known said."""

from __future__ import annotations

import re
from typing import Any

import lxml.etree
import lxml.html
import pytest

from codeshell.report import ablation
from codeshell.report.ablation_figure import standalone

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("x")</script>&'


def point(tokens: int, values: list[float], spread: float | None = 0.1) -> dict[str, Any]:
    mean = sum(values) / len(values)
    ends = {"low": None, "high": None} if spread is None else {"low": mean - spread, "high": mean + spread}
    by_seed = {str(seed): value for seed, value in enumerate(values)}
    return {"tokens": tokens, "mean": mean, **ends, "seeds": len(values), "values": by_seed}


@pytest.fixture
def summary() -> dict[str, Any]:
    curves = {
        "good/bits_per_byte": {
            "random": [point(500, [3.0, 3.2]), point(1000, [2.0, 2.2])],
            "all": [point(500, [2.9, 3.1]), point(1000, [1.8, 2.0])],
        },
        "own/simple": {"random": [point(1000, [0.0, 0.0], 0.0)], "all": [point(1000, [0.0, 0.0], 0.0)]},
    }
    last = point(1000, [-0.2, -0.2], 0.05) | {"clear": True, "files": [-0.25, -0.15]}
    differences = {
        "good/bits_per_byte": {"all": [point(500, [-0.1, -0.1], None) | {"clear": False}, last]},
        "own/simple": {"all": [point(1000, [0.0, 0.0], 0.0) | {"clear": False}]},
    }
    selection = {
        "documents": 7,
        "tokens": 990,
        "bytes": 3000,
        "pool": {"all": {"tokens": 4000}, "after_limits": {"tokens": 3000}},
        "repositories": {HOSTILE: 500},
    }
    return {
        "name": HOSTILE,
        "baseline": "random",
        "arms": ["random", "all"],
        "metrics": list(curves),
        "curves": curves,
        "differences": differences,
        "reached": {"good/bits_per_byte": {"all": 0.9}},
        "trained_tokens": 1000,
        "parameters": 507_360,
        "trainings": {"done": 4, "planned": 6},
        "corpus": {"documents": 20, "tokens": 4000, "bytes": 12_000},
        "held_out": {"good": {"documents": 5, "bytes": 100}},
        "inputs": [HOSTILE],
        "not_run": [f"infill on good: {HOSTILE}"],
        "selections": {"random, seed 1": selection, "all, seed 1": selection, "all, seed 2": selection},
        "settings": {
            "seed": 5,
            "model": {"n_layer": 1},
            "train": {"steps": 10},
            "evaluate": {"tasks": ["bits_per_byte"]},
            "ablate": {
                "arms": {"random": {}, "all": {"weights": {"quality": 2.0}}},
                "seeds": 3,
                "tokens": 0,
                "points": 2,
            },
        },
        "environment": {"codeshell": "1", "processor": "a processor", "system": "a system"},
    }


def test_the_figure_is_an_svg_of_its_own(summary: dict[str, Any]) -> None:
    root = lxml.etree.fromstring(standalone(summary).encode())
    assert root.tag == f"{SVG}svg" and root.find(f"{SVG}style") is not None
    text = " ".join(root.itertext())
    assert "good: bits per byte" in text and "minus random" in text and "random (baseline)" in text
    # A metric that is the same everywhere has no panel.
    assert "simple" not in text
    # Each arm has its mean and a line for each of the two seeds.
    paths = [path.get("class") for path in root.iter(f"{SVG}path")]
    assert sorted(paths) == sorted(["mean a0", "mean a1", *["seed a0"] * 2, *["seed a1"] * 2])
    # One interval: the other point has too few seeds.
    whiskers = [line for line in root.iter(f"{SVG}line") if "whisker" in (line.get("class") or "")]
    assert len(whiskers) == 1 and float(whiskers[0].get("y1")) > float(whiskers[0].get("y2"))
    # Nothing leaves the drawing.
    width, height = map(float, root.get("viewBox").split()[2:])
    for line in root.iter(f"{SVG}line"):
        assert all(
            0 <= float(line.get(key)) <= (width if key[0] == "x" else height) for key in ("x1", "x2", "y1", "y2")
        )


def test_lower_bits_are_drawn_lower_and_later_points_to_the_right(summary: dict[str, Any]) -> None:
    root = lxml.etree.fromstring(standalone(summary).encode())
    means = [path.get("d") for path in root.iter(f"{SVG}path") if (path.get("class") or "").startswith("mean")]
    for path in means:
        (x1, y1), (x2, y2) = (map(float, pair.split()) for pair in path[1:].split("L"))
        assert x1 < x2 and y1 < y2


def test_the_page_shows_numbers_and_says_what_is_missing(summary: dict[str, Any]) -> None:
    page = ablation.render(summary)
    text = re.sub(r"\s+", " ", lxml.html.fromstring(page.encode()).text_content())
    assert "Only 4 of 6 trainings are done." in text
    for words in (
        "2.100",
        "1.900",
        "-0.200",
        "-0.250 to -0.150",
        "90% of the tokens",
        "75%",
        "a random sample",
        "quality",
    ):
        assert words in text, words
    assert "simple: problems solved: 0.0 % in every evaluation" in text
    assert "not run: infill on good:" in text
    # In a template, `row.keys` of a dict is its method.
    assert "built-in method" not in page


def test_names_of_users_are_text(summary: dict[str, Any]) -> None:
    summary["arms"] = ["random", "all"]
    for made in (ablation.render(summary), ablation.figure(summary)):
        assert '<script>alert("x")' not in made
    assert ablation.render(summary) == ablation.render(summary)


def test_one_arm_done_is_drawn_without_differences(summary: dict[str, Any]) -> None:
    summary["arms"] = ["all"]
    summary["curves"] = {key: {"all": value["all"]} for key, value in summary["curves"].items()}
    summary["differences"] = {key: {} for key in summary["differences"]}
    summary["reached"] = {}
    assert "no common seed" in ablation.render(summary)
    assert "minus random" not in ablation.figure(summary)
