"""The include order of csrc: a file includes its own level or what lies below, and no includes go in a circle.

The levels: ground, then the primitives of a GPU, then the operations and the deduper, then the table that picks CPU
kernels, and on top the bindings.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.cubins import cmake_list

CSRC = Path(__file__).resolve().parents[1] / "csrc"
LEVELS = {
    "simd": 0,
    "text": 0,
    "gpu": 1,
    "activation": 2,
    "adamw": 2,
    "attention": 2,
    "boosting": 2,
    "bpe": 2,
    "copy": 2,
    "dedup": 2,
    "int8": 2,
    "loss": 2,
    "ngram": 2,
    "norm": 2,
    "product": 2,
    "sandbox": 2,
    "syntax": 2,
    "rotary": 2,
    "cpu": 3,
    "bindings": 4,
}
"""Folder of csrc to its level. A new folder needs a line here."""

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)
SUFFIXES = {".h", ".inc", ".cpp", ".cu", ".cuh"}


def include_graph(csrc: Path) -> dict[str, set[str]]:
    """What each source below `csrc` includes of it: both as paths below `csrc`."""
    graph: dict[str, set[str]] = {}
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in SUFFIXES:
            continue
        name = path.relative_to(csrc).as_posix()
        included = INCLUDE.findall(path.read_text(encoding="utf-8"))
        missing = [inner for inner in included if not (csrc / inner).is_file()]
        assert not missing, f"{name} includes {missing}, which are not below csrc"
        graph[name] = set(included)
    return graph


def upward(graph: dict[str, set[str]]) -> list[str]:
    """The includes that run to a higher level, as "file -> file"."""
    return [
        f"{name} -> {inner}"
        for name, included in graph.items()
        for inner in sorted(included)
        if LEVELS[inner.split("/")[0]] > LEVELS[name.split("/")[0]]
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of nodes, its first node also at its end; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for inner in sorted(graph.get(name, ())):
            if found := visit(inner, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def folder_graph(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same between folders, without a folder's includes of itself."""
    folders: dict[str, set[str]] = {}
    for name, included in graph.items():
        folder = name.split("/")[0]
        others = {inner.split("/")[0] for inner in included} - {folder}
        folders.setdefault(folder, set()).update(others)
    return folders


def test_every_folder_has_a_level() -> None:
    assert {path.name for path in CSRC.iterdir() if path.is_dir()} == set(LEVELS)


def test_no_include_runs_upward() -> None:
    assert upward(include_graph(CSRC)) == []


def test_no_includes_go_in_a_circle() -> None:
    graph = include_graph(CSRC)
    assert circle(graph) == []
    assert circle(folder_graph(graph)) == []


def reached(graph: dict[str, set[str]], name: str) -> set[str]:
    """What a source includes, and what that includes in turn."""
    found: set[str] = set()
    left = [name]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def test_whoever_asks_for_kernels_is_told() -> None:
    """CMake defines CODESHELL_WITH_KERNELS for a few sources alone. Any other one would take the build for one without
    kernels, and without a word."""
    graph = include_graph(CSRC)
    asking = {name for name in graph if name.endswith(".cpp") and "gpu/launch.h" in reached(graph, name)}
    of_the_tests = {name for name in asking if name.startswith("gpu/host/")}
    told = {*cmake_list("CODESHELL_KERNEL_BINDINGS"), *cmake_list("CODESHELL_KERNEL_CPU_SOURCES")}
    assert asking - of_the_tests <= {name.removeprefix("csrc/") for name in told} | {"bindings/module.cpp"}


def test_faults_show(tmp_path: Path) -> None:
    def write(name: str, *included: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f'#include "{inner}"\n' for inner in included))

    write("simd/cpu.h")
    write("rotary/rotary.h", "simd/cpu.h")
    write("cpu/kernels.h", "rotary/rotary.h")
    assert upward(include_graph(tmp_path)) == []
    assert circle(include_graph(tmp_path)) == []
    write("rotary/rotary.h", "cpu/kernels.h")
    graph = include_graph(tmp_path)
    assert upward(graph) == ["rotary/rotary.h -> cpu/kernels.h"]
    assert circle(graph) == ["cpu/kernels.h", "rotary/rotary.h", "cpu/kernels.h"]
    write("rotary/rotary.h", "simd/vector.h")
    with pytest.raises(AssertionError, match="not below csrc"):
        include_graph(tmp_path)
