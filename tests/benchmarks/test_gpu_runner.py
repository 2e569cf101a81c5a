"""The run of a plan: order, time, hangs, what is left out because of them, and continuing after any end. The rows here
are small commands; no GPU and no torch is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codeshell import kernels

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FORWARD, BACKWARD, ROTARY = "attention/forward_sm90.cu", "attention/backward_sm90.cu", "rotary/rotary.cu"
HANG = "import time; print('begun', flush=True); time.sleep(1000)"
LONG = 1000.0


def facts(name: str = "NVIDIA H200", **hashes: str) -> dict[str, Any]:
    sources = {FORWARD: "f1", BACKWARD: "b1", ROTARY: "r1"} | {globals()[key]: value for key, value in hashes.items()}
    return {
        "environment": {"started": "2026-01-01", "commit": "c"},
        "device": {"type": "cuda", "name": name},
        "kernels": sources,
        "module": {},
    }


def row(name: str, code: str = "print('done')", budget: float = 10.0, **fields: Any) -> Any:
    from gpu.rows import Row

    kind = {"first": "first launch", "tests": "tests", "speed": "benchmark"}.get(name.partition("/")[0], "tests")
    settings: dict[str, Any] = {"limit": 100.0, "quiet": 60.0, "ordered": kind != "benchmark"} | fields
    return Row(name, kind, ("-c", code), budget, **settings)


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> str:
    """The question whether the GPU answers, without torch's import; the true one."""
    import gpu.runner

    true = gpu.runner.PROBE
    monkeypatch.setattr(gpu.runner, "PROBE", "pass")
    return true


class Call:
    """A call with these rows: its exit code, lines and document."""

    def __init__(
        self, folder: Path, rows: list[Any], seconds: float = LONG, given: Any = None, **settings: Any
    ) -> None:
        from gpu.processes import Cold
        from gpu.results import Results
        from gpu.runner import Runner, Site

        self.lines: list[str] = []
        results = Results(folder / "check.json")
        self.told = results.open(given or facts(), dry_run=False)
        again = settings.pop("again", [])
        runner = Runner(
            rows,
            results,
            Cold(),
            Site(folder),
            seconds,
            work=folder,
            tell=self.lines.append,
            again=lambda row: row.name in again,
            **settings,
        )
        self.code = runner.run()
        self.document = json.loads((folder / "check.json").read_text())

    def status(self) -> dict[str, str]:
        return {name: outcome["status"] for name, outcome in self.document["rows"].items()}

    @property
    def ran(self) -> list[str]:
        return self.document["calls"][-1]["rows"]


def test_each_row_is_on_disk_before_the_next_starts(tmp_path: Path) -> None:
    looks = f"import json; rows = json.load(open({str(tmp_path / 'check.json')!r}))['rows']; "
    second = row("first/b", looks + "assert rows['first/a']['status'] == 'ok', rows; assert 'first/c' not in rows")
    call = Call(tmp_path, [row("first/a"), second, row("first/c", "raise SystemExit(1)")])
    assert call.status() == {"first/a": "ok", "first/b": "ok", "first/c": "failed"}
    assert call.code == 1 and call.document["finished"]
    assert [line.split()[0] for line in call.lines[:3]] == ["first/a", "first/b", "first/c"]
    assert len(call.lines) == 4  # one line per row, and the sum


def test_a_second_call_runs_nothing_again(tmp_path: Path) -> None:
    counting = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    rows = [row("first/a", counting, kernels=(ROTARY,)), row("tests/bad", counting + "; raise SystemExit(1)")]
    assert Call(tmp_path, rows).code == 1
    second = Call(tmp_path, rows)
    assert second.code == 1 and second.ran == []
    assert (tmp_path / "count").read_text() == "xx"
    assert "earlier" in second.lines[0]
    assert Call(tmp_path, rows, again=["first/a"]).ran == ["first/a"]


