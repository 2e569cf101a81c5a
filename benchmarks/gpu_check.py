"""Everything that needs a GPU, for one that is there for 15 minutes: the smallest launch of each kernel, all GPU tests,
compute-sanitizer on one tile, and every benchmark, in the order in which the answers are worth most.

    python benchmarks/gpu_check.py --list                                   the plan, its budgets and their sum
    python benchmarks/gpu_check.py --prepare DIR --python python3.12        before, on any machine with nvcc
    python benchmarks/gpu_check.py --prepared DIR --json gpu-check-h200.json --seconds 560

The last one is called again until no row waits: each call continues where the one before it ended, whatever ended it.
Without --prepared, the extension is built in build/gpu-check first, which takes minutes. A checkout's own build stays
as it is. It needs torch, numpy, pytest and hypothesis; to build also nvcc, pybind11, cmake and ninja.

A row is done for the sources of its kernels and its files on one device, and is not run again for them (unless --again
names it). What hangs costs 20 seconds and ends what depends on that kernel. benchmarks/gpu/results.py says what is in
the result; `codeshell info --kernels` reads it from benchmarks/results/. Exit codes: 0 all is done and well, 1 a row is
not well, 2 the run was stopped (no GPU, nothing built, a GPU that does not answer, a signal), 3 rows wait.

--dry-run takes the same steps on a machine without a GPU: tests skip, benchmarks run with tiny sizes on the CPU, and
the result is not counted as a GPU's.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from gpu import prepare  # noqa: E402
from gpu.plan import IMPORTS, TOTAL, dry, plan  # noqa: E402
from gpu.processes import Cold, Interrupted, Starter, Warm, watch  # noqa: E402
from gpu.results import Results  # noqa: E402
from gpu.rows import Row  # noqa: E402
from gpu.runner import STOPPED, Runner, Site  # noqa: E402

from codeshell.kernels import triton_hashes  # noqa: E402

WORK = ROOT / "build" / "gpu-check"
BUILD = 150.0
"""Seconds to build the extension on the machine with the GPU, if nothing was prepared."""
SECONDS = 560.0
FACTS = 45.0
"""Seconds that reading the device may take."""


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    rows = plan()
    unknown = [x for x in (args.rows or []) + args.again if not any(fnmatch.fnmatch(row.name, x) for row in rows)]
    if unknown:
        raise SystemExit(f"{unknown[0]}: no row has this name; --list shows them")
    if not 0 <= args.seconds < float("inf"):
        raise SystemExit(f"--seconds {args.seconds:g}: give the seconds of this call, 0 or more")
    if args.list:
        return show(rows)
    if args.dry_run:
        rows = [dry(row) for row in rows]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        if args.prepare:
            fits = {"python": args.python, "architectures": args.architectures, "megabytes": args.megabytes}
            return prepare.prepare(args.prepare.resolve(), **fits, tell=say)
        return check(args, rows)
    except prepare.Unfit as error:
        say(str(error))
    except Interrupted as error:
        say(f"ended by {error} before the first row")
    return STOPPED


def check(args: argparse.Namespace, rows: list[Row]) -> int:
    """Get the package, read the device, run the rows."""
    args.json = args.json.resolve()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    lock = os.open(args.work / "lock", os.O_CREAT | os.O_RDWR)  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise prepare.Unfit(f"{args.work}: another gpu_check.py runs there; give this one its own --work") from None
    site = get_site(args)
    sanitizer_on_path()
    started = time.monotonic()
    start: Starter = Cold() if args.cold else Warm()
    say(f"{'imports':34} {'ok':14} {time.monotonic() - started:6.1f} s")
    facts, start = read_facts(site, start, args)
    results = Results(args.json)
    told = results.open(facts, dry_run=args.dry_run)
    if told:
        say(told)
    chosen = args.rows
    runner = Runner(
        rows,
        results,
        start,
        site,
        args.seconds - (time.monotonic() - BEGAN),
        work=args.work,
        chosen=lambda row: matches(row, chosen) if chosen else not row.extra,
        again=lambda row: matches(row, args.again),
    )
    return runner.run()


def get_site(args: argparse.Namespace) -> Site:
    """The package with an extension that was prepared, or that is built now."""
    debug: Path | None = None
    peers: Path | None = None
    if args.prepared:
        release, debug, commit = prepare.modules(args.prepared)
        args.commit = args.commit or commit
        peers = prepare.unpack(args.prepared, args.work / "peers")
    elif args.module:
        release = args.module
    else:
        started = time.monotonic()
        try:
            given = {"cuda": "auto"} if args.dry_run else {"architectures": args.architectures or "native"}
            release = prepare.build(args.work / "module", **given)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            output = (getattr(error, "stdout", "") or "").strip().splitlines()
            raise prepare.Unfit(f"the extension does not build: {' '.join(output[-3:]) or error}") from None
        say(f"{'build':34} {'ok':14} {time.monotonic() - started:6.1f} s")
    laid = prepare.lay(args.work / "site", release)
    return Site(laid, prepare.lay(args.work / "site-debug", debug) if debug else None, peers)


def read_facts(site: Site, start: Starter, args: argparse.Namespace) -> tuple[dict[str, Any], Starter]:
    """What runs here and on which device; and the way to start processes that could find it out."""
    out = args.work / "facts.json"
    script = [str(ROOT / "benchmarks" / "gpu" / "facts.py"), str(out)]
    paths = [str(site.release), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    # A fork has all that a new process has. Should torch think otherwise, new processes are what is left.
    for starter in [start] if args.cold else [start, Cold()]:
        out.unlink(missing_ok=True)
        ended = watch(starter, script, environment, limit=FACTS, quiet=FACTS)
        if ended.how == "exited" and ended.code == 0 and out.exists():
            break
        lines = ended.output.strip().splitlines()
        failure = lines[-1] if ended.how == "exited" and lines else f"no answer within {FACTS:.0f} s"
        say(f"{'device':34} {'failed':14} {ended.seconds:6.1f} s  {failure}".replace(str(ROOT), "."))
        if ended.how != "exited":
            raise prepare.Unfit("the GPU does not answer; nothing was run")
    else:
        raise prepare.Unfit("the device or the built extension cannot be used; nothing was run")
    facts: dict[str, Any] = json.loads(out.read_text())
    facts["environment"]["commit"] = facts["environment"]["commit"] or args.commit
    ran, present = facts["kernels"], (prepare.present_hashes() or {}) | triton_hashes()
    if ran != present:
        other = sorted(source for source in {*ran, *present} if ran.get(source) != present.get(source))
        raise prepare.Unfit(f"the extension is not built from these sources, but from other {', '.join(other)}")
    if facts["device"]["type"] != "cuda" and not args.dry_run:
        raise prepare.Unfit("torch finds no CUDA device here; --dry-run takes all steps without one")
    if not facts["module"]["cuda_built"] and not args.dry_run:
        raise prepare.Unfit("the extension was built without CUDA")
    device = facts["device"]
    name = device.get("name", "no GPU: dry run")
    say(f"{'device':34} {'ok':14} {ended.seconds:6.1f} s  {name} {device.get('driver_version', '')}".rstrip())
    return facts, starter


def show(rows: list[Row]) -> int:
    """Print the plan."""
    for row in rows:
        budget = f"{row.budget:5.0f} s" if not row.extra else " " * 7
        mark = " (only if named)" if row.extra else " (information)" if row.information else ""
        print(f"{row.name:34} {budget}  {row.why}{mark}")
    total = sum(row.budget for row in rows if not row.extra) + IMPORTS
    print(f"{'imports and device':34} {IMPORTS:5.0f} s")
    print(f"{'sum':34} {total:5.0f} s of {TOTAL:.0f}; {BUILD:.0f} s more where the extension is built there")
    return int(total > TOTAL)


def matches(row: Row, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)


def sanitizer_on_path() -> None:
    """Put compute-sanitizer on PATH, which in some installations lies beside nvcc alone."""
    nvcc = shutil.which("nvcc")
    if nvcc and shutil.which("compute-sanitizer") is None:
        os.environ["PATH"] += os.pathsep + str(Path(nvcc).resolve().parent)


def end(number: int, frame: object) -> None:
    """Once; a second signal does not disturb the writing of the result."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def say(line: str) -> None:
    print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", type=Path, metavar="FILE", default=ROOT / "build" / "gpu-check.json")
    result.add_argument("--seconds", type=float, default=SECONDS, help=f"limit of this call; default {SECONDS:.0f}")
    result.add_argument(
        "--work", type=Path, metavar="DIR", default=WORK, help="for files of the run; default: in build/"
    )
    result.add_argument("--prepared", type=existing, metavar="DIR", help="take what --prepare DIR made; build nothing")
    result.add_argument("--module", type=existing, metavar="FILE", help="take this built _C; build nothing")
    result.add_argument("--rows", nargs="+", metavar="ROW", help="only rows of these names, which may have a *")
    result.add_argument("--again", nargs="+", default=[], metavar="ROW", help="run these rows though they are done")
    result.add_argument("--commit", help="commit of the sources, where this folder is no checkout")
    result.add_argument("--list", action="store_true", help="print the plan, and run nothing")
    result.add_argument("--dry-run", action="store_true", help="take every step that is possible without a GPU")
    result.add_argument("--cold", action="store_true", help="a new interpreter for each row, in place of a fork")
    result.add_argument("--prepare", type=Path, metavar="DIR", help="make what the machine with the GPU needs")
    result.add_argument("--python", default=sys.executable, help="for --prepare: a Python of that machine's version")
    result.add_argument(
        "--architectures", default="", help="GPUs to build for, such as 90; default: all with --prepare, else this one"
    )
    result.add_argument("--megabytes", type=float, default=60, help="for --prepare: MiB in all; default 60")
    return result


def existing(name: str) -> Path:
    path = Path(name).resolve()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{name}: no such file or folder")
    return path


if __name__ == "__main__":
    sys.exit(main())
