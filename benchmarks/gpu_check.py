"""Everything that needs a GPU, in one command that takes less than 10 minutes: the build, every GPU test, every GPU
benchmark, and small cases of some kernels under compute-sanitizer where that is installed. The table of operations
(codeshell/operations.py) says which benchmarks and cases.

    python benchmarks/gpu_check.py --json benchmarks/results/gpu-check-h200.json

It needs one GPU, nvcc, torch, numpy, pytest, hypothesis, pybind11, cmake and ninja; codeshell need not be installed.
The extension is built in build/gpu-check, from which the tests and benchmarks import it; a checkout's own build stays
as it is. Where there is no nvcc, `--module FILE` takes a `_C` that was built elsewhere from these sources.

Each step is a process with a time limit of its own, and none stops the run. The result is written after each step:

    environment, device (name, driver, clocks), kernels {source: hash of what ran}, module, dry_run, finished,
    steps [{name, status: ok | failed | timed out | left out (no time) | absent (no such tool), seconds, detail}],
    tests {file below tests/: {passed, failed, skipped, messages}}, benchmarks {name: the benchmark's own document}

`codeshell info --kernels` reads it. --dry-run takes the same steps on a machine without a GPU: tests skip, benchmarks
run with tiny sizes on the CPU, and the result is not counted as a GPU's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if "--facts" not in sys.argv:
    # Before anything is built or installed. The child process of --facts takes what was built instead.
    sys.path.insert(1, str(ROOT))

from codeshell.engine.files import write_json  # noqa: E402
from codeshell.kernels import present_hashes  # noqa: E402
from codeshell.operations import OPERATIONS  # noqa: E402

TOTAL = 560.0
"""Seconds in all; what does not fit is left out and listed."""
BUILD, TESTS, BENCHMARK, SANITIZER = 200.0, 90.0, 80.0, 60.0
"""Seconds for the build, for one file of tests, for one benchmark, and for one checker of the sanitizer."""
LONGER = {"attention": 150.0}
"""Seconds for a benchmark with more rows."""
WITH_KERNELS = [operation for operation in OPERATIONS if operation.kernels]
BENCHMARKS = (*(operation.benchmark for operation in WITH_KERNELS if operation.benchmark), "overhead")
"""In the table's order, what is known least first: where time runs out, the last are left out."""
SANITIZERS = ("memcheck", "synccheck", "racecheck")
"""Racecheck knows the accesses of tensor TMA, but may report those of cp.async.bulk without a cause."""
SANITIZED = {operation.kernels[0].tests[0]: operation.sanitized for operation in WITH_KERNELS if operation.sanitized}
"""For a file of GPU tests, below tests/, the names of its cases that are small enough for the sanitizer."""
ELSEWHERE = ("ops", "optim", "integrations", "patch")
"""Folders of tests, or files test_NAME.py, whose tests with `cuda` in their name run too."""