def test_a_hang_ends_what_depends_on_its_kernel_alone(tmp_path: Path) -> None:
    rows = [
        row("first/rotary", kernels=(ROTARY,)),
        row("first/forward", HANG, quiet=0.5, kernels=(FORWARD,)),
        row("first/backward", kernels=(BACKWARD,), uses=(FORWARD,)),
        row("tests/rotary", kernels=(ROTARY,)),
        row("tests/forward", kernels=(FORWARD,)),
        row("tests/none"),
        row("speed/rotary", uses=(ROTARY,)),
        row("speed/forward", uses=(FORWARD,)),
    ]
    call = Call(tmp_path, rows)
    out = {"first/backward", "tests/forward", "speed/forward"}
    assert call.status() == {
        name: "hung" if name == "first/forward" else "left out" if name in out else "ok"
        for name in [r.name for r in rows]
    }
    assert call.code == 1 and call.document["finished"]
    assert all("first/forward hung" in call.document["rows"][name]["detail"] for name in out)
    assert call.document["rows"]["first/forward"]["seconds"] < 60
    # The next call knows, and launches the kernel only if it is told to, or if its source is another.
    again = Call(tmp_path, rows)
    assert again.ran == [] and again.status() == call.status()
    fixed = [*rows[:1], row("first/forward", kernels=(FORWARD,)), *rows[2:]]
    told = Call(tmp_path, fixed, again=["first/forward"])
    assert told.ran == ["first/forward", "first/backward", "tests/forward", "speed/forward"]
    assert set(told.status().values()) == {"ok"} and told.code == 0


def test_a_first_launch_over_its_limit_has_hung_and_a_test_has_not(tmp_path: Path) -> None:
    chatty = "import time\nwhile True: print('test', flush=True); time.sleep(0.05)"
    call = Call(
        tmp_path,
        [
            row("first/forward", chatty, limit=1.0, budget=1.0, kernels=(FORWARD,)),
            row("tests/rotary", chatty, limit=1.0, budget=1.0, kernels=(ROTARY,)),
            row("speed/rotary", uses=(ROTARY,)),
        ],
    )
    assert call.status() == {"first/forward": "hung", "tests/rotary": "over its limit", "speed/rotary": "ok"}


def test_where_a_hang_was_is_in_the_result(tmp_path: Path) -> None:
    code = "import faulthandler; faulthandler.enable()\ndef waits_for_the_gpu():\n " + HANG + "\nwaits_for_the_gpu()"
    call = Call(tmp_path, [row("first/forward", code, quiet=0.5)])
    assert "waits_for_the_gpu" in call.document["rows"]["first/forward"]["detail"]


BROKEN = "import json, os; print(json.dumps({'broken': 'an illegal memory access'}), file=open(os.environ['GPU_CHECK_REPORT'], 'a')); raise SystemExit(3)"  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("code", [BROKEN, "import os; os.kill(os.getpid(), 11)"])
def test_an_error_that_ends_cuda_stops_the_kernel_like_a_hang(tmp_path: Path, code: str) -> None:
    rows = [row("first/forward", code, kernels=(FORWARD,)), row("tests/forward", kernels=(FORWARD,)), row("tests/none")]
    assert Call(tmp_path, rows).status() == {"first/forward": "broken", "tests/forward": "left out", "tests/none": "ok"}


def test_a_gpu_that_does_not_answer_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu.runner

    monkeypatch.setattr(gpu.runner, "PROBE", "raise SystemExit('no device')")
    rows = [row("first/forward", HANG, quiet=0.5, kernels=(FORWARD,)), row("first/rotary", kernels=(ROTARY,))]
    call = Call(tmp_path, rows)
    assert call.code == 2 and call.status() == {"first/forward": "hung"}
    assert "after first/forward the GPU does not answer: no device" in call.lines[-1] == call.document["stopped"]
    assert not call.document["finished"]
    # On a fresh machine, the rest.
    later = Call(tmp_path, rows)
    assert later.ran == ["first/rotary"] and later.document["stopped"] is None


def test_the_probe_asks_torch(quick_probe: str) -> None:
    done = subprocess.run([sys.executable, "-c", quick_probe], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "asking the GPU\n"), done.stderr


def test_the_gpu_is_not_asked_after_a_mere_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu.runner

    monkeypatch.setattr(gpu.runner, "PROBE", "raise SystemExit('no device')")
    assert Call(tmp_path, [row("tests/bad", "raise SystemExit(1)"), row("tests/good")]).code == 1


