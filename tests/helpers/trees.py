"""Small corpora on disk and a short way to run the first two stages on them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa

from codeshell.data import collect, filter
from codeshell.documents.shards import list_shards, read_table
from codeshell.engine import LocalEngine
from codeshell.recipe import Collect, Recipe, Rules


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def program(number: int, lines: int = 5) -> str:
    """A little Python file that no rule drops; each number gives another."""
    return "".join(f"def function_{number}_{line}(value):\n    return value + {line}\n\n" for line in range(lines))


def hostile_tree(root: Path) -> Path:
    """One of everything that must not stop or hang a walk. `expected` below says what becomes of each."""
    write_tree(
        root,
        {
            "good.py": program(0),
            "script": "#!/usr/bin/env python3\nprint('hello')\n",
            "pkg/sub/deep.py": program(1),
            "pkg/nul.py": b"a = 1\n\0b\n",
            "pkg/empty.py": b"",
            "pkg/latin1.py": "# café\n".encode("latin-1"),
            "pkg/huge.py": b"x = 1\n" * 2000,
            "pkg/long.py": b"x = '" + b"y" * 5000 + b"'\n",
            "pkg/image.png": b"\x89PNG\r\n\x1a\n\0\0",
            "pkg/lib.min.js": "var a=1;",
            "pkg/data.csv": "a,b\n1,2\n",
            "LICENSE": "All rights.\n",
            ".git/config": "[core]\n",
            "node_modules/left/pad.js": "module.exports = 1;\n",
            "pkg/third_party/other.py": program(2),
            "pkg/__pycache__/x.cpython-311.pyc": b"\0\0",
            "environment/pyvenv.cfg": "home = /usr\n",
            "environment/lib/a.py": program(3),
            "nested/.git": "gitdir: ../.git/modules/nested\n",
            "nested/inner.py": program(4),
        },
    )
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "dangling.py").symlink_to(root / "nowhere.py")
    (root / "alias.py").symlink_to(root / "good.py")
    os.mkfifo(root / "pipe.py")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root)  # a socket's path has room for 108 bytes only
        try:
            server.bind("sock.py")
        finally:
            os.chdir(here)
    (root / os.fsdecode(b"caf\xe9.py")).write_text(program(5))
    return root


HOSTILE_LIMIT = 8000
"""`max_file_bytes` for which `pkg/huge.py` is over-large and `pkg/long.py` is not."""

HOSTILE_DOCUMENTS = {
    "caf\\xe9.py",
    "good.py",
    "nested/inner.py",
    "pkg/long.py",
    "pkg/sub/deep.py",
    "script",
}
HOSTILE_DROPS = {
    ".git": "vcs",
    "LICENSE": "unknown_language",
    "alias.py": "link",
    "dangling.py": "link",
    "environment": "vendored",
    "loop": "link",
    "nested/.git": "vcs",
    "node_modules": "vendored",
    "pipe.py": "special_file",
    "pkg/__pycache__": "cache",
    "pkg/data.csv": "unknown_language",
    "pkg/empty.py": "empty",
    "pkg/huge.py": "over_large",
    "pkg/image.png": "binary",
    "pkg/latin1.py": "encoding_latin1",
    "pkg/lib.min.js": "minified",
    "pkg/nul.py": "binary",
    "pkg/third_party": "vendored",
    "sock.py": "special_file",
}


def recipe(*inputs: Path | str, rules: Rules | None = None, **collect_settings: Any) -> Recipe:
    return Recipe(
        collect=Collect(inputs=tuple(map(str, inputs)), **collect_settings),
        rules=rules or Rules(language_floor=0),
    )


def run_collect(settings: Recipe, directory: Path, workers: int = 1) -> dict[str, Any]:
    directory.mkdir(parents=True, exist_ok=True)
    return collect.run(settings, directory, LocalEngine(workers))


def run_filter(settings: Recipe, directory: Path, workers: int = 1) -> dict[str, Any]:
    return filter.run(settings, directory, LocalEngine(workers))


def rows(directory: Path, name: str) -> list[dict[str, Any]]:
    tables = [read_table(path) for path in list_shards(directory, name)]
    return pa.concat_tables(tables).to_pylist() if tables else []


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below, for comparing runs byte by byte."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