class Check:
    """The run: its clock, its working folder, and the result that is on disk after each step."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.end = time.monotonic() + args.seconds
        self.work = ROOT / "build" / "gpu-check"
        self.site = self.work / "site"
        self.result: dict[str, Any] = {
            "dry_run": args.dry_run,
            "environment": {},
            "device": {},
            "kernels": {},
            "module": {},
            "steps": [],
            "tests": {},
            "benchmarks": {},
            "finished": False,
        }

    def step(self, name: str, limit: float, work: Callable[[float], tuple[str, str]]) -> None:
        """Run `work(seconds)`, which returns a status and a detail, within what is left of the time."""
        limit = min(limit, self.end - time.monotonic())
        started = time.monotonic()
        status, detail = "left out", "no time was left"
        if limit > 5:
            try:
                status, detail = work(limit)
            except Exception as error:  # a step that breaks must not end the others
                status, detail = "failed", f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - started, 1)
        detail = detail.replace(str(ROOT), ".").replace(str(Path.home()), "~")
        self.result["steps"].append({"name": name, "status": status, "seconds": seconds, "detail": detail})
        self.save()
        print(f"{name:40} {status:10} {seconds:6.1f} s  {detail if status == 'ok' else ''}", flush=True)
        if status != "ok" and detail:
            print("    " + "\n    ".join(detail.splitlines()[-15:]), flush=True)

    def save(self) -> None:
        write_json(self.args.json, self.result)

    def python(self, arguments: list[str], limit: float, under: Sequence[str] = (), **extra: str) -> tuple[str, str]:
        """Run the interpreter with the built package, `under` another program; (status, end of its output)."""
        paths = os.pathsep.join(filter(None, (str(self.site), os.environ.get("PYTHONPATH"))))
        return finish([*under, sys.executable, *arguments], limit, os.environ | {"PYTHONPATH": paths} | extra)

    # The steps

    def build(self, limit: float) -> tuple[str, str]:
        package = self.site / "codeshell"
        shutil.rmtree(self.site, ignore_errors=True)
        package.mkdir(parents=True)
        for path in (ROOT / "codeshell").iterdir():
            if path.suffix != ".so" and path.name != "__pycache__":
                (package / path.name).symlink_to(path)
        if self.args.module:
            shutil.copy(self.args.module, package)
            return "ok", f"took {self.args.module.name}"
        import pybind11

        build = self.work / "build"
        configure = [
            *(tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCODESHELL_CUDA={'auto' if self.args.dry_run else '1'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={package}",
        ]
        started = time.monotonic()
        status, detail = finish(configure, limit)
        if status != "ok":
            return status, detail
        return finish([tool("cmake"), "--build", str(build)], limit - (time.monotonic() - started))

    def facts(self, limit: float) -> tuple[str, str]:
        out = self.work / "facts.json"
        out.unlink(missing_ok=True)
        status, detail = self.python([__file__, "--facts", str(out)], limit)
        if out.exists():
            self.result |= json.loads(out.read_text())
        if self.args.commit:
            self.result["environment"]["commit"] = self.args.commit
        if status != "ok":
            return status, detail
        present, ran = present_hashes() or {}, self.result["kernels"]
        if ran != present:
            return "failed", f"the module is not built from these sources: {ran} in it, {present} here; build it anew"
        if self.result["device"]["type"] != "cuda" and not self.args.dry_run:
            return "failed", "torch finds no CUDA device here; --dry-run goes through without one"
        if not self.result["module"]["cuda_built"] and not self.args.dry_run:
            return "failed", "the module was built without CUDA"
        return "ok", self.result["device"].get("name", "no GPU: dry run")

    def tests(self, path: Path, limit: float) -> tuple[str, str]:
        out = self.work / "junit.xml"
        out.unlink(missing_ok=True)
        # -P: the current folder has a codeshell without the extension that was built here.
        # -vv: a test that hangs has then printed its name before the limit ends it.
        command = ["-P", "-m", "pytest", str(path), "-vv", "-p", "no:cacheprovider", f"--junitxml={out}"]
        if path.parent.name != "gpu":
            command += ["-k", "cuda"]
        status, detail = self.python(command, limit)
        counts = outcomes(out)
        name = path.relative_to(ROOT / "tests").as_posix()
        if status == "timed out":
            counts["failed"] += 1
            counts["messages"].append(f"timed out after {limit:.0f} s")
        self.result["tests"][name] = counts
        summary = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
        if status == "ok" or (counts["collected"] == 0 and "deselected" in detail):
            return "ok", summary
        return status, f"{summary}\n{detail}"

    def benchmark(self, name: str, limit: float) -> tuple[str, str]:
        # Beside the result, so that it is there if this whole run is cut off: a benchmark writes after each case.
        out = self.args.json.with_name(f"{self.args.json.stem}-{name}.json")
        out.unlink(missing_ok=True)
        command = [str(ROOT / "benchmarks" / f"{name}.py"), "--json", str(out), "--seconds", f"{0.7 * limit:.0f}"]
        command += ["--smoke", "--device", "cpu"] if self.args.dry_run else ["--device", "cuda"]
        status, detail = self.python(command, limit)
        if not out.exists():
            return "failed" if status == "ok" else status, detail
        document = self.result["benchmarks"][name] = json.loads(out.read_text())
        out.unlink()
        summary = f"{len(document['rows'])} rows"
        return (status, summary) if status == "ok" else (status, f"{summary}\n{detail}")

    def sanitize(self, checker: str, limit: float) -> tuple[str, str]:
        program = sanitizer()
        if program is None:
            return "absent", "compute-sanitizer is not on PATH and not beside nvcc; it comes with the CUDA toolkit"
        under = [program, "--tool", checker, "--target-processes", "all", "--error-exitcode", "99"]
        started, details = time.monotonic(), []
        for name, cases in SANITIZED.items():
            path = ROOT / "tests" / name
            command = ["-P", "-m", "pytest", str(path), "-q", "-x", "-p", "no:cacheprovider", "-k", cases]
            # Every tensor gets an allocation of its own, or reaching into its neighbour would be no error.
            left = limit - (time.monotonic() - started)
            status, detail = self.python(command, left, under, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
            if status != "ok":
                return status, f"{path.name}:\n{detail}"
            details.append(f"{path.stem}: {' '.join(detail.split())[-100:]}")
        return "ok", "; ".join(details)

    def run(self) -> int:
        self.work.mkdir(parents=True, exist_ok=True)
        self.step("build", BUILD, self.build)
        self.step("facts", 60, self.facts)
        for path in test_files():
            name = path.relative_to(ROOT).as_posix()
            self.step(name, TESTS, lambda limit, path=path: self.tests(path, limit))
        for name in self.args.benchmarks:
            limit = LONGER.get(name, BENCHMARK)
            self.step(f"benchmark {name}", limit, lambda limit, name=name: self.benchmark(name, limit))
        for checker in SANITIZERS:
            name = f"compute-sanitizer {checker}"
            self.step(name, SANITIZER, lambda limit, checker=checker: self.sanitize(checker, limit))
        self.result["finished"] = True
        self.save()
        return int(any(step["status"] not in ("ok", "absent") for step in self.result["steps"]))


def test_files() -> list[Path]:
    """The GPU tests, and the other files that have tests for CUDA devices."""
    tests = ROOT / "tests"
    found = sorted((tests / "gpu").glob("test_*_cuda.py"))
    for name in ELSEWHERE:
        for path in sorted({*(tests / name).glob("test_*.py"), *tests.glob(f"test_{name}.py")}):
            if "cuda" in path.stem or re.search(r"^def test_\w*cuda", path.read_text(), re.M):
                found.append(path)
    return found


def outcomes(path: Path) -> dict[str, Any]:
    """The counts of a JUnit file, and the first lines of each failure."""
    counts: dict[str, Any] = {"collected": 0, "passed": 0, "failed": 0, "skipped": 0, "messages": []}
    if not path.exists():
        return counts | {"failed": 1, "messages": ["pytest wrote no result"]}
    for case in ElementTree.parse(path).iter("testcase"):
        counts["collected"] += 1
        bad = [child for child in case if child.tag in ("failure", "error")]
        if bad:
            counts["failed"] += 1
            text = (bad[0].get("message") or bad[0].text or "")[:1000].replace(str(ROOT), ".")
            counts["messages"].append(f"{case.get('classname')}::{case.get('name')}: {text}")
        elif case.find("skipped") is not None:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts


def finish(command: list[str], limit: float, environment: dict[str, str] | None = None) -> tuple[str, str]:
    """Run a command to its end or to the limit, where it is ended with its children; (status, end of its output)."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return "timed out", output[-3000:]
    return "ok" if process.returncode == 0 else "failed", output[-3000:]


