"""The length of files: one with more lines than this holds more than one idea, and is split by concept."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("codeshell", "csrc", "benchmarks", "tests", "examples", "tools")
SUFFIXES = {".py", ".pyi", ".h", ".cuh", ".cu", ".cpp", ".inc", ".html", ".css", ".js"}
LONGEST = 600
GENERATED = {"csrc/text/unicode_mappings.h"}
"""Tables that a script in tools/ writes."""


def test_no_file_is_longer_than_600_lines() -> None:
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES]
    lengths = {path.relative_to(ROOT).as_posix(): path.read_bytes().count(b"\n") for path in paths}
    assert len(lengths) > 400
    long = {name: length for name, length in lengths.items() if length > LONGEST and name not in GENERATED}
    assert not long, f"split these by concept: {long}"
