"""Jupyter notebooks as texts: a script of their code, or text, code and output in turns.

A notebook is JSON with cells, code and prose in turns, and pictures as base64 among them. As it is, it is no text to
learn from. The two forms are those of StarCoder's data:

    jupyter-scripts      the code cells, blank lines between them, prose as comments, in the language of the kernel
    jupyter-structured   pairs of prose and code with the last output of each (documents/templates.py)

What cannot be converted has a reason:

    bad_notebook        no JSON object with cells of nbformat 3 or 4
    empty_notebook      no code in it
    notebook_language   no language of its kernel, or one whose comments are not known
    notebook_no_pair    (structured) no prose that is followed by code
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from codeshell.documents import languages, templates
from codeshell.documents.json_lines import decode_record

SUFFIX = ".ipynb"

MOST_BYTES = 32 << 20
"""Bytes of a notebook's JSON at most, if the limit for files is lower: most of it is pictures, which are not kept."""

MOST_OUTPUT = 1000
"""Characters of an output; a longer one is cut there, with a mark (BigCode's limit and mark)."""

CUT = "[...]"

COMMENTS = {
    "#": "python r julia shell ruby perl powershell elixir coffeescript tcl makefile yaml",
    "//": "javascript typescript java kotlin scala cpp c c-sharp go rust swift groovy dart f-sharp php",
    "--": "sql haskell lua elm ada vhdl",
    "%": "matlab tex prolog erlang mathematica",
    ";": "clojure common-lisp scheme racket emacs-lisp",
}
"""What begins a comment line, and in which languages."""

_COMMENT = {language: mark for mark, names in COMMENTS.items() for language in names.split()}

KERNELS = {"ir": "r", "xeus-cling": "cpp", "octave": "matlab", "almond": "scala", "ijavascript": "javascript"}
"""Names of kernels that are not those of their languages."""

KEPT_MAGICS = frozenset({"time", "timeit", "capture", "prun", "memit", "mprun", "lprun", "python", "python3", "cython"})
"""Magics of a whole cell that leave its code Python."""

_MAGIC = re.compile(r"\A[ \t]*(?:%{1,2}[A-Za-z_]|![^=]|(?:pip|pip3|conda) +install\b)")
_HELP = re.compile(r"\A[ \t]*(?:\?{0,2}[\w.]+\?{1,2}|\?{1,2}[\w.]+)[ \t]*$")
_ATTACHED = re.compile(r"\((?:data|attachment):[^)\s]*")
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")
_FIGURE = re.compile(r"<[\w.]{0,80}(?:Figure|Axes|matplotlib)[^<>]{0,200}>")
_PYTHON = re.compile(r"^(?:import \w|from [\w.]{1,100} import |def \w{1,100}\(|print\()", re.MULTILINE)


class Cell(NamedTuple):
    """A cell of a notebook."""

    code: bool
    text: str
    output: str
    """The text of its first output that has one; empty for prose."""


def is_notebook(path: str) -> bool:
    """Whether a path is that of a notebook."""
    return path.lower().endswith(SUFFIX)


def convert(data: bytes, form: str) -> tuple[bytes, str]:
    """A notebook as a text of a form, and the reason why it is left out (empty if it is not).

    Args:
        data: the JSON.
        form: `jupyter-structured`, or anything else for a script.
    """
    record = decode_record(data)
    cells = _cells(record) if record is not None else None
    if record is None or cells is None:
        return b"", "bad_notebook"
    if not any(cell.code for cell in cells):
        return b"", "empty_notebook"
    text, reason = structured(cells) if form == templates.STRUCTURED else script(cells, language(record, cells))
    # An escaped lone surrogate becomes bytes that are not UTF-8, and is found with the other bad UTF-8.
    return text.encode("utf-8", "surrogatepass"), reason


def language(record: dict[str, Any], cells: Sequence[Cell]) -> str | None:
    """The language of a notebook: what its metadata say, else what its code looks like; None if neither tells."""
    about = _object(record.get("metadata"))
    info, kernel = _object(about.get("language_info")), _object(about.get("kernelspec"))
    for value in (info.get("name"), kernel.get("language"), kernel.get("name"), about.get("language")):
        name = value.lower()[:64] if isinstance(value, str) else ""
        # `python3`, `julia-1.9`: the word before the version.
        for word in filter(None, (name, re.sub(r"[-_ ]?\d[\d.]*$", "", name))):
            called = KERNELS.get(word, word)
            found = languages.by_label(called) or languages.MODES.get(called)
            if found:
                return found
    ending = info.get("file_extension")
    if isinstance(ending, str) and ending.startswith("."):
        found = languages.by_path(f"x{ending}", b"")
        if found:
            return found
    # Version 3 knew IPython alone. Others may have lost their metadata.
    if "worksheets" in record or "py" in str(kernel.get("name"))[:64].lower():
        return "python"
    return "python" if any(cell.code and _PYTHON.search(cell.text) for cell in cells) else None


