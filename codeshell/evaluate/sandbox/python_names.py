"""What the tests of a Python problem need of the candidate, read off the tests alone: a candidate cannot change it.

A name that the tests use and nothing defines is the candidate's. A function becomes a stub. A class does not travel, so
a problem whose tests build or inspect objects of the candidate's own classes is judged in one process with it.

This file runs inside the sandbox and imports the standard library only.
"""

from __future__ import annotations

import ast
import builtins
import sys
from dataclasses import dataclass, field

BUILTINS = frozenset(dir(builtins))

STATELESS = frozenset(
    {
        *("bisect", "collections", "copy", "fractions", "functools", "hashlib", "heapq", "itertools", "math"),
        *("random", "re", "statistics", "string", "sys", "typing"),
    }
)
"""Modules that tests may use and leave nothing: `random` is seeded anew for each program, `sys` is read only."""

LEAVING = frozenset(
    {
        *("__import__", "breakpoint", "compile", "delattr", "eval", "exec", "exit", "globals", "input", "open"),
        *("print", "quit", "setattr", "vars"),
    }
)
"""Builtin functions with which code can reach beyond its own names."""


@dataclass(frozen=True)
class Needs:
    """What the tests ask for."""

    entry_point: str = ""
    stubs: list[str] = field(default_factory=list)
    """Names of the candidate's functions."""
    modules: list[str] = field(default_factory=list)
    """Modules of the standard library that the tests use without an import, as MBPP's 596 does with `sys`."""
    classes: bool = False
    """The tests use a class of the candidate, so they need its process."""
    call_check: bool = False
    """The tests define `check(candidate)` and leave the call to us."""
    leaves_nothing: bool = False
    """Running helpers, setup and tests can change nothing but their own names, so that the next tests may run in the
    same process. Most sets have nothing but such tests."""


def _defined(tree: ast.AST) -> set[str]:
    """Every name that is bound somewhere: which scope it is bound in does not matter for finding the candidate's."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
    return found


def _used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def needs(tests: str, setup: str = "", helpers: str = "", entry_point: str = "") -> Needs:
    """What tests and setup need.

    Args:
        helpers: the prompt, whose functions the tests may call.
        entry_point: the candidate's function if the problem names it.

    Raises:
        SyntaxError, ValueError: tests or setup are not Python.
    """
    tree, before, prompt = ast.parse(tests), ast.parse(setup), _parsed(helpers)
    known = _defined(tree) | _defined(before) | _defined(prompt)
    used = _used(tree) | _used(before)
    free = (used - known - BUILTINS) | ({entry_point} if entry_point else set())
    modules = {name for name in _modules(tree) | _modules(before) if name in free}
    free -= modules
    if not free:
        free = _shadowed_builtin(tree)
    checks = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    called = any(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "check"
        for node in tree.body
    )
    return Needs(
        entry_point=entry_point,
        stubs=sorted(free),
        modules=sorted(modules),
        # Setup builds what the tests pass: `root = Node(1)` and `root.left = Node(2)`.
        classes=bool(free & _used(before)) or any(_is_class(name, free, tree) for name in free),
        call_check=checks and not called and bool(entry_point),
        leaves_nothing=all(_leaves_nothing(part) for part in (tree, before, prompt)),
    )


def _leaves_nothing(tree: ast.AST) -> bool:
    """Whether code is plainly harmless to what runs after it. Doubt is a no: the tests then get their own process."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            if not all(alias.name.partition(".")[0] in STATELESS for alias in node.names):
                return False
        elif isinstance(node, ast.ImportFrom):
            if node.level or (node.module or "").partition(".")[0] not in STATELESS:
                return False
        elif isinstance(node, ast.Attribute):
            # `sys.setrecursionlimit(…)`, `math.pi = 3`, `f.__globals__`, `random.seed = …`, `sys.modules[…] = …`.
            if not isinstance(node.ctx, ast.Load) or node.attr.startswith(("__", "set", "modules", "path", "argv")):
                return False
        elif isinstance(node, ast.Name):
            if node.id in LEAVING or (node.id.startswith("__") and node.id != "__name__"):
                return False
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Try | ast.TryStar | ast.With | ast.Global):
            return False
    return True


def _modules(tree: ast.AST) -> set[str]:
    """Names of the standard library's modules that are only asked for attributes: `math.isclose`."""
    asked = {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return (asked - called) & sys.stdlib_module_names


def _shadowed_builtin(tree: ast.Module) -> set[str]:
    """The builtin that the candidate redefines, where the tests call nothing else: MBPP's 126 asks for a `sum`.

    It is the function whose value each assertion looks at first.
    """
    first: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assert):
            names = [
                node.func.id
                for node in ast.walk(statement.test)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            ]
            first.update(names[:1])
    return first if len(first) == 1 else set()


def _is_class(name: str, free: set[str], tree: ast.AST) -> bool:
    """Whether the tests use a name as a class: by its case, and by what they do with it.

    MBPP has functions such as `Extract`, so a capital letter alone says little.
    """
    if not name[:1].isupper():
        return False
    calls: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == name:
                calls.add(id(node.func))
            elif node.func.id == "check":
                calls.update(id(part) for part in node.args)
            elif node.func.id in free and any(name in _used(part) for part in [*node.args, *node.keywords]):
                return True  # max_chain_length([Pair(5, 24)])
        # Stack().push(1); s = Stack(); with Pool() as p
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Attribute | ast.Assign | ast.AnnAssign | ast.NamedExpr):
            parts = [node.value]
        elif isinstance(node, ast.With):
            parts = [item.context_expr for item in node.items]
        for part in parts:
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == name:
                return True
    # Named without a call: isinstance(x, Pair), assertRaises(StackError); but check(Strongest_Extension) tests it.
    return any(isinstance(node, ast.Name) and node.id == name and id(node) not in calls for node in ast.walk(tree))