def test_without_time_the_order_is_kept_and_shorter_benchmarks_go_first(tmp_path: Path) -> None:
    rows = [
        row("tests/rotary", kernels=(ROTARY,)),
        row("tests/forward", budget=500, kernels=(FORWARD,)),
        row("tests/backward", kernels=(BACKWARD,)),
        row("speed/large", budget=500, uses=(ROTARY,)),
        row("speed/rotary", uses=(ROTARY,)),
        row("speed/forward", uses=(FORWARD,)),
    ]
    call = Call(tmp_path, rows, seconds=200)
    assert call.ran == ["tests/rotary", "speed/rotary"]
    assert call.code == 3 and not call.document["finished"]
    waits = {name: outcome["detail"] for name, outcome in call.document["rows"].items() if outcome["status"] == "waits"}
    assert waits["tests/backward"] == "after tests/forward"
    assert "500 s" in waits["speed/large"]
    assert waits["speed/forward"] == "equality first: tests/forward has not run"
    later = Call(tmp_path, rows)
    assert later.ran == ["tests/forward", "tests/backward", "speed/large", "speed/forward"] and later.code == 0


def test_no_time_at_all(tmp_path: Path) -> None:
    call = Call(tmp_path, [row("first/a"), row("speed/b")], seconds=0)
    assert call.code == 3 and set(call.status().values()) == {"waits"}


def test_a_row_that_the_end_of_the_call_ends_runs_again(tmp_path: Path) -> None:
    chatty = "import time\nfor _ in range(2000): print('test', flush=True); time.sleep(0.05)"
    call = Call(tmp_path, [row("tests/a", chatty, budget=0.5, limit=90)], seconds=2)
    assert call.status() == {"tests/a": "waits"} and call.code == 3
    assert Call(tmp_path, [row("tests/a")]).status() == {"tests/a": "ok"}


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{benchmarks!r}, {tests!r}]
import gpu_check
from benchmarks.test_gpu_runner import Call, row
folder = Path({folder!r})
signal.signal(signal.SIGTERM, gpu_check.end)
begin = "import os, time; from pathlib import Path; Path({running!r}).write_text(str(os.getpid())); "
waits = begin + "print('begun', flush=True); time.sleep(1000)"
rows = [row("first/a"), row("first/b", waits, limit=500.0, quiet=500.0), row("first/c")]
call = Call(folder, rows)
print("\\n".join(call.lines))
raise SystemExit(call.code)
"""


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "nothing happened in 90 seconds"
        time.sleep(0.02)


def ended_in_the_middle(folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    """A call that a signal ends while its second row runs; that row's process is gone afterwards."""
    running = folder / "running"
    running.unlink(missing_ok=True)
    code = SCRIPT.format(
        benchmarks=str(BENCHMARKS), tests=str(BENCHMARKS.parent / "tests"), folder=str(folder), running=str(running)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until(lambda: running.exists() and running.read_text())
    process.send_signal(number)
    output, _ = process.communicate(timeout=90)
    row_process = int(running.read_text())
    until(lambda: gone(row_process))
    return subprocess.CompletedProcess(code, process.returncode, output)


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


REST = ("first/a", "first/b", "first/c")


def test_after_kill_9_the_next_call_continues_and_a_row_is_not_tried_for_ever(tmp_path: Path) -> None:
    for number in (1, 2):
        assert ended_in_the_middle(tmp_path, signal.SIGKILL).returncode == -signal.SIGKILL
        document = json.loads((tmp_path / "check.json").read_text())
        assert document["rows"]["first/a"]["status"] == "ok"
        assert document["rows"]["first/b"]["status"] == "cut off" and document["rows"]["first/b"]["attempts"] == number
    call = Call(tmp_path, [row(name, kernels=()) for name in REST])
    assert call.status() == {"first/a": "ok", "first/b": "hung", "first/c": "ok"}
    assert call.ran == ["first/b", "first/c"]
    assert "ended 2 times" in call.document["rows"]["first/b"]["detail"]


def test_after_kill_9_once_the_row_runs_again(tmp_path: Path) -> None:
    ended_in_the_middle(tmp_path, signal.SIGKILL)
    call = Call(tmp_path, [row(name) for name in REST])
    assert call.ran == ["first/b", "first/c"] and set(call.status().values()) == {"ok"}


def test_sigterm_ends_the_row_and_costs_no_attempt(tmp_path: Path) -> None:
    for _ in range(3):
        done = ended_in_the_middle(tmp_path, signal.SIGTERM)
        assert done.returncode == 2, done.stdout
        assert "ended by SIGTERM" in done.stdout
    assert json.loads((tmp_path / "check.json").read_text())["rows"]["first/b"]["status"] == "waits"
    assert Call(tmp_path, [row(name) for name in REST]).ran == ["first/b", "first/c"]


DAMAGED = ["", "{", "[]", '{"rows": 1}', '{"rows": {"first/a": "ok"}}', "\x00\x01"]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_result_is_set_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / "check.json").write_text(text)
    (tmp_path / "check.damaged.old").write_text("an older one")
    call = Call(tmp_path, [row("first/a")])
    assert call.told == "check.json is damaged: it is kept as check.damaged-2.old, and all rows run"
    assert (tmp_path / "check.damaged-2.old").read_text() == text
    assert call.status() == {"first/a": "ok"}


