"""Formats, diffs, charts and the bounded readers, each against values worked out by hand or by another way."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.report import format
from codeshell.report.charts import LETTER, Chart, Series, bar, drawing, frame, hover_data, line_chart, nice_ticks, thin
from codeshell.report.diff import MAX_CHARACTERS, MAX_ROWS, compare
from codeshell.report.sections import flatten
from codeshell.report.training import loss_chart, read_log, smooth


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (format.count, 1234567, "1,234,567"),
        (format.count, None, "\u2013"),
        (format.count, True, "\u2013"),
        (format.count, float("nan"), "\u2013"),
        (format.short_count, 9999, "9,999"),
        (format.short_count, 3_276_800, "3.28 M"),
        (format.short_count, 7_688_048_640, "7.69 B"),
        (format.size, 0, "0 B"),
        (format.size, 999, "999 B"),
        (format.size, 63_240_000, "63.2 MB"),
        (format.size, 1e13, "10.0 TB"),
        (format.duration, 0.84, "840 ms"),
        (format.duration, 12.44, "12.4 s"),
        (format.duration, 200, "3 min 20 s"),
        (format.duration, 3599.6, "1 h 0 min"),
        (format.plain, 0.123456, "0.1235"),
        (format.plain, 2106.0, "2,106"),
    ],
)
def test_formats(function: object, value: object, text: str) -> None:
    assert function(value) == text  # type: ignore[operator]


def test_a_small_share_is_not_zero() -> None:
    assert format.share(1, 100_000) == "< 0.1 %"
    assert format.share(0, 5) == "0.0 %"
    assert format.share(1, 0) == "\u2013"


@given(st.text())
@settings(max_examples=100)
def test_shown_text_can_be_written_and_keeps_what_is_visible(text: str) -> None:
    shown = format.show_controls(text)
    shown.encode("utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", shown)
    if text.isascii() and text.isprintable():
        assert shown == text


def test_diff_marks_lines_and_words() -> None:
    left = "".join(f"line {index}\n" for index in range(20))
    right = left.replace("line 9\n", "line nine\n").replace("line 15\n", "") + "more\n"
    rows = compare(left, right).rows
    assert [row.kind for row in rows].count("change") == 1
    change = next(row for row in rows if row.kind == "change")
    assert (change.left_number, change.right_number) == (10, 10)
    assert (change.left, change.right) == ("line <b>9</b>", "line <b>nine</b>")
    assert [(row.left_number, row.left) for row in rows if row.kind == "delete"] == [(16, "line 15")]
    assert [(row.right_number, row.right) for row in rows if row.kind == "insert"] == [(20, "more")]
    assert rows[0].kind == "gap" and rows[0].left == "7 equal lines"


@given(
    st.lists(st.sampled_from(["a", "b <b>", "c", ""]), max_size=12),
    st.lists(st.sampled_from(["a", "b", "c"]), max_size=12),
)
@settings(max_examples=60)
def test_diff_accounts_for_every_line(left: list[str], right: list[str]) -> None:
    rows = compare("\n".join(left), "\n".join(right)).rows
    hidden = sum(int(str(row.left).split()[0]) for row in rows if row.kind == "gap")
    for side, lines in (("left", "\n".join(left).splitlines()), ("right", "\n".join(right).splitlines())):
        numbers = [getattr(row, f"{side}_number") for row in rows if row.kind != "gap"]
        shown = [one for one in numbers if one is not None]
        assert shown == sorted(set(shown))
        assert len(shown) + hidden == len(lines) or left == right


def test_diff_escapes_and_cuts() -> None:
    left, right = "<script>\n" * 2000, "</script>" * 100 + "\n"
    diff = compare(left, right)
    assert len(diff.rows) == MAX_ROWS
    assert all("<script" not in str(row.left) and "</script" not in str(row.right) for row in diff.rows)
    cut = next(str(row.right) for row in diff.rows if row.right is not None)
    assert f"{900 - MAX_CHARACTERS:,} more" in cut
    assert len(diff.notes) == 2


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
@settings(max_examples=100)
def test_ticks_cover_the_range_evenly(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span, 1)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 13
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) - min(steps) <= slack


def test_ticks_of_nothing_and_of_one_value() -> None:
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(5, 5)[0] < 5 < nice_ticks(5, 5)[-1]
    assert nice_ticks(3.0, 3.0000000000000004)[0] < 3 < nice_ticks(3.0, 3.0000000000000004)[-1]
    assert nice_ticks(0, 1e-4)[-1] == 1e-4


def test_thinning_keeps_spikes_and_order() -> None:
    points = [(float(x), 1.0 + (7.0 if x == 4321 else 0.0)) for x in range(10_000)]
    kept = thin(points, 300)
    assert (4321.0, 8.0) in kept
    assert len(kept) <= 300 and [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_chart_draws_points_where_they_belong() -> None:
    chart = Chart("c", "<T>", "x", "y", [Series("<s>", [(0.0, 0.0), (10.0, 10.0)])], "text", [(5.0, "half")])
    drawn = str(line_chart(chart))
    assert "<T>" not in drawn and "&lt;T&gt;" in drawn and "<s>" not in drawn
    # 720 wide with margins of 56 and 14, 310 high with 34 and 40: a line from the lower left to the upper right corner.
    assert 'd="M56.0 270.0L706.0 34.0"' in drawn
    assert 'class="mark" d="M381.0 34V270"' in drawn
    assert hover_data([chart])["c"]["series"][0]["points"] == [[0, 0], [10, 10]]
    assert line_chart(Chart("c", "t", "x", "y", [], "")) == ""


def test_bars_stay_inside() -> None:
    assert 'width="50.00"' in bar(1, 2)
    assert 'width="100.00"' in bar(9, 2)
    assert 'width="0.60"' in bar(1, 1e9), "what is there is seen"
    assert 'width="0.00"' in bar(0, 0)


def test_smooth_is_unbiased_and_follows() -> None:
    assert smooth([(0.0, 3.0)]) == [(0.0, 3.0)]
    assert all(math.isclose(y, 2.0) for _, y in smooth([(float(x), 2.0) for x in range(100)]))


def test_log_takes_the_last_of_a_step_and_passes_over_rubbish(tmp_path: Path) -> None:
    lines: list[object] = [
        {"kind": "train", "step": 1, "loss": 9.0, "lr": 1e-3, "context": 64, "skipped": None},
        {"kind": "train", "step": 2, "loss": None, "context": 64, "skipped": "the loss is not finite"},
        {"kind": "train", "step": 1, "loss": 5.0, "lr": 1e-3, "context": 64, "skipped": None},
        {"kind": "train", "step": 3, "loss": 4.0, "context": 128, "skipped": None},
        {"kind": "valid", "step": 3, "loss": 4.5, "bits_per_byte": 1.5},
        {"kind": "another", "step": 9, "loss": 1.0},
        [1],
        3,
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr', encoding="utf-8")
    log = read_log(path)
    assert log.loss == [(1.0, 5.0), (3.0, 4.0)]
    assert log.skipped == [2.0]
    assert log.unit == "step" and log.phases == [(0.0, 2.0, 64), (2.0, 3.0, 128)]
    assert log.valid == [(3.0, 4.5)] and log.valid_bits == [(3.0, 1.5)]
    assert read_log(tmp_path / "absent").loss == []


def test_curves_lie_over_the_tokens_where_the_log_has_them(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": step, "loss": 9.0 - step, "lr": 1e-3, "tokens": 512 * step, "context": context}
        for step, context in enumerate((64, 64, 128, 256), 1)
    ]
    valid: list[dict[str, object]] = [
        {"kind": "valid", "step": 2, "loss": 6.5},
        {"kind": "valid", "step": 4, "loss": 4.5, "tokens": 2048},
        # Its step was lost with the process; what it says itself places it.
        {"kind": "valid", "step": 5, "loss": 4.0, "tokens": 2560},
        {"kind": "valid", "step": 6, "loss": 3.0},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *valid]), encoding="utf-8")
    log = read_log(path)
    assert log.unit == "tokens" and log.last_step == 4
    assert log.loss == [(512.0, 8.0), (1024.0, 7.0), (1536.0, 6.0), (2048.0, 5.0)]
    assert log.valid == [(1024.0, 6.5), (2048.0, 4.5), (2560.0, 4.0)]
    # A phase begins where the one before it ended.
    assert log.phases == [(0.0, 1024.0, 64), (1024.0, 1536.0, 128), (1536.0, 2048.0, 256)]
    chart = loss_chart(log)
    assert chart is not None and chart.x_label == "tokens trained on"
    assert [label for _, _, label in chart.bands] == ["context 64", "context 128", "context 256"]
    assert "The context is 64 to 1,024 tokens, then 128 to 1,536 tokens, then 256 to 2,048 tokens." in chart.text


def test_labels_of_bands_do_not_overlap() -> None:
    points = [(0.0, 1.0), (1000.0, 2.0)]
    bands = [(0.0, 900.0, "context 256"), (900.0, 905.0, "context 512"), (905.0, 1000.0, "context 1,024")]
    chart = Chart("c", "t", "x", "y", [Series("s", points)], "text", bands=bands)
    shape = frame(chart, 720, 300)
    drawn = str(drawing(chart, shape))
    labels = re.findall(r'class="mark-label( end)?" x="([\d.]+)" y="\d+">([^<]+)<', drawn)
    # The second has no room beside the first and is told by the text alternative alone; the third ends at the edge.
    assert [label for _, _, label in labels] == ["context 256", "context 512"] or len(labels) == 2
    spans = [
        (float(x) - LETTER * len(text), float(x)) if end else (float(x), float(x) + LETTER * len(text))
        for end, x, text in labels
    ]
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert all(low >= 0 and high <= 720 for low, high in spans)
    assert drawn.count('class="band"') == 1, "every second band is shaded"


def test_flatten_hides_nothing() -> None:
    node = {"a": {"b": [1, 2], "c": None}, "d": [{"e": 0.5}, True], "f": {}, "g": []}
    assert flatten(node) == [
        ("a.b", "1, 2"),
        ("a.c", "none"),
        ("d[0].e", "0.5"),
        ("d[1]", "yes"),
        ("f", "none"),
        ("g", "none"),
    ]
