"""gpu_check.py goes its whole way without a GPU, stops at no failure, and keeps what it has."""

from __future__ import annotations

import argparse
import importlib
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


@pytest.mark.timeout(300)  # each file of tests is a process of its own
def test_dry_run_goes_all_the_way(tmp_path: Path) -> None:
    code, result, output = run(tmp_path / "check.json", "--module", _C.__file__, "--benchmarks", "attention")
    assert code == 0, output
    assert result["finished"] and result["dry_run"]
    steps = {step["name"]: step["status"] for step in result["steps"]}
    sanitizers = [f"compute-sanitizer {checker}" for checker in ("memcheck", "synccheck", "racecheck")]
    assert list(steps)[-3:] == sanitizers
    assert {steps.pop(name) for name in sanitizers} <= {"ok", "absent"}  # neither is a failure
    assert set(steps.values()) == {"ok"}
    assert list(steps)[:2] == ["build", "facts"]
    assert "tests/gpu/test_copy_cuda.py" in steps
    assert result["kernels"] == built_hashes()
    assert result["module"]["cuda_built"] == _C.cuda_built
    assert {"commit", "python", "versions", "processor"} <= set(result["environment"])
    counts = result["tests"]["gpu/test_copy_cuda.py"]
    assert counts["failed"] == 0 and counts["collected"] > 0
    document = result["benchmarks"]["attention"]
    assert document["finished"] and len(document["rows"]) > 10
    assert all(row["error"] is None for row in document["rows"])
    passes = {row["case"].split(", ")[-1] for row in document["rows"]}
    assert passes == {"forward", "backward", "deterministic backward"}
    assert str(ROOT) not in json.dumps(result)
    assert [path.name for path in tmp_path.iterdir()] == ["check.json"]


@pytest.mark.timeout(300)  # each file of tests is a process of its own
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
    names = [step["name"] for step in result["steps"]]
    assert names[-4] == "benchmark overhead" and names[-1] == "compute-sanitizer racecheck"


def test_small_cases_run_under_the_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that writes down what it is given: first it finds nothing, then an error."""
    import gpu_check

    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = argparse.Namespace(seconds=60.0, dry_run=True, json=tmp_path / "r.json", benchmarks=())
    check = gpu_check.Check(arguments)
    assert gpu_check.sanitizer() is None
    assert check.sanitize("memcheck", 30)[0] == "absent"
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "$PYTORCH_NO_CUDA_MEMORY_CACHING $@" >> {tmp_path}/calls\necho 2 passed\n')
    tool.chmod(0o755)
    assert check.sanitize("racecheck", 30) == ("ok", "attention: 2 passed; decode: 2 passed")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 == len(gpu_check.SANITIZED)
    for call, (name, cases) in zip(calls, gpu_check.SANITIZED.items(), strict=True):
        assert call.startswith("1 --tool racecheck --target-processes all --error-exitcode 99 ")
        assert f"tests/gpu/test_{name}_cuda.py" in call and call.endswith(f"-k {cases}")
        assert (ROOT / "tests" / "gpu" / f"test_{name}_cuda.py").is_file()
    tool.write_text("#!/bin/sh\necho '= Invalid __global__ read of size 16 bytes'\nexit 99\n")
    status, detail = check.sanitize("memcheck", 30)
    assert status == "failed" and "test_attention_cuda.py" in detail and "Invalid __global__ read" in detail


def test_the_cases_of_the_sanitizer_exist() -> None:
    """A name that no case has would select nothing."""
    import gpu_check

    attention, decode = (importlib.import_module(f"helpers.{name}_cases") for name in ("attention", "decode"))
    for module, selected in ((attention, "attention"), (decode, "decode")):
        names = {case.name for case in module.CASES}
        assert set(gpu_check.SANITIZED[selected].split(" or ")) <= names


def test_files_with_tests_for_gpus() -> None:
    import gpu_check

    found = {path.relative_to(ROOT / "tests").as_posix() for path in gpu_check.test_files()}
    assert {"gpu/test_attention_cuda.py", "gpu/test_decode_cuda.py", "integrations/test_models_cuda.py"} <= found
    assert "ops/test_rotary.py" in found and "ops/test_sdpa.py" not in found


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
