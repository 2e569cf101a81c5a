"""Builds and runs the fuzz targets of the deduper's C++: clang with libFuzzer, AddressSanitizer and UBSan.

    python3 tests/fuzz/fuzz.py [--runs N] [--seconds S] [--target texts|pairs|candidates] [--clang clang++] [--keep]

`corpus/TARGET.hex` holds the first inputs, one per line; the test suite replays them through the Python bindings. New
inputs that a run finds stay in build/fuzz/TARGET, and the next run begins with them; `--keep` puts the smallest inputs
that reach the same code into the .hex file. An input that fails is left in build/fuzz/failed: fix what it shows, and
add it to the .hex file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FUZZ = ROOT / "tests" / "fuzz"
BUILD = ROOT / "build" / "fuzz"
TARGETS = {"texts": 400, "pairs": 200, "candidates": 200}
"""Bytes of an input at most: what more of them would show, a small chunk and small options show sooner."""

FLAGS = [
    *("-std=c++20", "-O2", "-g1", "-Icsrc", "-Itests/fuzz"),
    *("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
    # Text is read in chunks of 4,096 bytes; in smaller ones a short text shows what happens between two.
    "-DCODESHELL_DEDUP_CHUNK=768",
]
# Coverage without the trace of comparisons, which costs two thirds of the speed in loops over hashes.
COVERAGE = ["-fsanitize=fuzzer-no-link", "-fno-sanitize-coverage=trace-cmp"]


def sources() -> list[Path]:
    simd = [ROOT / "csrc" / "simd" / name for name in ("cpu.cpp", "parallel.cpp")]
    return [*sorted((ROOT / "csrc" / "dedup").glob("*.cpp")), *sorted((ROOT / "csrc" / "text").glob("*.cpp")), *simd]


def build(clang: str, targets: list[str]) -> None:
    headers = [*(ROOT / "csrc").rglob("*.h"), FUZZ / "fuzz.h", Path(__file__)]
    newest = max(path.stat().st_mtime for path in headers)
    objects = []
    for source in [*sources(), *(FUZZ / f"fuzz_{target}.cpp" for target in targets)]:
        made = BUILD / (source.stem + ".o")
        made.parent.mkdir(parents=True, exist_ok=True)
        if not made.exists() or made.stat().st_mtime < max(newest, source.stat().st_mtime):
            print(f"compile {source.name}", flush=True)
            subprocess.run([clang, *FLAGS, *COVERAGE, "-c", source, "-o", made], check=True, cwd=ROOT)
        objects.append(made)
    shared = objects[: len(objects) - len(targets)]
    for target, made in zip(targets, objects[len(shared) :], strict=True):
        link = [clang, *FLAGS, "-fsanitize=fuzzer", *shared, made, "-ldl", "-pthread", "-o", BUILD / f"fuzz_{target}"]
        subprocess.run(link, check=True, cwd=ROOT)


def unpack(target: str) -> Path:
    folder = BUILD / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate((FUZZ / "corpus" / f"{target}.hex").read_text().split()):
        (folder / f"known-{number:04d}").write_bytes(bytes.fromhex(line))
    return folder


def run(target: str, runs: int, seconds: int) -> int:
    failed = BUILD / "failed"
    failed.mkdir(exist_ok=True)
    options = [f"-runs={runs}", f"-max_total_time={seconds}", f"-max_len={TARGETS[target]}", "-print_final_stats=1"]
    options += [f"-dict={FUZZ / 'dedup.dict'}", f"-artifact_prefix={failed}/{target}-", "-timeout=120"]
    done = subprocess.run([BUILD / f"fuzz_{target}", *options, unpack(target)], stderr=subprocess.PIPE, text=True)
    lines = done.stderr.splitlines()
    count = sum(int(line.split()[1]) for line in lines if line.startswith("stat::number_of_executed_units"))
    print(f"{target}: {count:,} executions" + (", FAILED" if done.returncode else ""), flush=True)
    if done.returncode:
        print("\n".join(lines[-40:]), file=sys.stderr)
    return done.returncode


def keep(target: str) -> None:
    """Replace the .hex file by a smallest set of inputs with the same coverage."""
    small = BUILD / f"{target}-small"
    small.mkdir(exist_ok=True)
    for path in small.iterdir():
        path.unlink()
    merge = [BUILD / f"fuzz_{target}", "-set_cover_merge=1", "-use_counters=0", small, BUILD / target]
    subprocess.run(merge, check=True, stderr=subprocess.DEVNULL)
    inputs = sorted((path.read_bytes() for path in small.iterdir()), key=lambda data: (len(data), data))
    (FUZZ / "corpus" / f"{target}.hex").write_text("".join(data.hex() + "\n" for data in inputs if data))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="of every target; -1: as --seconds says")
    parser.add_argument("--seconds", type=int, default=0, help="of every target at most; 0: as --runs says")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--clang", default="clang++")
    parser.add_argument("--keep", action="store_true", help="minimise the corpus afterwards, and keep it")
    args = parser.parse_args()
    targets = args.target or list(TARGETS)
    build(args.clang, targets)
    failures = [target for target in targets if run(target, args.runs, args.seconds)]
    for target in targets if args.keep and not failures else []:
        keep(target)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
