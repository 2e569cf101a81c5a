"""Gets the C sources of tree-sitter's runtime for the build: csrc/syntax/tree_sitter.cmake runs this.

The wheel of the package `tree-sitter` hides the runtime's functions; its source distribution holds the sources. pip
downloads it from wherever it downloads packages here. The files are checked against one hash, because csrc/syntax reads
the runtime's own structures. Nothing of it is kept in this repository.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.26.1"
"""The version of the package on PyPI. Another one has another hash, and csrc/syntax/nodes.c must be read against its
subtree.h."""

SHA256 = "55726ff5b2f700f817c4d09973d9568cf04b1ca0272221710ad204f157f8854b"
"""The hash over the names and contents of the C files and headers, in the order of their names."""


def sources(folder: Path) -> Path | None:
    """The folder that holds `src/lib.c` and `include/tree_sitter/api.h`, at or below this one."""
    for inner in ("", "lib", "core/lib", "tree_sitter/core/lib", f"tree_sitter-{VERSION}/tree_sitter/core/lib"):
        if (folder / inner / "src" / "lib.c").is_file() and (folder / inner / "include/tree_sitter/api.h").is_file():
            return folder / inner
    return None


def digest(folder: Path) -> str:
    """The hash of the C files and headers below a folder of sources."""
    total = hashlib.sha256()
    for path in sorted((*folder.rglob("*.c"), *folder.rglob("*.h")), key=lambda path: path.relative_to(folder).parts):
        content = path.read_bytes()
        total.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def download(target: Path) -> None:
    """Put the sources of `VERSION` into the new folder `target`.

    Raises:
        SystemExit: with one line that says why not.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        # pip reads the package's metadata with the setuptools that is here: nothing else is downloaded.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", ":all:", "--no-build-isolation", "--dest", scratch, f"tree-sitter=={VERSION}"]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        archives = list(Path(scratch).glob("tree_sitter-*.tar.gz"))
        if said.returncode or len(archives) != 1:
            lines = [line for line in said.stdout.splitlines() if line.strip()]
            raise SystemExit(
                f"pip could not download tree-sitter {VERSION}: {lines[-1] if lines else 'no reason given'}"
            )
        unpacked = Path(scratch) / "unpacked"
        with tarfile.open(archives[0]) as archive:
            archive.extractall(unpacked, filter="data")
        found = sources(unpacked)
        if found is None:
            raise SystemExit(f"{archives[0].name} holds no sources of the runtime")
        shutil.move(found, target)


def main(arguments: list[str]) -> int:
    """`fetch.py WHERE TARGET`: print the folder of the checked sources. WHERE is a folder that holds them, or empty:
    then they are taken from TARGET, or downloaded into it."""
    where, target = arguments
    if where:
        found = sources(Path(where))
        if found is None:
            raise SystemExit(f"{where} holds no sources of tree-sitter (lib/src/lib.c)")
    else:
        found = Path(target) / VERSION
        # A folder that an interrupted build left half-written is made again.
        if not found.is_dir() or digest(found) != SHA256:
            shutil.rmtree(found, ignore_errors=True)
            download(found)
    if digest(found) != SHA256:
        raise SystemExit(f"{found} is not tree-sitter {VERSION} as it was published: its hash differs")
    print(found.as_posix())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
