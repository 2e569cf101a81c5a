"""Which language a file is in: by its name, and by its text where the name leaves that open.

The order: an exact file name (`Makefile`), `Dockerfile.dev` and the like, the last suffix (or the last two, as in
`notes.rst.txt`). A suffix that is one language's decides alone, and the file need not be opened. The text is looked at
in three cases: a suffix that languages share (`hints.toml`), a suffix that no table has, and a name without suffix.
There an Emacs or Vim modeline counts first, then the `#!` line, then what the text holds. The table is
`languages.toml`.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from importlib import resources
from typing import NamedTuple

from codeshell.documents import hints

HEAD_BYTES = 16_384
"""Bytes of a shared suffix's file that are looked at: a header shows its language within them."""

LOOK_BYTES = 4096
"""Bytes that are looked at if the name says nothing at all. Folders of data hold many such files."""

NOT_CODE = frozenset(
    """.txt .text .log .out .err .csv .tsv .psv .lock .svg .xml .plist .resx .xsd .dtd .rss .atom .kml .gpx .pdf .ps
    .eps .rtf .srt .vtt .po .pot .pem .crt .cer .key .csr .sha1 .sha256 .sha512 .md5 .diff .patch .rej .orig
    .bak .old .swp .tmp .map .snap .jsonl .ndjson .parquet .arrow .feather .avro .orc .fasta .fa .fastq .sam .vcf .bed
    .gff .gtf .pdb .stl .ply .off .pcd .xyz .pgm .ppm .pbm .xpm .xbm .hex .warc .eml .mbox .ics .arff .libsvm
    .conllu .vocab .merges .dic .aff .tfrecord .ckpt .index .cube .bdf .pfb .afm .man""".split()  # noqa: SIM905
)
"""Suffixes of data and prose. Such a file is no code whatever it holds, and it is not opened to see."""

ALIASES = {
    "c++": "cpp",
    "c#": "c-sharp",
    "csharp": "c-sharp",
    "f#": "f-sharp",
    "fsharp": "f-sharp",
    "bash": "shell",
    "sh": "shell",
    "js": "javascript",
    "ts": "typescript",
    "py": "python",
    "rst": "restructuredtext",
    "golang": "go",
    "objective-c++": "objective-cpp",
    "visual-basic-.net": "visual-basic",
    "wolfram-language": "mathematica",
    "rocq-prover": "coq",
    "protobuf": "protocol-buffer",
    "webassembly-text": "webassembly",
    "latex": "tex",
    "jupyter-notebook": "jupyter-scripts",
    "jupyter-scripts-dedup-filtered": "jupyter-scripts",
    "jupyter-structured-clean-dedup": "jupyter-structured",
    "jupyter-structured-text": "jupyter-structured",
    "git-commits-cleaned": "git-commits",
    "github-issues-filtered-structured": "github-issues",
}
"""Names that data sets use in a language column, lower-cased and with `-` for a space."""

MODES = {
    "asm": "assembly",
    "nasm": "assembly",
    "bib": "tex",
    "bibtex": "tex",
    "plaintex": "tex",
    "cc": "cpp",
    "cperl": "perl",
    "cs": "c-sharp",
    "cs-mode": "c-sharp",
    "csh": "tcsh",
    "dosbatch": "batchfile",
    "dosini": "ini",
    "elisp": "emacs-lisp",
    "f90": "fortran",
    "javascript2": "javascript",
    "js2": "javascript",
    "js3": "javascript",
    "ksh": "shell",
    "lisp": "common-lisp",
    "make": "makefile",
    "gnumakefile": "makefile",
    "mysql": "sql",
    "nodejs": "javascript",
    "objc": "objective-c",
    "objcpp": "objective-cpp",
    "octave": "matlab",
    "pascal": "pascal",
    "proto": "protocol-buffer",
    "python3": "python",
    "sgml-html": "html",
    "shell-script": "shell",
    "sml": "standard-ml",
    "starlark": "python",
    "tuareg": "ocaml",
    "vb": "visual-basic",
    "zsh": "shell",
}
"""Modes of Emacs and file types of Vim that are called otherwise than their languages."""

