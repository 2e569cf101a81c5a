"""The tests with the oldest and the newest libraries that codeshell supports, each set in a folder of its own.

    python tools/versions.py [NAME …]      (make versions; .ci/run does it too)

An entry's packages are installed into .versions/NAME once, without their dependencies, and stand before the
environment's own packages on the path; everything else (torch, pytest) is the environment's. The ends of the ranges
are those of codeshell/versions.py. torch is not among them: its wheels of other versions are 900 MB each, so only the
version in constraints.txt is tested.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ROOT / ".versions"


class Entry(NamedTuple):
    """One set of versions.

    Attributes:
        packages: exact versions, with whatever they need in another version than the environment has.
        tests: what to run with them.
        python: the newest Python that these packages have wheels for; empty where there is no bound.
    """

    packages: tuple[str, ...]
    tests: tuple[str, ...]
    python: tuple[int, ...] = ()


ENTRIES = {
    "transformers-oldest": Entry(
        (
            "transformers==5.0.0",
            "huggingface_hub==1.5.0",
            "tokenizers==0.22.0",
            "typer-slim==0.21.1",
            "httpx==0.28.1",
            "httpcore==1.0.9",
        ),
        ("tests/versions/test_transformers.py",),
    ),
    "transformers-newest": Entry(("transformers==5.24.0",), ("tests/versions/test_transformers.py",)),
    "data-oldest": Entry(
        ("numpy==1.26.0", "pandas==2.0.0", "pyarrow==16.0.0", "python-dateutil==2.9.0", "pytz==2024.1", "six==1.16.0"),
        ("tests/versions/test_data.py",),
        python=(3, 11),
    ),
    # Headers alone (1 to 4 MB each); skipped where there is no nvcc. 12.5 renamed a function that the kernels need.
    "cuda-12.1": Entry(("nvidia-cuda-runtime-cu12==12.1.105",), ("tests/versions/test_cuda.py",)),
    "cuda-12.4": Entry(("nvidia-cuda-runtime-cu12==12.4.127",), ("tests/versions/test_cuda.py",)),
    "cuda-12.6": Entry(("nvidia-cuda-runtime-cu12==12.6.77",), ("tests/versions/test_cuda.py",)),
    "cuda-12.9": Entry(("nvidia-cuda-runtime-cu12==12.9.79",), ("tests/versions/test_cuda.py",)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENTRIES)}; all by default")
    names = parser.parse_args().names
    for name in names:
        if name not in ENTRIES:
            parser.error(f"there is no entry {name!r}; there are {', '.join(ENTRIES)}")
    # Every entry runs, also after one that failed, and each has its line at the end.
    lines, failed = [], False
    for name in names or ENTRIES:
        began = time.monotonic()
        outcome = run(name, ENTRIES[name])
        failed = failed or outcome.startswith("FAILED")
        packages = " ".join(ENTRIES[name].packages[: 3 if name.startswith("data") else 1])
        lines.append(f"{name:20} {outcome:24} {time.monotonic() - began:4.0f} s   {packages}")
    print("\n".join(lines))
    return int(failed)


def run(name: str, entry: Entry) -> str:
    """Install the packages of an entry and run its tests; the outcome in a few words."""
    if entry.python and sys.version_info[:2] > entry.python:
        return f"not run: no wheels for Python {sys.version_info[0]}.{sys.version_info[1]}"
    folder = FOLDERS / name
    if not install(folder, entry.packages):
        return "FAILED to install"
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_WAIT_POLICY": "passive"}
    # The tests find out by themselves that the folder's packages are the ones that are imported.
    environment["CODESHELL_VERSIONS"] = str(folder)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *entry.tests]
    return "ok" if subprocess.run(command, cwd=ROOT, env=environment).returncode == 0 else "FAILED its tests"


def install(folder: Path, packages: tuple[str, ...]) -> bool:
    """Install the packages into the folder; nothing to do where its stamp lists the same ones."""
    wanted = "\n".join((sys.version, *packages))
    stamp = folder / ".packages"
    if stamp.exists() and stamp.read_text() == wanted:
        return True
    # The folder appears as a whole, or not at all.
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--only-binary", ":all:"]
    if subprocess.run([*command, "--target", str(partial), *packages], stdin=subprocess.DEVNULL).returncode != 0:
        print(f"{folder.name}: pip could not install {' '.join(packages)}; is the package registry reachable?")
        return False
    (partial / ".packages").write_text(wanted)
    partial.rename(folder)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
