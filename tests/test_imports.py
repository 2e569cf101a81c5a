"""The layers of the house: a room imports only from the rooms below it, and no two files import one another.

The imports are parsed, not run, so an import inside a function or under `if TYPE_CHECKING` counts as much as one at
the top of a file: each of them is a place where one file must know another. A module that is named in a string, for
`importlib` or a registry, must lie below, too; it may lead back to the file that names it, because that is what a
registry does: it lists those that implement its protocol.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "codeshell"

LEVELS: tuple[tuple[str, ...], ...] = (
    # Ground. `versions` is the table of supported libraries. `codeshell` is the package's own `__init__`: at run time
    # it holds the version and loads the rest by name.
    ("architectures", "versions"),
    ("codeshell", "_C", "errors", "randomness"),
    ("extension", "gpus", "paragraphs", "recipe_text", "values"),
    ("recipe_keys",),
    ("recipe_ablate", "recipe_finetune"),
    ("environment", "recipe", "registry"),
    ("engine",),
    ("documents",),
    # Work. Rooms of one level stand side by side and do not know one another.
    ("tokenizer",),
    ("boosting", "ngram"),
    ("dedup", "ops", "scorers"),
    ("data", "model", "optim"),
    ("integrations",),
    ("train",),
    # What trains and applies a learned score. It runs scorers, and may use the trainer.
    ("quality",),
    ("evaluate",),
    # What the package has, for `codeshell info`: a table that names the operations in the rooms above, and its reader.
    ("operations",),
    ("kernels",),
    # Faces. The pipeline is the main job: it runs every stage and writes the report at the end.
    ("export", "report", "serve"),
    ("pipeline",),
    ("ablate",),
    ("cli",),
    ("__main__",),
)
"""Rooms (folders and single files of codeshell/), from the ground up. A file may import from its own room and from
rooms of lower levels."""

HEIGHT = {room: height for height, rooms in enumerate(LEVELS) for room in rooms}

Kind = Literal["module", "function", "typing", "name"]
"""Where an import stands: at the top of a file, inside a function, under `if TYPE_CHECKING`, or in a string."""


class Edge(NamedTuple):
    """One import: `source` and `target` are module names such as `codeshell.model.cache`."""

    source: str
    target: str
    kind: Kind
    line: int


def module_files(package: Path) -> dict[str, Path]:
    """Module name of each file of a package, compiled extensions included where they have a `.pyi`."""
    modules = {}
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.pyi")]):
        parts = path.relative_to(package.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imported_names(node: ast.AST, kind: Kind = "module") -> Iterator[tuple[str, Kind, int]]:
    """Dotted names that the code under a node imports; `from a import b` gives `a.b`, which may be a module or not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Constant):
            # "codeshell.data.tokens" or "codeshell.scorers.text:score", not a sentence that mentions one.
            if isinstance(child.value, str) and re.fullmatch(r"codeshell(\.\w+)+(:\w+)?", child.value):
                yield child.value.partition(":")[0], "name", child.lineno
        elif isinstance(child, ast.Import):
            yield from ((alias.name, kind, child.lineno) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "codeshell writes its imports out in full, without leading dots"
            yield from ((f"{child.module}.{alias.name}", kind, child.lineno) for alias in child.names)
        elif isinstance(child, ast.If) and is_type_checking(child.test):
            yield from imported_names(ast.Module(child.body, []), "typing")
            yield from imported_names(ast.Module(child.orelse, []), kind)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_names(child, "function")
        else:
            yield from imported_names(child, kind)


def read_edges(package: Path) -> list[Edge]:
    """All imports of one file of the package by another."""
    modules = module_files(package)
    edges = set()
    for source, path in modules.items():
        for name, kind, line in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            # `from codeshell.model.cache import KVCache` names codeshell.model.cache: the longest prefix with a file.
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name and name != source:
                edges.add(Edge(source, name, kind, line))
    return sorted(edges)


def room(module: str) -> str:
    """`model` for `codeshell.model.cache`; `codeshell` for the package itself."""
    return module.split(".")[1] if "." in module else module


def is_facade(edge: Edge) -> bool:
    """The package's `__init__` shows its rooms to type checkers; at run time it loads a room when its name is used."""
    return edge.source == "codeshell" and edge.kind in ("typing", "name")


def upward(edges: list[Edge]) -> list[Edge]:
    """Imports that go to another room of the same level or of a higher one."""
    return [
        edge
        for edge in edges
        if room(edge.source) != room(edge.target)
        and {room(edge.source), room(edge.target)} <= HEIGHT.keys()
        and HEIGHT[room(edge.source)] <= HEIGHT[room(edge.target)]
        and not is_facade(edge)
    ]


def circles(edges: list[Edge]) -> list[list[Edge]]:
    """One shortest circle of imports through each module that is in one, each circle once."""
    leaving: dict[str, dict[str, Edge]] = defaultdict(dict)
    for edge in edges:
        if edge.kind != "name" and not is_facade(edge):
            leaving[edge.source].setdefault(edge.target, edge)
    found: dict[frozenset[str], list[Edge]] = {}
    for start in sorted(leaving):
        # Breadth first from `start`, until an import leads back to it. paths[m] is a shortest way from start to m.
        paths: dict[str, list[Edge]] = {start: []}
        queue = [start]
        for module in queue:
            for target, edge in leaving[module].items():
                if target == start:
                    circle = [*paths[module], edge]
                    found.setdefault(frozenset(step.source for step in circle), circle)
                    queue.clear()
                    break
                if target not in paths:
                    paths[target] = [*paths[module], edge]
                    queue.append(target)
    return list(found.values())


def describe(edge: Edge) -> str:
    where = {
        "module": "",
        "function": ", inside a function",
        "typing": ", under TYPE_CHECKING",
        "name": ", in a string",
    }[edge.kind]
    return f"{edge.source} imports {edge.target} (line {edge.line}{where})"


EDGES = read_edges(PACKAGE)


def test_every_room_has_a_level() -> None:
    missing = {room(module) for module in module_files(PACKAGE)} - set(HEIGHT)
    assert not missing, f"give {', '.join(sorted(missing))} a place in LEVELS, above every room that it imports from"


@pytest.mark.parametrize("kind", ["module", "function", "typing", "name"])
def test_no_import_goes_up(kind: Kind) -> None:
    found = [
        f"{describe(edge)}: {room(edge.source)} is at level {HEIGHT[room(edge.source)]}, "
        f"{room(edge.target)} at level {HEIGHT[room(edge.target)]}"
        for edge in upward(EDGES)
        if edge.kind == kind
    ]
    assert not found, (
        "\n".join(["imports that go up:", *found])
        + "\nMove what is shared down into the lower room, or hand the object in as an argument (a Protocol gives its "
        "type). An import inside a function does not help: it must go down, too."
    )


def test_no_circles() -> None:
    found = ["\n  ".join(["circle:", *map(describe, circle)]) for circle in circles(EDGES)]
    assert not found, (
        "\n".join(found)
        + "\nMove what both need into a third file that imports neither, or let the lower one take it as an argument."
    )


def edge(source: str, target: str, kind: Kind = "module") -> Edge:
    return Edge(f"codeshell.{source}", f"codeshell.{target}", kind, 1)


def test_upward_imports_are_found() -> None:
    down = [edge("train.loop", "model.modules"), edge("model.modules", "model.cache"), edge("cli.run", "pipeline")]
    up = [edge("model.cache", "train.loop", "function"), edge("errors", "cli"), edge("dedup.job", "ops.loss", "typing")]
    assert upward([*down, *up]) == up


def test_circles_are_found() -> None:
    straight = [edge("a", "b"), edge("b", "c"), edge("a", "c")]
    assert circles(straight) == []
    back = edge("c", "b", "typing")
    assert circles([*straight, back]) == [[straight[1], back]]
    long_way = [edge("c", "d", "function"), edge("d", "a")]
    assert [{step.source[-1] for step in circle} for circle in circles([*straight, *long_way])] == [
        set("acd"),
        set("abcd"),
    ]


def test_imports_of_every_kind_are_parsed() -> None:
    source = """
import codeshell.errors
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from codeshell.model import cache
else:
    import codeshell.ops
class A:
    def f(self):
        from codeshell import _C
        return importlib.import_module("codeshell.report"), "see codeshell.report", "codeshell.cli.run:main"
try:
    import codeshell.engine as e
except ImportError:
    pass
"""
    names = [(name, kind) for name, kind, _ in imported_names(ast.parse(source)) if name.startswith("codeshell")]
    assert names == [
        ("codeshell.errors", "module"),
        ("codeshell.model.cache", "typing"),
        ("codeshell.ops", "module"),
        ("codeshell._C", "function"),
        ("codeshell.report", "name"),
        ("codeshell.cli.run", "name"),
        ("codeshell.engine", "module"),
    ]