OTHER_MODES = frozenset(
    """raku raku-mode perl6 p6 hack hhvm mercury mumps dtrace puppet forth gforth opencl supercollider rebol roff nroff
    man text help xml xsd pod postscr ps vim m4 autoconf config automake conf diff mail gnuplot bitbake slang pike
    newlisp picolisp gap turing terra xpm ld yang asn1 tads eruby erb mako smarty sls salt""".split()  # noqa: SIM905
)
"""Modes of what is no language of ours: a file that names one has none."""

_SHEBANG = re.compile(rb"#!\s*(\S+)(?:[ \t]+([^\r\n]*))?")

_EMACS = re.compile(rb"-\*-[ \t]*([^\r\n]{1,200}?)[ \t]*-\*-")

_VIM = re.compile(rb"(?:^|[ \t])(?:vim?|ex):[^\r\n]{0,200}?\b(?:ft|filetype|syntax)=([\w.+-]+)", re.MULTILINE)

_EXEC = re.compile(rb"^[^#\n]*\bexec[ \t'\"]+(\S+)[^\n]*\$(?:0|\{0)", re.MULTILINE)
"""A shell's line that hands the script itself to another program, as in `exec tclsh "$0" "$@"`."""


class _Table(NamedTuple):
    names: tuple[str, ...]
    extensions: dict[str, str]
    files: dict[str, str]
    interpreters: dict[str, str]


@functools.cache
def _table() -> _Table:
    tree = tomllib.loads(resources.files("codeshell.documents").joinpath("languages.toml").read_text(encoding="utf-8"))
    # The file lists names by language; looking up needs the languages by name, in three tables.
    parts: dict[str, dict[str, str]] = {"extensions": {}, "files": {}, "interpreters": {}}
    for language, entry in tree.items():
        for key, values in entry.items():
            for value in values:
                assert value not in parts[key], f"languages.toml: {value} is in two languages"
                parts[key][value] = language
    return _Table(tuple(tree), **parts)


def names() -> tuple[str, ...]:
    """Every language of the table, sorted."""
    return _table().names


def suffixes(language: str) -> list[str]:
    """The suffixes that are a language's own, or that it is the usual one of."""
    return sorted(ending for ending, owner in _table().extensions.items() if owner == language)