def script(cells: Sequence[Cell], kernel: str | None) -> tuple[str, str]:
    """The code as one file, and the reason without one."""
    mark = _COMMENT.get(kernel or "")
    if mark is None:
        return "", "notebook_language"
    parts = []
    for cell in cells:
        if not cell.code:
            lines = _ATTACHED.sub("(", cell.text).strip("\n").splitlines()
            parts.append("\n".join(f"{mark} {line}".rstrip() for line in lines))
        else:
            parts.append(_without_magics(cell.text) if kernel == "python" else cell.text.strip("\n"))
    text = "\n\n".join(part for part in parts if part.strip())
    left = any(part.strip() for part, cell in zip(parts, cells, strict=True) if cell.code)
    return (f"{text}\n", "") if left else ("", "empty_notebook")


def structured(cells: Sequence[Cell]) -> tuple[str, str]:
    """Pairs of prose and code in StarCoder's template, and the reason without a pair.

    Cells of one kind that follow one another are one group. Code before all prose and prose after all code are left
    out. The output of a group is that of its last cell of code.
    """
    groups = [(code, list(found)) for code, found in itertools.groupby(cells, key=lambda cell: cell.code)]
    if groups and groups[0][0]:
        groups = groups[1:]
    # Now prose and code alternate, so an odd number ends with prose.
    pairs = list(itertools.pairwise(groups))[::2]
    found = []
    for (_, prose), (_, code) in pairs:
        text = "\n".join(filter(None, (_prose(cell.text) for cell in prose)))
        output = code[-1].output.strip()
        if len(output) > MOST_OUTPUT:
            output = output[:MOST_OUTPUT] + CUT
        source = "\n".join(cell.text.strip("\n") for cell in code).strip()
        found.append((text.strip(), source, output))
    found = [one for one in found if one[0] and one[1]]
    return (templates.notebook(found), "") if found else ("", "notebook_no_pair")


def _prose(text: str) -> str:
    """Markdown without tags, marks of headings and what is attached; blank lines are left out."""
    text = _TAG.sub("", _ATTACHED.sub("(", text))
    lines = (line.strip().lstrip("#").strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _without_magics(code: str) -> str:
    """The Python of a cell: without commands of IPython and the shell, which no other Python runs."""
    lines = code.strip("\n").splitlines()
    first = lines[0].strip() if lines else ""
    # A magic of a whole cell: its code may be of another language.
    if first.startswith("%%"):
        words = first[2:].split()
        if not words or words[0] not in KEPT_MAGICS:
            return ""
        lines = lines[1:]
    # A cell may be indented as a whole, which IPython allows: by the indentation of its first line.
    start = next((line for line in lines if line.strip()), "")
    indent = start[: len(start) - len(start.lstrip())]
    lines = [line.removeprefix(indent) for line in lines]
    kept: list[str] = []
    dropping = False
    for line in lines:
        if dropping or _MAGIC.match(line) or _HELP.match(line):
            indent = line[: len(line) - len(line.lstrip())]
            # A block may have had nothing else in it.
            if indent and not dropping:
                kept.append(f"{indent}pass")
            dropping = line.endswith("\\")
            continue
        kept.append(line.rstrip())
    return "\n".join(kept).strip("\n")


def _cells(record: dict[str, Any]) -> list[Cell] | None:
    """The cells that are not empty; None if this is no notebook."""
    found = record.get("cells")
    if found is None and isinstance(record.get("worksheets"), list):
        sheets = [_object(sheet).get("cells") for sheet in record["worksheets"]]
        found = [cell for sheet in sheets if isinstance(sheet, list) for cell in sheet]
    if not isinstance(found, list):
        return None
    cells = []
    for one in map(_object, found):
        kind = one.get("cell_type")
        # Version 3 calls the source of code `input`, and has headings as cells.
        text = _joined(one.get("source", one.get("input")))
        if not text.strip():
            continue
        if kind == "heading":
            level = one.get("level")
            text = f"{'#' * (level if isinstance(level, int) and 0 < level < 7 else 1)} {text}"
        if kind in ("code", "markdown", "heading"):
            cells.append(Cell(kind == "code", text, _output(one.get("outputs")) if kind == "code" else ""))
    return cells


def _output(outputs: Any) -> str:
    """The first text among the outputs of a cell; what only stands for a picture is none."""
    for one in map(_object, outputs if isinstance(outputs, list) else ()):
        if one.get("output_type") in ("error", "pyerr"):
            continue
        text = _joined(one.get("text")) or _joined(_object(one.get("data")).get("text/plain"))
        text = _FIGURE.sub("", text)
        if text.strip():
            return text
    return ""


def _joined(value: Any) -> str:
    """A text, or a list of its lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
