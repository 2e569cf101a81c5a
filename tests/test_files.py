"""Files: a length at which one holds one idea, and names of test files that Python can tell apart."""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.order import LONGEST_FIRST, SLOW

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("codeshell", "csrc", "benchmarks", "tests", "examples", "tools")
SUFFIXES = {".py", ".pyi", ".h", ".cuh", ".cu", ".cpp", ".inc", ".html", ".css", ".js"}
LONGEST = 600
"""Lines: a longer file holds more than one idea, and is split by concept."""
GENERATED = {"csrc/text/unicode_mappings.h"}
"""Tables that a script in tools/ writes."""


def test_no_file_is_longer_than_600_lines() -> None:
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES]
    lengths = {path.relative_to(ROOT).as_posix(): path.read_bytes().count(b"\n") for path in paths}
    assert len(lengths) > 400
    long = {name: length for name, length in lengths.items() if length > LONGEST and name not in GENERATED}
    assert not long, f"split these by concept: {long}"


def test_the_files_that_begin_first_exist() -> None:
    missing = [name for name in (*LONGEST_FIRST, *SLOW) if not (ROOT / "tests" / name).is_file()]
    assert not missing, f"tests/helpers/order.py: no such files: {missing}"


def module_name(path: Path) -> str:
    """The name under which pytest imports a file: from the first folder above it that is no package."""
    names = [path.stem]
    while (path.parent / "__init__.py").exists():
        path = path.parent
        names.insert(0, path.name)
    return ".".join(names)


def test_no_two_test_files_have_the_same_name() -> None:
    """Python would import one of them for both: pytest stops, and tests that import from their neighbour get the other.
    In a folder with an `__init__.py` the folder's name makes the difference."""
    # The folders that pytest imports from; programs that a sandbox runs lie in others.
    folders = [ROOT / "tests/helpers", *{path.parent for path in (ROOT / "tests").rglob("test_*.py")}]
    paths = [path for folder in folders for path in folder.glob("*.py")]
    paths = [path for path in paths if path.name not in ("__init__.py", "conftest.py")]
    names: dict[str, list[str]] = {}
    for path in paths:
        names.setdefault(module_name(path), []).append(path.relative_to(ROOT).as_posix())
    assert len(names) > 200 and "model.test_rotary" in names and "test_files" in names
    same = {name: files for name, files in names.items() if len(files) > 1}
    assert not same, f"rename one of each: {same}"
    # A test file would also hide a module of Python or of a library that it is named after.
    hidden = {name for name in names if "." not in name and name in sys.stdlib_module_names}
    assert not hidden, f"rename these: {hidden}"
