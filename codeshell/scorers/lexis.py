"""The tables of the lexical scorers, made ready for C++: how each language writes comments, strings and words, and what
its style guides ask for.

`lexis.toml` says how a language is read, `standards.toml` what it should look like.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents.texts import TextBuffers, text_buffers

_MARKERS = {"line": "line", "block": "block", "nested": "nested", "strings": "string", "long": "long", "raw": "raw"}
"""Kinds of markers in C++ by their key in the table."""

_SPECIAL = {
    "char": ("'", "'", "char"),
    "regex": ("/", "/", "regex"),
    "heredoc": ("<<", "", "heredoc"),
    "heredoc3": ("<<<", "", "heredoc"),
    "cpp": ("R", "", "cpp"),
    "rust": ("r", "", "rust"),
}


class Conventions(NamedTuple):
    """What the style guides of a language ask for; see `standards.toml`."""

    line_length: int
    """Characters."""
    indent: str
    """`tabs`, a number of blanks, or an empty string where guides differ."""
    names: str
    """`snake` or `camel`: the form of a variable's name of two words; an empty string where there is none."""
    spacing: bool
    """Whether blanks stand around `=`."""
    source: str


@functools.cache
def _tables() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    folder = resources.files("codeshell.scorers")
    read = [
        tomllib.loads(folder.joinpath(name).read_text(encoding="utf-8")) for name in ("lexis.toml", "standards.toml")
    ]
    return read[0], read[1]


@functools.cache
def conventions(language: str) -> Conventions:
    """The conventions of a language; those of `default` fill what its table does not say."""
    table = _tables()[1]
    entry = {**table["default"], **table.get(language, {})}
    indent = entry["indent"]
    return Conventions(entry["line_length"], str(indent), entry["names"], bool(entry["spacing"]), str(entry["source"]))


def entry(language: str) -> dict[str, Any]:
    """The table of a language with everything that it takes over by `like`; the empty one for unknown languages."""
    table = _tables()[0]
    chain = [language if language in table else "none"]
    # `like` of `like`; a circle would be a fault of the table.
    while parent := table[chain[-1]].get("like"):
        assert parent in table and parent not in chain, f"lexis.toml: like of {chain[-1]}"
        chain.append(parent)
    result: dict[str, Any] = {}
    for name in reversed(chain):
        words = {**result.get("words", {}), **table[name].get("words", {})}
        result = {**result, **table[name], "words": words}
    return result


def make(table: Mapping[str, Any], line_limit: int = 100) -> _C.lexical.Lexis:
    """The C++ form of one language's table."""
    doc, first, after_blank = (set(table.get(key, ())) for key in ("doc", "first", "after_blank"))
    pairs: list[tuple[str, str, str]] = []
    for key, kind in _MARKERS.items():
        for mark in table.get(key, ()):
            # A pair of marks, or one that ends what it has begun.
            begin, end = (mark, mark) if isinstance(mark, str) else mark
            pairs.append((begin, "" if kind == "line" else end, kind))
    for name in table.get("special", ()):
        if name == "lua":
            pairs += [("[", "]", "lua"), ("--[", "]", "lua")]
        else:
            pairs.append(_SPECIAL[name])
    # A mark of documentation is a mark of its own, longer than the plain one: `/**` beside `/*`.
    plain = {begin for begin, _, _ in pairs}
    for mark in doc - plain:
        kin = [pair for pair in pairs if mark.startswith(pair[0]) and pair[2] in ("line", "block", "nested")]
        assert kin, f"lexis.toml: {mark} documents, but begins like no comment"
        pairs.append((mark, kin[0][1], kin[0][2]))
    markers = [(begin, end, kind, begin in doc, begin in first, begin in after_blank) for begin, end, kind in pairs]
    words = [(word, name) for name, listed in table.get("words", {}).items() for word in listed]
    return _C.lexical.Lexis(
        markers,
        words,
        letters=table.get("letters", ""),
        prefixes=table.get("prefixes", False),
        docstrings=table.get("docstrings", False),
        annotations=table.get("annotations", "none"),
        catches=table.get("catches", "none"),
        imports=table.get("imports", "none"),
        line_limit=line_limit,
    )


