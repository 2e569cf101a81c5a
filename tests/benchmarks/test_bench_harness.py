"""The harness that benchmarks measure with: its rows, its ratios, its chart, and that no row is lost."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

ROW_KEYS = {
    "case", "name", "ours", "microseconds", "fastest_microseconds", "rounds_microseconds", "method", "calls", "slots",
    "bytes", "gigabytes_per_second", "flops", "teraflops", "floor", "ratio_to_floor", "ratio_to_peer", "error",
}  # fmt: skip
RESULT_KEYS = {
    "benchmark", "environment", "device", "kernels", "threads", "smoke", "floors", "copy_at_end", "absent", "finished",
    "rows",
}  # fmt: skip


def make_session(folder: Path, *arguments: str, **settings: Any) -> Any:
    import harness

    parsed = harness.parser(None).parse_args(
        ["--smoke", "--device", "cpu", "--json", str(folder / "r.json"), "--chart", str(folder / "r.svg"), *arguments]
    )
    return harness.Session("copying", parsed, **settings)


def copying(values: torch.Tensor) -> Any:
    return lambda _: values.clone()


def wrong(values: torch.Tensor) -> Any:
    return lambda _: values + 1


def failing(values: torch.Tensor) -> Any:
    raise RuntimeError("no such kernel\nand more")


def contenders(ours: Any = copying) -> list[Any]:
    import harness

    values = torch.randn(1000)
    return [
        harness.Contender("ours <&> clone", lambda: ours(values), ours=True),
        harness.Contender("peer", lambda: copying(values)),
        harness.Contender("slow peer", lambda: lambda _: torch.stack([values] * 50)[7]),
        harness.Contender("wrong peer", lambda: wrong(values)),
        harness.Contender("broken peer", lambda: failing(values)),
        harness.Contender("another piece of work", lambda: lambda _: values[:1].clone(), peer=False),
    ]


def test_rows_ratios_json_and_chart(tmp_path: Path) -> None:
    import harness

    session = make_session(tmp_path)
    # The last contender does something else, so it cannot be compared: a case of its own.
    case = harness.Case("1000 values", contenders()[:-1], bytes=8000, slots=3, tolerance=1e-6)
    session.run([case, harness.Case("two", contenders()[-1:])])
    assert session.finish() == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result == json.loads(json.dumps(session.result))
    assert set(result) == RESULT_KEYS
    assert result["finished"] and result["smoke"] and result["threads"] == 1
    assert set(result["floors"]) == {"copy", "update", "read"}
    rows = {row["name"]: row for row in result["rows"]}
    assert all(set(row) == ROW_KEYS for row in rows.values())
    assert len(rows) == 6  # the lost ones too

    ours, peer = rows["ours <&> clone"], rows["peer"]
    best = min(peer["microseconds"], rows["slow peer"]["microseconds"])
    for row in (ours, peer):
        assert row["error"] is None and row["method"] == "alternated rounds"
        assert len(row["rounds_microseconds"]) == session.rounds
        assert row["microseconds"] == pytest.approx(sorted(row["rounds_microseconds"])[session.rounds // 2], rel=1e-3)
        assert row["gigabytes_per_second"] == pytest.approx(8000 / row["microseconds"] / 1e3, rel=1e-3)
        floor = result["floors"]["copy"]["rate"]
        assert row["ratio_to_floor"] == pytest.approx(row["gigabytes_per_second"] / floor, rel=1e-3)
        assert row["ratio_to_peer"] == pytest.approx(best / row["microseconds"], rel=1e-3)
    assert rows["wrong peer"]["microseconds"] is None
    assert "not the result of peer" in rows["wrong peer"]["error"]
    assert rows["broken peer"]["error"] == "RuntimeError: no such kernel"
    other = rows["another piece of work"]
    assert other["microseconds"] > 0 and other["ratio_to_peer"] is None and other["ratio_to_floor"] is None

    drawing = ElementTree.parse(tmp_path / "r.svg").getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(drawing.itertext())
    assert all(name in text for name in rows)
    assert "the numbers mean nothing" in text


def test_what_fails_of_ours_fails_the_run(tmp_path: Path) -> None:
    import harness

    session = make_session(tmp_path)
    session.run([harness.Case("1000 values", contenders(wrong)[:2], tolerance=1e-6)])
    assert session.finish() == 1
    ours, peer = session.rows
    assert "not the result of peer" in ours["error"] and ours["microseconds"] is None
    assert peer["error"] is None and peer["microseconds"] > 0
    session = make_session(tmp_path)
    session.run([harness.Case("1000 values", contenders(failing)[:2])])
    assert session.finish() == 1


def test_a_case_that_cannot_be_made_keeps_the_rows_before_it(tmp_path: Path) -> None:
    import harness

    def cases() -> Any:
        yield harness.Case("1000 values", contenders()[:2])
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")

    session = make_session(tmp_path)
    session.run(cases())
    assert session.finish() == 1
    result = json.loads((tmp_path / "r.json").read_text())
    assert len(result["rows"]) == 2 and not result["finished"]
    assert "illegal memory access" in result["absent"]["the cases from here on"]


def test_contenders_take_turns_and_slots_rotate() -> None:
    import harness

    calls: list[tuple[str, int]] = []
    steps = {name: lambda slot, name=name: calls.append((name, slot)) for name in "abc"}
    timings, errors = harness.time_cpu(steps, slots=4, rounds=5, shortest=1e-4)
    assert not errors
    assert all(len(timing.microseconds) == 5 for timing in timings.values())
    turns = [name for name, _ in itertools.groupby(calls, key=lambda call: call[0])]
    assert turns[-15:] == list("abc") * 5
    for name in "abc":
        assert {slot for caller, slot in calls if caller == name} == {0, 1, 2, 3}


def test_turns_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import timing

    calls: list[tuple[Any, ...]] = []

    def time_gpu(step: Any, slots: int, rounds: int, graph: bool) -> Any:
        calls.append((step(0), slots, rounds, graph))
        if step(0) == "b" and len(calls) > 3:
            raise ArithmeticError("second turn")
        return timing.Timing([float(len(calls))] * rounds, "events", 1)

    monkeypatch.setattr(timing, "time_gpu", time_gpu)
    steps = {name: lambda _, name=name: name for name in "abc"}
    timings, errors = timing.take_turns(steps, 2, 10, {"a", "b"})
    assert calls == [(name, 2, 4, name != "c") for name in "abcabcac"]
    assert timings["a"].microseconds == [1.0] * 4 + [4.0] * 4 + [7.0] * 4
    assert timings["a"].method == "events in 3 turns"
    assert set(timings) == {"a", "c"} and errors == {"b": "ArithmeticError: second turn"}


def test_a_step_that_fails_later_keeps_the_others() -> None:
    import harness

    def breaks(slot: int) -> None:
        raise ArithmeticError("slot")

    timings, errors = harness.time_cpu({"good": lambda _: None, "bad": breaks}, 1, 2, 1e-5)
    assert set(timings) == {"good"}
    assert errors == {"bad": "ArithmeticError: slot"}


def test_slots_pass_the_last_cache(tmp_path: Path) -> None:
    import harness

    assert harness.last_cache(torch.device("cpu")) >= 1 << 15
    session = make_session(tmp_path)
    for size in (1, 1000, session.cache, 100 * session.cache):
        slots = session.slots(size)
        assert slots * size >= harness.CACHE_TURNS * session.cache
        assert slots == 1 or (slots - 1) * size < harness.CACHE_TURNS * session.cache


def test_only_and_seconds_leave_cases_out(tmp_path: Path) -> None:
    import harness

    cases = [harness.Case(name, contenders()[1:2]) for name in ("first", "second")]
    session = make_session(tmp_path, "--only", "sec", floors=())
    session.run(cases)
    assert [row["case"] for row in session.rows] == ["second"]
    session = make_session(tmp_path, "--seconds", "0", floors=())
    session.run(cases)
    assert session.rows == []
    assert set(session.result["absent"]) == {"first", "second"}


def test_matrix_product_is_a_floor(tmp_path: Path) -> None:
    import harness

    session = make_session(tmp_path, floors=("gemm",))
    session.run([harness.Case("product", contenders()[:1], flops=10**6, floor="gemm")])
    (row,) = session.rows
    assert session.floors["gemm"]["unit"] == "TFLOP/s"
    assert row["teraflops"] == pytest.approx(1e6 / row["microseconds"] / 1e6, rel=1e-3)
    assert row["ratio_to_floor"] == pytest.approx(row["teraflops"] / session.floors["gemm"]["rate"], rel=1e-3)


def test_results_differ_in_values_and_shapes() -> None:
    import harness

    values = torch.randn(3, 70)
    reference = harness.samples((values, [values[:1]]))
    harness.compare(harness.samples((values + 1e-7, [values[:1]])), "a", reference, 1e-5)
    with pytest.raises(ArithmeticError, match=r"differs by .* of its largest value"):
        harness.compare(harness.samples((values + 1e-3, [values[:1]])), "a", reference, 1e-5)
    with pytest.raises(ArithmeticError, match="not the result of a: shapes"):
        harness.compare(harness.samples(values), "a", reference, 1e-5)
    with pytest.raises(ArithmeticError, match="differs by nan"):
        harness.compare(harness.samples((values / 0 * 0, [values[:1]])), "a", reference, 1e-5)


def test_no_path_of_the_machine_in_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["/home/somebody/benchmarks/rotary.py", "--json", "/home/somebody/r.json"])
    session = make_session(tmp_path)
    assert session.result["environment"]["command"] == "rotary.py --json r.json"
    assert "somebody" not in json.dumps(session.result)


def test_bad_arguments_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no folder .*nowhere"):
        make_session(tmp_path, "--json", str(tmp_path / "nowhere" / "r.json"))
    with pytest.raises(SystemExit, match="threads must be 1 or more"):
        make_session(tmp_path, "--threads", "0")
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="torch finds no CUDA device here; use --device cpu"):
            make_session(tmp_path, "--device", "cuda")
