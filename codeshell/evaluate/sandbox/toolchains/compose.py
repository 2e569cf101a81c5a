"""One program out of a candidate and its tests: the texts of the files, with a proof of end after the last assertion.

The published harnesses put candidate and tests into one file and look at the exit status alone, so a candidate that
leaves with status 0 before the tests passes (18 of 28 programs that solve nothing). Here the program also prints a
nonce after its last assertion; status and nonce both are needed. It is no secret from the candidate, which is compiled
with it: this finds accidents and plain exits, not an attack. Python's judge does.

What the sets ask for beyond "code, then tests" is here too:

- HumanEval-X, C++: its harness includes nine standard headers first; so do we, precompiled.
- HumanEval-X, Go: imports that the code does not use are errors in Go. The harness drops the prompt's import and adds
  what the code uses; so do we.
- HumanEval-X, Rust: the tests are unit tests, whose harness a candidate can leave with status 0. They become plain
  functions that `main` calls. Each program imports the crates rand, regex and md5, and six use one: the imports of the
  others are taken out.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from codeshell.evaluate.programs import Program
from codeshell.evaluate.sandbox.toolchains.rows import Row

__all__ = ["HUMANEVAL_X_HEADERS", "Composed", "Nonce", "compose", "fill"]

HUMANEVAL_X_HEADERS = (
    "stdlib.h",
    "algorithm",
    "math.h",
    "stdio.h",
    "vector",
    "string",
    "climits",
    "cstring",
    "iostream",
)
"""The standard headers that HumanEval-X's own harness puts before each C++ program."""

GO_PACKAGES = ("bytes", "crypto/md5", "fmt", "math", "math/rand", "regexp", "sort", "strconv", "strings", "time")
"""The packages that HumanEval-X's own harness imports for a Go program that uses them."""

CRATES = {
    "rand": r"\brand::(?!Rng\s*;)|\bthread_rng\b|\bgen_range\b",
    "regex": r"\bRegex::|\bregex::(?!Regex\s*;)",
    "md5": r"\bmd5::",
}
"""The crates that HumanEval-X's Rust programs import, with the pattern of a use beyond that import."""


@dataclass(frozen=True)
class Nonce:
    """A text that a program can only print by running the code that joins its halves; new for each program."""

    first: str
    second: str

    @staticmethod
    def new() -> Nonce:
        """A fresh one. It is nowhere in a result, so results do not depend on it."""
        return Nonce(f"end-{secrets.token_hex(8)}", secrets.token_hex(8))

    @property
    def whole(self) -> bytes:
        """What a finished program has printed."""
        return (self.first + self.second).encode()

    def removed(self, output: bytes) -> bytes:
        """The output without the nonce and its halves: they differ from run to run."""
        for part in (self.whole, self.first.encode(), self.second.encode()):
            output = output.replace(part, b"")
        return output


