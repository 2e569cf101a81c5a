"""Where a tool of a language lies, and what the sandbox must show for it to start.

On this machine a tool is looked for on PATH. One below the system's folders needs nothing more; one elsewhere (a
node of nvm, a Rust of rustup in a home) needs its own folder inside the sandbox, read-only, and nothing else of the
home. In a folder that serves as the sandbox's root a tool is looked for where a Debian system has its programs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from codeshell.evaluate.sandbox.toolchains.caches import run_here

__all__ = ["Tool", "find_in_root", "find_on_machine", "jars", "outside"]

SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/etc/alternatives/")
"""Folders that the sandbox shows anyway."""

ROOT_FOLDERS = ("usr/local/bin", "usr/bin", "bin", "opt/*/bin", "opt/*/usr/bin")

SHIMS = {
    "rustc": (("--print", "sysroot"), "bin/rustc"),
    "julia": (("--startup-file=no", "-e", "print(Sys.BINDIR)"), "julia"),
}
"""Tools that an installer (rustup, juliaup) replaces by a program that only starts the real one: how to ask for the
folder of the real one, and where it lies in there."""


@dataclass(frozen=True)
class Tool:
    """A program, by its path inside the sandbox."""

    path: str
    bind: str = ""
    """What the sandbox must show beyond the system's folders, at the same path; empty if nothing."""


def find_on_machine(name: str) -> Tool | None:
    """The tool of this name on PATH, None if there is none."""
    found = shutil.which(name)
    if found is None:
        return None
    # A relative entry of PATH would mean another file inside the sandbox.
    path = os.path.abspath(found)  # noqa: PTH100 - links stay: what a program is called can matter to it
    if not outside(path) and not outside(os.path.realpath(path)):
        return Tool(path)
    if shim := SHIMS.get(name):
        try:
            path = os.path.join(run_here([path, *shim[0]]).strip(), shim[1])  # noqa: PTH118
        except (OSError, subprocess.SubprocessError):
            return None
    path = os.path.realpath(path)
    return Tool(path, _own_folder(Path(path)) if outside(path) else "")


def find_in_root(name: str, root: Path) -> Tool | None:
    """The tool of this name in a folder that serves as the root, None if there is none."""
    for pattern in ROOT_FOLDERS:
        for folder in sorted(root.glob(pattern)):
            # A link may be absolute, and then means a file below the root: that it is there is all that we ask.
            if os.path.lexists(folder / name):
                return Tool("/" + str((folder / name).relative_to(root)))
    return None


def outside(path: str) -> bool:
    """Whether the sandbox does not show a path by itself."""
    return not path.startswith(SYSTEM)


def jars(pattern: str, root: Path | None = None) -> list[str]:
    """Jars whose file name fits a pattern, on CLASSPATH and where Debian has them, as paths inside the sandbox."""
    base = root or Path("/")
    there = ["/" + str(path.relative_to(base)) for path in sorted((base / "usr" / "share" / "java").glob(pattern))]
    if root is not None:
        return there
    named = [entry for entry in os.environ.get("CLASSPATH", "").split(os.pathsep) if Path(entry).match(pattern)]
    return [os.path.realpath(entry) for entry in named if Path(entry).is_file()] + there


def _own_folder(path: Path) -> str:
    """The folder that a tool was installed into: above `bin`. Where that is a home, or above one, only the file."""
    folder = path.parent.parent if path.parent.name == "bin" else path.parent
    home = Path.home()
    if folder in (home, *home.parents, home / ".local"):
        return str(path)
    return str(folder)
