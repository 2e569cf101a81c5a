"""gpu_check.py goes its whole way without a GPU, stops at no failure, and keeps what it has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codeshell import _C
from codeshell.kernels import built_hashes

ROOT = Path(__file__).resolve().parents[2]


def run(result: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--dry-run", "--json", str(result)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=result.parent, check=False)
    return done.returncode, json.loads(result.read_text()), done.stdout + done.stderr


def test_dry_run_goes_all_the_way(tmp_path: Path) -> None:
    code, result, output = run(tmp_path / "check.json", "--module", _C.__file__, "--benchmarks", "overhead")
    assert code == 0, output
    assert result["finished"] and result["dry_run"]
    steps = {step["name"]: step["status"] for step in result["steps"]}
    assert set(steps.values()) == {"ok"}
    assert list(steps)[:2] == ["build", "facts"]
    assert "tests/gpu/test_copy_cuda.py" in steps
    assert result["kernels"] == built_hashes()
    assert result["module"]["cuda_built"] == _C.cuda_built
    assert {"commit", "python", "versions", "processor"} <= set(result["environment"])
    counts = result["tests"]["gpu/test_copy_cuda.py"]
    assert counts["failed"] == 0 and counts["collected"] > 0
    document = result["benchmarks"]["overhead"]
    assert document["finished"] and len(document["rows"]) > 10
    assert all(row["error"] is None for row in document["rows"])
    assert str(ROOT) not in json.dumps(result)
    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]


def test_a_module_that_does_not_load_stops_nothing(tmp_path: Path) -> None:
    module = tmp_path / "_C.so"
    module.write_text("not an extension")
    code, result, output = run(tmp_path / "check.json", "--module", str(module), "--benchmarks")
    assert code == 1
    assert result["finished"]
    steps = {step["name"]: step["status"] for step in result["steps"]}
    assert steps["facts"] == steps["tests/gpu/test_copy_cuda.py"] == "failed"
    assert result["device"]["type"] == "cpu"  # what could be found out is there
    assert "_C.so" in output


def test_without_time_everything_is_listed(tmp_path: Path) -> None:
    code, result, _ = run(tmp_path / "check.json", "--module", _C.__file__, "--seconds", "0")
    assert code == 1
    assert {step["status"] for step in result["steps"]} == {"left out"}
    assert [step["name"] for step in result["steps"]][-1] == "benchmark overhead"


def test_outcomes_of_a_test_run(tmp_path: Path) -> None:
    import gpu_check

    file = tmp_path / "junit.xml"
    file.write_text(
        '<testsuites><testsuite><testcase classname="a" name="good"/>'
        '<testcase classname="a" name="bad"><failure message="1 != 2">long</failure></testcase>'
        '<testcase classname="a" name="torn"><error message="no fixture"/></testcase>'
        '<testcase classname="a" name="skipped"><skipped message="no GPU"/></testcase></testsuite></testsuites>'
    )
    counts = gpu_check.outcomes(file)
    assert {key: counts[key] for key in ("collected", "passed", "failed", "skipped")} == {
        "collected": 4,
        "passed": 1,
        "failed": 2,
        "skipped": 1,
    }
    assert counts["messages"] == ["a::bad: 1 != 2", "a::torn: no fixture"]
    assert gpu_check.outcomes(tmp_path / "none.xml")["failed"] == 1


def test_a_step_over_its_limit_ends_with_its_children(tmp_path: Path) -> None:
    import gpu_check

    script = "import subprocess, sys; print('started', flush=True); subprocess.run(['sleep', '1000'])"
    status, output = gpu_check.finish([sys.executable, "-c", script], 1.5)
    # The children hold the output's pipe: had they lived on, this would have waited for them.
    assert (status, output.strip()) == ("timed out", "started")
    assert gpu_check.finish([sys.executable, "-c", "raise SystemExit(3)"], 60)[0] == "failed"


def test_a_module_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import gpu_check

    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--module", str(tmp_path / "nowhere.so")])
    with pytest.raises(SystemExit):
        gpu_check.main()
    assert "nowhere.so: no such file" in capsys.readouterr().err