@dataclass(frozen=True)
class Composed:
    """The files of a program, by name, and what its commands need to know."""

    files: dict[str, str]
    values: dict[str, str] = field(default_factory=dict)
    """Placeholders (without `@`) and what to put there."""
    cannot: str = ""
    """Why it cannot be run, in a few words; empty if it can."""


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders filled in; others stay as they are."""
    return re.sub(r"@([A-Z]+)@", lambda found: values.get(found[1], found[0]), text)


def compose(name: str, row: Row, program: Program, nonce: Nonce) -> Composed:
    """The files of a program in the language `name`, whose row of the table is `row`."""
    code, tests, values = program.code, program.tests, dict[str, str]()
    if special := _SPECIAL.get(name):
        parts = special(program)
        if parts.cannot:
            return parts
        code, tests = parts.files["code"], parts.files["tests"]
        values = parts.values
    elif program.setup:
        code = f"{code}\n{program.setup}"
    values |= {"A": nonce.first, "B": nonce.second}
    for change in row.rewrite:
        tests = re.sub(change.at, change.put, tests)
    if row.proof:
        proved = _proved(row, tests, values)
        if proved is None:
            return Composed({}, cannot="the tests have no end that a proof can be put after")
        tests = proved
    # The candidate's own text is never filled in: it could hold a placeholder.
    files = {fill(file, values): fill(text, values) for file, text in row.files.items()}
    files[fill(row.file, values)] = f"{code}\n{row.between}{tests}"
    return Composed(files, values)


def _proved(row: Row, tests: str, values: Mapping[str, str]) -> str | None:
    """The tests with the proof in the place of the first pattern that is there."""
    for proof in row.proof:
        if found := re.search(proof.at, tests):
            # The put text is expanded before it is filled in: a nonce has no backslash, but tests have.
            return tests[: found.start()] + fill(found.expand(proof.put), values) + tests[found.end() :]
    return None


def _java(program: Program) -> Composed:
    # The class whose `main` the tests are in: MultiPL-E's is Problem, HumanEval-X's Main.
    text = f"{program.code}\n{program.tests}"
    main = re.search(r"\bvoid\s+main\s*\(", text)
    classes = re.findall(
        r"^\s*(?:(?:public|final|abstract)\s+)*class\s+(\w+)", text[: main.start()] if main else "", re.M
    )
    if not classes:
        return Composed({}, cannot="the tests have no class with a main")
    return Composed(_parts(program), {"CLASS": classes[-1]})


def _cpp(program: Program) -> Composed:
    # What includes all of the standard library gets all of it precompiled; other programs must not see more names
    # than their harness shows them, since `using namespace std` makes the new ones ambiguous.
    everything = re.search(r"^\s*#\s*include\s*<bits/stdc\+\+\.h>", program.code, re.M)
    # A candidate's own `strlen(string)` loses against the library's `strlen(const char*)` where that is declared: with
    # <cstring>, as in the published harness, every program passes problem 23 of HumanEval-X.
    own = re.search(r"\bstrlen\s*\([^;{}]*\)\s*\{", program.code)
    header = "everything.hpp" if everything else "no-cstring.hpp" if own else "common.hpp"
    openssl = re.search(r"^\s*#\s*include\s*<openssl/", program.code, re.M)
    return Composed(_parts(program), {"HEADER": header, "LINK": "-lcrypto" if openssl else ""})


def _rust(program: Program) -> Composed:
    parts = _parts(program)
    if program.style != "humaneval-x":
        # MultiPL-E calls rustc without an edition, which is 2015.
        return Composed(parts, {"EDITION": "2015"})
    code = parts["code"]
    # HumanEvalPack's prompts begin with an empty main.
    code = re.sub(r"^\s*fn\s+main\s*\(\s*\)\s*\{\s*\}", "", code, count=1)
    used = [crate for crate, uses in CRATES.items() if re.search(uses, code + parts["tests"])]
    for crate in CRATES.keys() - set(used):
        code = re.sub(rf"^[ \t]*use\s+{crate}\b[^;]*;[ \t]*$", "", code, flags=re.M)
    values = {"EDITION": "2021", "CRATES": " ".join(used)}
    # `#[test]`, perhaps with comments after it, then the function.
    test = re.compile(r"#\[test\]\s*((?://[^\n]*\n\s*)*)(?:pub\s+)?fn\s+(\w+)\s*\(\s*\)")
    # The tests of HumanEval-X's Rust/32 stand in a comment, so that whatever compiles would pass.
    if test.search(parts["tests"]) and not test.search(re.sub(r"/\*.*?\*/", "", parts["tests"], flags=re.S)):
        return Composed({}, cannot="the tests of this problem stand in a comment of their set, so nothing is tested")
    calls = [found[2] for found in test.finditer(parts["tests"])]
    module = re.search(r"#\[cfg\(test\)\]\s*(?:pub\s+)?mod\s+(\w+)", parts["tests"])
    if not calls or not module:
        return Composed({}, cannot="the tests have no function that is marked as a test")
    tests = test.sub(r"\1pub fn \2()", parts["tests"]).replace("#[cfg(test)]", "", 1)
    # They were written for rand 0.7; since 0.8 the two bounds are one range, of the same values.
    tests = re.sub(r"\bgen_range\(([^(),]+), *([^(),]+)\)", r"gen_range(\1..\2)", tests)
    body = "".join(f"    {module[1]}::{call}();\n" for call in calls)
    return Composed({"code": code, "tests": f"{tests}\nfn main() {{\n{body}}}\n"}, values)


def _go(program: Program) -> Composed:
    code, tests, setup = program.code, program.tests, program.setup
    if program.style == "humaneval-x":
        code = re.sub(r"^\s*import\s*(?:\([^)]*\)|\"[^\"\n]*\")[ \t]*$", "", code, flags=re.M)
        # A sentence that ends in "strings." uses no package: comments and texts are passed over.
        bare = re.sub(r"//[^\n]*|/\*.*?\*/|'(?:[^'\\\n]|\\.)+'|\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`", " ", code, flags=re.S)
        used = [name for name in GO_PACKAGES if re.search(rf"\b{name.rpartition('/')[2]}\.[A-Z]", bare)]
        imports = "".join(f'import "{name}"\n' for name in used if f'"{name}"' not in setup)
        code = f"{setup}\n{imports}{code}"
    elif setup:
        code = f"{setup}\n{code}"
    package = re.search(r"^\s*package\s+(\w+)", code, re.M)
    if not package:
        return Composed({}, cannot="the program names no package")
    return Composed({"code": code, "tests": tests}, {"PACKAGE": package[1]})


def _parts(program: Program) -> dict[str, str]:
    code = f"{program.code}\n{program.setup}" if program.setup else program.code
    return {"code": code, "tests": program.tests}


_SPECIAL: dict[str, Callable[[Program], Composed]] = {"java": _java, "cpp": _cpp, "rs": _rust, "go": _go}
"""What a language needs beyond its row. Such a function gives the files "code" and "tests", not yet joined."""