@functools.cache
def of_language(language: str) -> _C.lexical.Lexis:
    """The C++ form of a language of the package."""
    return make(entry(language), conventions(language).line_length)


def batch_pieces(
    batch: pa.Table,
) -> tuple[Sequence[TextBuffers], list[_C.lexical.Lexis], NDArray[np.int32]]:
    """What C++ takes of a batch: its texts in pieces that follow one another, the languages, and (rows,) the language
    of each."""
    coded = batch["language"].combine_chunks().dictionary_encode()
    lexes = [of_language(name or "") for name in coded.dictionary.to_pylist()]
    # A document without a language is read as none.
    which = coded.indices.fill_null(len(lexes)).to_numpy(zero_copy_only=False).astype(np.int32)
    lexes.append(of_language("none"))
    return list(text_buffers(batch["text"])), lexes, which


class Imports(NamedTuple):
    """The modules that the texts of a batch import, in order."""

    names: pa.LargeStringArray
    kinds: NDArray[np.uint8]
    """csrc/text/imports.h: 0 may be anything, 1 is relative, 2 is `#include "x.h"`."""
    rows: NDArray[np.int64]
    """The text in which each stands."""


class _Read(NamedTuple):
    """What was found in the batch that was measured last."""

    texts: pa.ChunkedArray
    languages: pa.ChunkedArray
    imports: Imports


_last: _Read | None = None
"""`lexical` and `libraries` are given one batch after the other, and one walk over its texts serves both. The texts are
held, so that no others can lie where they do."""


def measures(batch: pa.Table) -> NDArray[np.float64]:
    """(columns, rows): the columns of `_C.lexical.columns` for the texts of a batch, null as NaN."""
    global _last
    pieces, lexes, which = batch_pieces(batch)
    values, found, done = [], [], 0
    for piece in pieces:
        rows = which[done : done + len(piece)]
        some, imported = _C.lexical.measure_with_imports(piece.data, piece.offsets, lexes, rows)
        values.append(some)
        found.append((imported, done))
        done += len(piece)
    _last = _Read(batch["text"], batch["language"], _joined(found))
    return np.concatenate(values, axis=1) if values else np.empty((len(_C.lexical.columns), 0))


def imports(batch: pa.Table) -> Imports:
    """The imports of a batch: those that `measures` found, if this batch was the last that it was given."""
    global _last
    last, _last = _last, None
    if last and _same_memory(last.texts, batch["text"]) and last.languages.equals(batch["language"]):
        return last.imports
    pieces, lexes, which = batch_pieces(batch)
    found, done = [], 0
    for piece in pieces:
        rows = which[done : done + len(piece)]
        found.append((_C.lexical.imports(piece.data, piece.offsets, lexes, rows), done))
        done += len(piece)
    return _joined(found)


def _joined(found: list[tuple[tuple[bytes, NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]], int]]) -> Imports:
    """The imports of pieces, each with the row at which it begins."""
    names, kinds, rows = [], [np.empty(0, np.uint8)], [np.empty(0, np.int64)]
    for (data, bounds, some, counts), first in found:
        # Names of modules are cut from texts that are UTF-8, at bytes of ASCII.
        names.append(pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(data)))
        kinds.append(some)
        rows.append(np.repeat(np.arange(first, first + len(counts)), counts))
    whole = pa.concat_arrays(names) if names else pa.array([], pa.large_string())
    return Imports(whole, np.concatenate(kinds), np.concatenate(rows))


def _same_memory(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    """Whether two columns are the same values in the same place."""

    def places(column: pa.ChunkedArray) -> list[tuple[Any, ...]]:
        return [
            (chunk.type, chunk.offset, len(chunk), *(buffer.address if buffer else 0 for buffer in chunk.buffers()))
            for chunk in column.chunks
        ]

    return places(left) == places(right)