def test_a_document_with_a_damaged_row_is_set_aside(tmp_path: Path) -> None:
    Call(tmp_path, [row("first/a")])
    document = json.loads((tmp_path / "check.json").read_text())
    document["rows"]["first/a"] = None
    (tmp_path / "check.json").write_text(json.dumps(document))
    assert "damaged" in Call(tmp_path, [row("first/a")]).told


def test_the_result_of_another_device_is_set_aside(tmp_path: Path) -> None:
    Call(tmp_path, [row("first/a")])
    call = Call(tmp_path, [row("first/a")], given=facts("NVIDIA A100"))
    assert call.ran == ["first/a"]
    assert call.told == "check.json is of another device (NVIDIA H200): it is kept as check.nvidia-h200.old"
    assert json.loads((tmp_path / "check.nvidia-h200.old").read_text())["device"]["name"] == "NVIDIA H200"


def test_a_changed_kernel_runs_its_own_rows_again(tmp_path: Path) -> None:
    rows = [
        row("first/rotary", kernels=(ROTARY,)),
        row("first/forward", kernels=(FORWARD,)),
        row("first/backward", kernels=(BACKWARD,), uses=(FORWARD,)),
        row("speed/rotary", uses=(ROTARY,)),
    ]
    Call(tmp_path, rows)
    assert Call(tmp_path, rows, given=facts(FORWARD="f2")).ran == ["first/forward", "first/backward"]
    assert Call(tmp_path, rows, given=facts(FORWARD="f2", ROTARY="r2")).ran == ["first/rotary", "speed/rotary"]


def test_changed_files_and_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu.results

    package, test = tmp_path / "codeshell" / "ops.py", tmp_path / "tests" / "test_a_cuda.py"
    launching = tmp_path / "csrc" / "launch.cu"
    for path in (package, test, launching):
        path.parent.mkdir()
        path.write_text("one")
    results = gpu.results.Results
    monkeypatch.setattr(gpu.results, "Results", lambda path: results(path, root=tmp_path))
    rows = [
        row("tests/good", kernels=(ROTARY,), files=("tests/test_a_cuda.py", "csrc/launch.cu")),
        row("tests/bad", "raise SystemExit(1)", kernels=(ROTARY,)),
        row("tests/torch"),
    ]
    Call(tmp_path, rows)
    assert Call(tmp_path, rows).ran == []
    package.write_text("two")
    assert Call(tmp_path, rows).ran == ["tests/bad", "tests/torch"]
    for path in (test, launching):
        path.write_text("two")
        assert Call(tmp_path, rows).ran == ["tests/good"]
    launching.write_text("two // a comment")
    assert Call(tmp_path, rows).ran == []


COUNTED = """
import json, os
with open(os.environ["GPU_CHECK_REPORT"], "a") as file:
    for line in {lines!r}: print(json.dumps(line), file=file)
raise SystemExit({code})
"""


def counted(*outcomes: str, hang: bool = False) -> str:
    lines: list[dict[str, Any]] = []
    for index, outcome in enumerate(outcomes):
        lines.append({"start": f"t::{index}"})
        lines.append({"test": f"t::{index}", "outcome": outcome, "seconds": 0.1, "message": "1 != 2"})
    if hang:
        lines.append({"start": "t::last"})
        return COUNTED.format(lines=lines, code=0).replace("raise SystemExit(0)", HANG)
    return COUNTED.format(lines=lines, code=int("failed" in outcomes))


