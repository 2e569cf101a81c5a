"""The child process that gives untrusted text to `ast`; run as a script, one JSON request and one reply a line.

Text is parsed, never executed. It is parsed in a process of its own because the parser is C that recurses on its
input and the Python documentation warns that it "can crash the interpreter" on enough nesting; CPython 3.11 catches
the cases we know of (RecursionError, MemoryError, SyntaxError), and a limit on memory and time holds for the rest.
Standard library only: it runs with `-I -S`, so that nothing of the environment is imported.
"""

import ast
import contextlib
import json
import sys
import warnings

MEMORY = 1 << 30
"""Bytes of address space. The parser's own limits stop far below."""

SECONDS = 120
"""Of processor time, for all requests of one child."""


def limit() -> None:
    """Bound memory, time and files; where the system has no such limits (Windows), do without."""
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
        _, hard = resource.getrlimit(name)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(name, (bound, hard))


def parse(source: str) -> ast.Module | None:
    """The tree, or None where the text is not Python (or nested too deep for the parser)."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # ValueError: a NUL byte before 3.11.4 or a lone surrogate (UnicodeEncodeError).
        return None


def is_docstring(node: ast.stmt) -> bool:
    """A string that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def verdict(source: str) -> str:
    """What a text meant to be one function is: `parsed`, `syntax_error`, `empty` (no statement beyond a docstring)
    or `not_one_function`."""
    tree = parse(source)
    if tree is None:
        return "syntax_error"
    if len(tree.body) != 1 or not isinstance(tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "not_one_function"
    body = tree.body[0].body
    return "parsed" if len(body) > is_docstring(body[0]) else "empty"


def functions(source: str) -> list[dict[str, object]]:
    """Headers of the functions in a file: `def` line(s) and docstring, indentation removed, without decorators.

    A function counts if its first statement begins on a line of its own and if header and body, so shortened, still
    parse as one function: a prompt that nothing could complete would measure the prompt.
    """
    source = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")  # as the parser counts lines
    tree = parse(source)
    if tree is None:
        return []
    lines = source.split("\n")
    found: list[tuple[int, dict[str, object]]] = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        documented = is_docstring(node.body[0])
        rest = node.body[1:] if documented else node.body
        if not rest:
            continue
        first = min([rest[0].lineno, *(d.lineno for d in getattr(rest[0], "decorator_list", []))])
        last_of_header = node.body[0].end_lineno if documented else node.lineno
        if first <= (last_of_header or first):
            continue
        indentation = lines[node.lineno - 1][: node.col_offset]
        if indentation.strip():
            continue
        whole = [line.removeprefix(indentation) for line in lines[node.lineno - 1 : node.end_lineno]]
        header = "\n".join(whole[: first - node.lineno]).rstrip()
        if verdict("\n".join(whole)) == "parsed":
            item = {"line": node.lineno, "name": node.name, "header": header, "documented": documented}
            found.append((node.lineno, item))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


def main() -> None:
    warnings.simplefilter("ignore")
    limit()
    for line in sys.stdin:
        request = json.loads(line)
        answer: object
        try:
            answer = verdict(request["text"]) if request["do"] == "verdict" else functions(request["text"])
        except (RecursionError, MemoryError):
            answer = "too_deep" if request["do"] == "verdict" else []
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