def tool(name: str) -> str:
    """cmake or ninja: beside the interpreter (pip), else on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is needed to build: pip install {name}")
    return found


def sanitizer() -> str | None:
    """compute-sanitizer: on PATH, else beside nvcc."""
    nvcc = shutil.which("nvcc")
    beside = Path(nvcc).resolve().with_name("compute-sanitizer") if nvcc else None
    return shutil.which("compute-sanitizer") or (str(beside) if beside and beside.exists() else None)


def write_facts(out: Path) -> None:
    """Write what runs here, and on which device; in a process of its own, which has the built package."""
    import harness
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {"device": harness.device_facts(device)}
    write_json(out, found)  # the device, even where the module does not load
    from codeshell import _C
    from codeshell.kernels import built_hashes

    found["environment"] = harness.facts(torch.get_num_threads()) | {"command": "gpu_check.py"}
    found["kernels"] = built_hashes()
    found["module"] = {"cuda_built": _C.cuda_built, "architectures": _C.cuda_architectures, "compiler": _C.compiler}
    write_json(out, found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", default=ROOT / "build" / "gpu-check.json")
    parser.add_argument("--module", type=Path, metavar="FILE", help="use this built _C and build nothing")
    parser.add_argument("--commit", help="commit of the sources, where this folder is no checkout")
    parser.add_argument("--seconds", type=float, default=TOTAL, help=f"time limit for everything; default {TOTAL:.0f}")
    parser.add_argument(
        "--benchmarks", nargs="*", default=BENCHMARKS, choices=BENCHMARKS, help="benchmarks to run; default: all"
    )
    parser.add_argument("--dry-run", action="store_true", help="take every step that is possible without a GPU")
    parser.add_argument("--facts", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.facts:
        write_facts(args.facts)
        return 0
    if args.module and not args.module.is_file():
        parser.error(f"--module {args.module}: no such file")
    args.json = args.json.resolve()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    return Check(args).run()


if __name__ == "__main__":
    sys.exit(main())
