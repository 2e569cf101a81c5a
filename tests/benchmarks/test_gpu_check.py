"""gpu_check.py as a command, on a machine without a GPU: its whole way, and each way in which it ends early."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codeshell import _C
from codeshell.kernels import hashes

ROOT = Path(__file__).resolve().parents[2]


def run(result: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--json", str(result)]
    command += ["--work", str(result.parent / "work")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=result.parent, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(400)  # each row is a process of its own
def test_dry_run_goes_all_the_way_and_continues(tmp_path: Path) -> None:
    result = tmp_path / "check.json"
    # Some of each kind: the whole way takes a minute and a half.
    kernels = ("rotary", "adamw", "copy", "decode")
    rows = [f"{stage}/{name}" for stage in ("first", "tests/gpu") for name in kernels]
    rows += ["tests/ops/flash", "memcheck/decode", "speed/decode", "speed/rotary"]
    arguments = ["--dry-run", "--module", _C.__file__, "--rows", *rows]
    code, output = run(result, *arguments, "--seconds", "100000")
    document: dict[str, Any] = json.loads(result.read_text())
    assert code == 0, output
    assert document["finished"] and document["dry_run"] and document["stopped"] is None
    assert {row["status"] for row in document["rows"].values()} == {"ok"}, output
    assert len(document["rows"]) > 10 and len(output.splitlines()) == len(document["rows"]) + 3
    assert document["kernels"] == hashes()
    assert document["module"]["cuda_built"] == _C.cuda_built
    assert {"commit", "python", "versions", "processor", "started"} <= set(document["environment"])
    counts = document["tests"]["gpu/test_copy_cuda.py"]
    assert counts["failed"] == 0 and counts["passed"] + counts["skipped"] == 8
    speed = document["benchmarks"]["rotary"]
    assert speed["finished"] and len(speed["rows"]) > 5
    assert all(row["error"] is None for row in speed["rows"])
    assert str(ROOT) not in json.dumps(document)
    assert {path.name for path in tmp_path.iterdir()} == {"check.json", "work"}

    code, output = run(result, *arguments)
    document = json.loads(result.read_text())
    assert code == 0 and document["calls"][-1]["rows"] == [], output


def test_without_time_every_row_waits(tmp_path: Path) -> None:
    result = tmp_path / "check.json"
    code, output = run(result, "--dry-run", "--module", _C.__file__, "--seconds", "0")
    document = json.loads(result.read_text())
    assert code == 3 and "called again with the same --json" in output
    assert {row["status"] for row in document["rows"].values()} == {"waits"}
    assert list(document["rows"])  # all of them are listed


@pytest.mark.parametrize("cold", [[], ["--cold"]])
def test_a_module_that_does_not_load(tmp_path: Path, cold: list[str]) -> None:
    module = tmp_path / "_C.so"
    module.write_text("not an extension")
    code, output = run(tmp_path / "check.json", "--dry-run", "--module", str(module), *cold)
    assert code == 2 and "_C.so" in output
    assert "nothing was run" in output.splitlines()[-1]
    assert not (tmp_path / "check.json").exists()


def test_two_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, output = run(tmp_path / "check.json", "--dry-run", "--module", _C.__file__)
    assert code == 2 and "another gpu_check.py runs there" in output and len(output.splitlines()) == 1


def test_prepare_for_a_python_that_does_not_run(tmp_path: Path) -> None:
    code, output = run(tmp_path / "check.json", "--prepare", str(tmp_path / "p"), "--python", "python9.9")
    assert code == 2 and "--python python9.9: does not run" in output and len(output.splitlines()) == 1


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code, output = run(tmp_path / "check.json", "--module", _C.__file__)
    assert code == 2 and "torch finds no CUDA device here; --dry-run" in output.splitlines()[-1]


def test_a_prepared_folder_of_another_python(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "prepared.json").write_text('{"python": "3.1", "kernels": {}}')
    code, output = run(tmp_path / "check.json", "--dry-run", "--prepared", str(tmp_path / "p"))
    assert code == 2 and len(output.splitlines()) == 1 and "prepared for Python 3.1" in output


def test_a_prepared_folder_is_taken(tmp_path: Path) -> None:
    from codeshell.kernels import present_hashes

    for name in ("release", "debug", "wheels"):
        (tmp_path / "p" / name).mkdir(parents=True)
    for name in ("release", "debug"):
        shutil.copy(_C.__file__, tmp_path / "p" / name)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = {"python": version, "kernels": present_hashes()}
    (tmp_path / "p" / "prepared.json").write_text(json.dumps(made))
    arguments = ["--dry-run", "--prepared", str(tmp_path / "p"), "--rows", "first/copy", "tests/gpu/copy"]
    code, output = run(tmp_path / "check.json", *arguments)
    assert code == 0, output
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert {name: row["module"] for name, row in rows.items()} == {"first/copy": "debug", "tests/gpu/copy": "release"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--module", "nowhere.so"], "nowhere.so: no such file"),
        (["--prepared", "nowhere"], "nowhere: no such file"),
        (["--rows", "first/nothing"], "first/nothing: no row has this name; --list shows them"),
        (["--again", "x*"], "x*: no row has this name"),
        (["--seconds", "-1"], "--seconds -1: "),
        (["--seconds", "nan"], "--seconds nan: "),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: Any) -> None:
    import gpu_check

    with pytest.raises(SystemExit) as end:
        gpu_check.main(arguments)
    assert message in f"{end.value.code} {capsys.readouterr().err}"
