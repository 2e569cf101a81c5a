"""The table of languages, one file each in `languages/`: how its programs are compiled, run and judged.

A language is known by its short name, which is MultiPL-E's ("js", "rs", "jl") and the file's, and by its aliases
("javascript", "rust", "julia"). Python has no row: its candidates and tests live in different processes
(`sandbox.python_judge`).

A proof of end prints the program's nonce after the last assertion. It is written in two halves, @A@ and @B@, that only
running code joins: a compiler that quotes the line, or PHP that prints the rest of a file as text, does not print the
nonce.

In commands, files, environment and proofs these placeholders are filled in:

    @A@ @B@        the halves of the nonce that proves the end of the tests
    @HEAP@         MiB of a heap that leaves room for the rest of the process
    @CLASS@        Java: the class that has `main`
    @CLASSPATH@    Java: the working folder, and the jars that the tests use
    @ARCHIVE@      Java: the option that names the compiler's class archive; nothing without one
    @HEADER@       C++: the header that is included first, precompiled
    @LINK@         C++: options of the linker; nothing as a rule
    @EDITION@      Rust: the edition of the language
    @EXTERN@       Rust: the crates that are used; nothing as a rule
    @PACKAGE@ @GOPATH@ @GOCACHE@    Go: the package's name, the folder of libraries, the cache of compiled ones
"""

from __future__ import annotations

import functools
import tomllib
from importlib import resources

import msgspec

from codeshell.errors import UserError

__all__ = ["Build", "Check", "Library", "Replace", "Row", "find", "names", "table"]


class Replace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text `put` in the place of what the regular expression `at` finds first (a rewrite: of all that it finds)."""

    at: str
    put: str
    """With group references as in `re.sub`."""


class Build(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One toolchain of a language. The first of a row whose tools are all there is used."""

    name: str
    """Its name beside every result: "g++" in "g++ 12.2.0"."""
    tools: tuple[str, ...]
    """Programs that must be there."""
    package: str
    """Debian's package, for "install …"."""
    version: tuple[str, ...]
    """The command that prints its version."""
    run: tuple[str, ...]
    compile: tuple[tuple[str, ...], ...] = ()


class Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something beside the toolchain that some tests need, with one way to look for it."""

    package: str
    styles: tuple[str, ...] = ()
    """The styles of tests that need it; all if empty."""
    uses: str = ""
    """Pattern of the programs that need it; all of these styles if empty."""
    command: tuple[str, ...] = ()
    """Look for it by this command: arguments of the first tool that succeed if it is there."""
    jar: str = ""
    """Look for a jar with a name of this pattern, on CLASSPATH and in /usr/share/java."""
    file: str = ""
    """Look for this file or folder."""
    crates: tuple[str, ...] = ()
    """Look for crates of Rust in Debian's registry, and compile them once."""
    environment: dict[str, str] = {}
    """Environment of the programs that use it."""


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A right program with its tests, which shows that the toolchain works inside the sandbox."""

    code: str
    tests: str


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One language."""

    title: str
    aliases: tuple[str, ...]
    file: str
    """Name of the file that holds candidate and tests."""
    builds: tuple[Build, ...]
    check: Check
    files: dict[str, str] = {}
    """Other files beside it."""
    between: str = ""
    """Text between candidate and tests."""
    rewrite: tuple[Replace, ...] = ()
    """Changes of the tests."""
    proof: tuple[Replace, ...] = ()
    """What prints the nonce: the first whose pattern is in the tests. None where one of `files` prints it."""
    environment: dict[str, str] = {}
    binds: tuple[str, ...] = ()
    """Patterns of files and folders of this machine, outside /usr, that the toolchain reads."""
    compile_seconds: float = 10.0
    """CPU seconds of the compiler, if the program's own limit is lower."""
    address_space: bool = True
    """Whether its address space may be limited. Virtual machines reserve far more than they use."""
    left: str = ""
    """Pattern of output that says that the candidate tried to end the program."""
    broken: str = ""
    """Pattern of output that says that the text is no program, where no compiler does by its status."""
    wrong: str = ""
    """Pattern of output that says that a test did not hold."""
    says: str = r"^.*(?:\b[\w.]*(?:Error|Exception)\b|\bpanic\b|[Ff]atal error).*"
    """Pattern of the line that names an exception, for the reason; without one, the last line is given."""
    raised: str = ""
    """Pattern of output that says that a test ended by an exception; it counts before `wrong`."""
    memory: str = ""
    """Pattern of output that says that memory ran out."""
    wrong_status: int | None = None
    """Status of a test that does not hold, where the tests say nothing."""
    libraries: tuple[Library, ...] = ()


@functools.cache
def table() -> dict[str, Row]:
    """The rows by short name, in alphabetical order."""
    files = sorted(resources.files(__package__).joinpath("languages").iterdir(), key=lambda file: file.name)
    texts = {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}
    return {name: msgspec.convert(tomllib.loads(text), Row) for name, text in texts.items()}


def names() -> list[str]:
    """The short names of all languages."""
    return list(table())


def find(language: str) -> str:
    """The short name of a language that is given by a short name or an alias, in any case.

    Raises:
        UserError: there is no such language; the message names the known ones.
    """
    wanted = language.strip().lower()
    for name, row in table().items():
        if wanted == name or wanted in row.aliases:
            return name
    raise UserError(f"language {language!r}: unknown; known: python, {', '.join(names())}")
