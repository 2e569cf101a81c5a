"""The child process that gives untrusted text to `ast`. It runs as a script: a JSON request per line, a reply per line.

Text is parsed, never executed. It is parsed in a process of its own because the parser is C code that recurses on its
input, and the Python documentation warns that deep nesting "can crash the interpreter". CPython 3.11 catches the cases
that we know (RecursionError, MemoryError, SyntaxError); limits on memory and time hold for the rest. It imports the
standard library only and runs with `-I -S`, so that nothing of the environment is imported.
"""

import ast
import contextlib
import json
import signal
import sys
import warnings

MEMORY = 1 << 30
"""Bytes of address space. The parser's own limits are far below."""

SECONDS = 120
"""CPU seconds of one child, for all its requests."""


PR_SET_PDEATHSIG = 1
"""An option of `prctl(2)`."""


def limit() -> None:
    """Limit memory, CPU time, files and core dumps; a system without such limits (Windows) goes without."""
    try:
        import resource
    except ImportError:
        return
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        # A child may not raise a limit above the hard one, and what it may not set it does without.
        _, hard = resource.getrlimit(name)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (bound, hard))


def parse(source: str) -> ast.Module | None:
    """The tree, or None where the text is not Python (or nested too deep for the parser)."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # ValueError comes from a NUL byte (before 3.11.4) and from a lone surrogate (UnicodeEncodeError).
        return None


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a string and nothing else."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def verdict(source: str) -> str:
    """The verdict on a text that should be one function: `parsed`, `syntax_error`, `empty` (it has no statement but a
    docstring) or `not_one_function`."""
    tree = parse(source)
    if tree is None:
        return "syntax_error"
    if len(tree.body) != 1 or not isinstance(tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "not_one_function"
    body = tree.body[0].body
    return "parsed" if len(body) > is_docstring(body[0]) else "empty"


def functions(source: str) -> list[dict[str, object]]:
    """The headers of the functions in a file: `def` lines and docstring, without indentation and decorators.

    A function counts if its first statement begins on a line of its own, and if header and body still parse as one
    function without their indentation: a prompt that nothing can complete would measure the prompt.
    """
    # The parser counts lines after these replacements.
    source = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    tree = parse(source)
    if tree is None:
        return []
    lines = source.split("\n")
    found: list[tuple[int, dict[str, object]]] = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        # The header ends before the first statement that is no docstring; without such a statement nothing is asked.
        documented = is_docstring(node.body[0])
        rest = node.body[1:] if documented else node.body
        if not rest:
            continue
        # Line numbers start at 1. A decorated inner function begins at its first decorator.
        first = min([rest[0].lineno, *(d.lineno for d in getattr(rest[0], "decorator_list", []))])
        last_of_header = node.body[0].end_lineno if documented else node.lineno
        # The first statement shares a line with the header: there is no place to cut.
        if first <= (last_of_header or first):
            continue
        # What stands before `def` must be blank, because it is taken off every line of the function.
        indentation = lines[node.lineno - 1][: node.col_offset]
        if indentation.strip():
            continue
        # Moved to column 0, header and body must still be one function. A string over several lines may prevent that.
        whole = [line.removeprefix(indentation) for line in lines[node.lineno - 1 : node.end_lineno]]
        header = "\n".join(whole[: first - node.lineno]).rstrip()
        if verdict("\n".join(whole)) == "parsed":
            item = {"line": node.lineno, "name": node.name, "header": header, "documented": documented}
            found.append((node.lineno, item))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


def end_with_parent() -> None:
    """Have the system kill this process when its parent is gone, also in the middle of a long text (Linux)."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    warnings.simplefilter("ignore")
    end_with_parent()
    limit()
    for line in sys.stdin:
        request = json.loads(line)
        # What fits no recursion or memory limit here is an answer too; the next request gets the same child.
        answer: object
        try:
            answer = verdict(request["text"]) if request["do"] == "verdict" else functions(request["text"])
        except (RecursionError, MemoryError):
            answer = "too_deep" if request["do"] == "verdict" else []
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