def test_the_counts_are_those_that_info_reads(tmp_path: Path) -> None:
    file, other = "gpu/test_attention_cuda.py", "gpu/test_attention_backward_cuda.py"

    def verdict(source: str, test: str) -> str:
        return kernels.verdict(source, facts()["kernels"][source], kernels.read_results(tmp_path), (test,))

    first = row("first/forward", kernels=(FORWARD,))
    assert "without its tests" in (Call(tmp_path, [first]), verdict(FORWARD, file))[1]
    good = row("tests/forward", counted("passed", "passed", "skipped"), kernels=(FORWARD,), tests=file)
    call = Call(tmp_path, [first, good])
    assert call.document["tests"][file] == {"passed": 2, "failed": 0, "skipped": 1, "messages": []}
    assert verdict(FORWARD, file) == "verified on NVIDIA H200 at this source (check.json)"
    assert "2 passed, 1 skipped" in call.lines[1]

    hung = row("tests/backward", counted("passed", hang=True), quiet=0.5, kernels=(BACKWARD,), tests=other)
    call = Call(tmp_path, [first, good, hung])
    assert call.document["tests"][other]["passed"] == 1 and call.document["tests"][other]["failed"] == 1
    assert call.document["rows"]["tests/backward"]["messages"] == ["last: hung in it"]
    assert verdict(BACKWARD, other).startswith("1 of its tests FAILED")
    assert verdict(FORWARD, file).startswith("verified")

    bad = row("tests/forward", counted("passed", "failed"), kernels=(FORWARD,), tests=file)
    call = Call(tmp_path, [first, bad], again=["tests/forward"])
    assert call.document["tests"][file]["messages"] == ["1: 1 != 2"]
    # A first launch that hangs counts as a failure of the kernel's tests, which do not run then.
    broken = row("first/forward", HANG, quiet=0.5, kernels=(FORWARD,))
    call = Call(tmp_path, [broken, good], given=facts(FORWARD="f1"), again=["first/forward", "tests/forward"])
    assert verdict(FORWARD, file).startswith("1 of its tests FAILED")


def test_information_is_no_failure(tmp_path: Path) -> None:
    call = Call(tmp_path, [row("tests/good"), row("racecheck/a", "raise SystemExit(99)", information=True)])
    assert call.code == 0 and "a hint" in call.lines[1]


def test_a_program_that_is_not_installed(tmp_path: Path) -> None:
    call = Call(tmp_path, [row("memcheck/a", program=("no-such-program",))])
    assert call.code == 0 and call.status() == {"memcheck/a": "absent"}


def test_under_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "$NO_CACHE $@" > {tmp_path}/call\n[ "$2" = memcheck ] || exit 99\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for checker, status in (("memcheck", "ok"), ("synccheck", "failed")):
        given = row(f"{checker}/a", program=("compute-sanitizer", "--tool", checker), environment={"NO_CACHE": "1"})
        assert Call(tmp_path, [given]).status()[given.name] == status
        assert (tmp_path / "call").read_text().startswith(f"1 --tool {checker} {sys.executable} -c print")


def test_a_benchmark_brings_its_document(tmp_path: Path) -> None:
    document = {"rows": [{"case": "c", "name": "ours", "ours": True, "error": "differs"}], "absent": {}}
    code = f"import json, sys; json.dump({document!r}, open(sys.argv[1], 'w')); raise SystemExit(1)"
    given = row("speed/rotary", code)
    import dataclasses

    call = Call(tmp_path, [dataclasses.replace(given, command=(*given.command, "{json}"))])
    assert call.document["benchmarks"] == {"rotary": document}
    assert call.document["rows"]["speed/rotary"]["messages"] == ["c, ours: differs"]
    assert "1 rows; c, ours: differs" in call.lines[0]


def test_no_folder_of_this_machine_is_in_the_result(tmp_path: Path) -> None:
    root = BENCHMARKS.parent
    call = Call(tmp_path, [row("tests/a", f"raise SystemExit('at {root}/x and {Path.home()}/y')")])
    text = json.dumps(call.document["rows"])
    assert str(root) not in text and "at ./x and ~/y" in text