def suffix(name: str) -> str:
    """The last suffix, lower-case and with its dot; empty for `Makefile` and `.bashrc`."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def by_name(name: str) -> tuple[str | None, bool]:
    """The language that a file's name says.

    Args:
        name: the last part of the path.

    Returns:
        The language or None, and whether `by_content` must look at the text to know.
    """
    # An exact name wins over a suffix: `CMakeLists.txt` is no text file.
    table = _table()
    if name in table.files:
        return table.files[name], False
    ending = _ending(name, table)
    language = table.extensions.get(ending)
    if language is not None or ending in hints.shared():
        return language, ending in hints.shared()
    # `Dockerfile.dev` and `Makefile.linux`: the suffix names a variant, not a language.
    stem = name.split(".", 1)[0]
    if stem in ("Dockerfile", "Containerfile", "Makefile", "GNUmakefile", "Jenkinsfile"):
        return table.files[stem], False
    return None, ending not in NOT_CODE


def by_content(name: str, language: str | None, head: bytes) -> str | None:
    """Settle what `by_name` left open, from the beginning of the file.

    `HEAD_BYTES` at most are looked at, and `LOOK_BYTES` if the name says nothing.
    """
    ending = _ending(name, _table())
    head = head[: HEAD_BYTES if language else LOOK_BYTES].removeprefix(b"\xef\xbb\xbf")
    # Lines of old Macs end with a carriage return alone.
    if b"\r" in head and b"\n" not in head:
        head = head.replace(b"\r", b"\n")
    # What the author says counts before what the text looks like.
    known, mode = by_modeline(head)
    if known:
        return mode
    program = _interpreter(head)
    if program:
        found = _by_interpreter(program)
        # Node runs both, and only the suffix tells which.
        return language if found == "javascript" and language == "typescript" else found
    if ending in hints.shared():
        return hints.by_hints(ending, language, head)
    return hints.by_form(head, named=bool(ending))


def by_path(path: str, head: bytes) -> str | None:
    """The language of a file by its path and, where that leaves it open, by the beginning of its text."""
    name = path.rsplit("/", 1)[-1]
    language, look_inside = by_name(name)
    return by_content(name, language, head) if look_inside else language


def _ending(name: str, table: _Table) -> str:
    """The suffix that says the language: two parts if a table has them (`.rst.txt`); `.h.in` counts as `.h`."""
    lower = name.lower()
    last = lower.rfind(".")
    # The whole of a name like `.eslintrc` may be shared, too.
    if last <= 0:
        return lower if lower in hints.shared() else ""
    before = lower.rfind(".", 0, last)
    if before >= 0:
        if lower[before:] in table.extensions:
            return lower[before:]
        # A template that configure fills in.
        if lower[last:] == ".in" and before > 0:
            return lower[before:last]
    return lower[last:]


def by_modeline(head: bytes) -> tuple[bool, str | None]:
    """Whether one of the first lines tells Emacs or Vim the language, and that language; None is one that is not ours.

    `-*- C++ -*-`, `-*- mode: c++; tab-width: 4 -*-` and `vim: set ft=cpp :` are such lines.
    """
    top = b"\n".join(head[:2048].split(b"\n", 5)[:5])
    words = []
    if emacs := _EMACS.search(top):
        # One word is the mode; otherwise there are `name: value` pairs.
        pairs = [part.split(b":", 1) for part in emacs[1].split(b";")]
        words += [pair[-1] for pair in pairs if len(pair) == 1 or pair[0].strip().lower() == b"mode"]
    if vim := _VIM.search(top):
        words.append(vim[1])
    for word in words:
        mode = word.strip().decode("ascii", "replace").lower()
        mode = mode.removesuffix("-mode").removesuffix("-ts")
        if mode in OTHER_MODES:
            return True, None
        if language := MODES.get(mode) or by_label(mode):
            return True, language
    return False, None


def _interpreter(head: bytes) -> str:
    """The program that the `#!` line names; an empty string without one."""
    match = _SHEBANG.match(head[:256])
    if match is None:
        return ""
    program = match[1].rsplit(b"/", 1)[-1]
    # `env` is not the interpreter: that is its first argument which is neither an option nor a variable.
    if program == b"env":
        words = [word for word in (match[2] or b"").split() if not word.startswith(b"-") and b"=" not in word]
        program = words[0].rsplit(b"/", 1)[-1] if words else b""
    arguments = (match[2] or b"").split()
    if program == b"busybox" and arguments:
        program = arguments[0]
    # Apple's program runs JavaScript, too.
    if program == b"osascript" and arguments[:2] == [b"-l", b"JavaScript"]:
        program = b"js"
    # Some scripts begin as shell's, and hand themselves to their interpreter.
    if program in (b"sh", b"bash"):
        top = b"\n".join(head[:1024].split(b"\n", 9)[:9])
        if handed := _EXEC.search(top):
            other = handed[1].rsplit(b"/", 1)[-1].strip(b"\"'")
            program = other if _by_interpreter(other.decode("ascii", "replace")) else program
    return program.decode("ascii", "replace")


def _by_interpreter(name: str) -> str | None:
    table = _table().interpreters
    # `python3.11` counts as `python` unless the table has the full name, and `perl6` is not Perl.
    return None if name in OTHER_MODES else table.get(name) or table.get(re.sub(r"[\d.]+$", "", name))


@functools.lru_cache(4096)
def by_label(label: str) -> str | None:
    """The language that a data set's language column means (`C++`, `Common Lisp`), or None."""
    # Data sets write `C++`, `Common Lisp`, `common_lisp`.
    name = label.strip().lower().replace(" ", "-").replace("_", "-")
    name = ALIASES.get(name, name)
    return name if name in _table().names else None


def closest(name: str) -> str:
    """`"; did you mean X?"` for a misspelt language, or how to list them."""
    # A label of a data set (`C++`) is more likely meant than a similar word.
    near = by_label(name) or next(iter(difflib.get_close_matches(name.lower(), names(), n=1)), None)
    return f"did you mean {near}?" if near else "codeshell/documents/languages.toml lists them"
