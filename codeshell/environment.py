"""The place where something runs: the cores it may use; versions, machine, commit and command for the records.

It needs only the standard library and the extension.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import time
from pathlib import Path
from typing import Any, SupportsIndex

MAX_THREADS = 1024
"""Far beyond any use. OpenMP's runtime ends the process if the system gives it no more threads, hence a limit."""


def usable_cores() -> int:
    """The processor cores that this process may run on, which a container or `taskset` may have limited."""
    # Not os.cpu_count(): that is the whole machine, whatever the limits of this process are.
    return len(os.sched_getaffinity(0))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def usable_memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or a container's limit; None where neither is told."""
    sizes = []
    with contextlib.suppress(OSError, ValueError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        # "max" is no limit, and an older kernel says a number beyond any memory.
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(Path(limit).read_text()))
    return min(sizes, default=None)


def thread_count(threads: int) -> int:
    """`threads`, or the usable cores where it is 0.

    Raises:
        ValueError: `threads` is negative, more than `MAX_THREADS`, or no whole number.
    """
    if not isinstance(threads, SupportsIndex):
        raise ValueError(f"threads: {threads!r} is not a whole number")
    if not 0 <= threads <= MAX_THREADS:
        raise ValueError(f"threads: {threads} is not in 0..{MAX_THREADS}; 0 means all cores")
    return threads or usable_cores()


def environment(workers: int) -> dict[str, Any]:
    """The facts, ready for JSON. Nothing here enters a stage's key. The command is without folders, because results are
    published."""
    import importlib.metadata as metadata
    import platform

    from codeshell import _C, __version__

    # What decides results or speed beside our own code; those that are not installed are left out.
    versions = {}
    for name in ("torch", "numpy", "pyarrow", "tokenizers", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "codeshell": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "versions": versions,
        "system": platform.platform(),
        "processor": processor(),
        "cores": usable_cores(),
        "workers": workers,
        "simd": _C.simd_level(),
        "cuda_built": _C.cuda_built,
        "gpus": [device["name"] for device in _C.gpu_devices()],
        "command": " ".join(without_folders(word) for word in sys.argv),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def without_folders(word: str) -> str:
    """A word of a command line, its path cut to the last name: `--out=/home/me/runs/demo/` becomes `--out=demo`."""
    option, equals, path = word.rpartition("=")
    return option + equals + (path.rstrip("/").rpartition("/")[2] or path)


def commit() -> str | None:
    """The commit of the checkout that this package is run from; None for an installed wheel."""
    # Without a .git of its own, the package may still lie below a foreign checkout, whose commit would mislead.
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    import subprocess

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None


def benchmarks_folder() -> Path | None:
    """The benchmarks and their results: beside the package in a checkout, inside it once installed (setup.py)."""
    package = Path(__file__).resolve().parent
    # The harness tells the benchmarks from any other folder of that name.
    for folder in (package / "benchmarks", package.parent / "benchmarks"):
        if (folder / "harness.py").is_file():
            return folder
    return None


def processor() -> str:
    """The processor's name as the system gives it."""
    import platform

    # Python's own answer on Linux is only the architecture.
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
