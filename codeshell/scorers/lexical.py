"""The scorer `lexical`: what the lines and tokens of a text show, without a syntax tree, for every language.

csrc/text/lexical.h computes it; `lexis.toml` says how each language is read. docs/quality.md explains the columns.
"""

from __future__ import annotations

import pyarrow as pa

from codeshell import _C
from codeshell.scorers import lexis

COUNTS = (
    "code_lines",
    "comment_lines",
    "blank_lines",
    "indent_unit",
    "indent_deepest",
    "identifiers",
    "longest_string",
    "risky_calls",
    "bare_catches",
    "longest_run",
    "longest_word",
)
"""Columns that are whole numbers: lines, columns of indentation, names, characters, calls, bytes."""

FILE_NAMES = {
    "file_spaces": r" [^/]*$",
    "file_capital": r"(?:^|/)\p{Lu}[^/]*$",
    "file_mixed_case": r"\p{Lu}[^/]*\.[^/.]*$|(?:^|/)\.?[^/.]*\p{Lu}[^/.]*$",
}
"""Yes and no of the file's name, null without one: a blank in it, a capital at its start, a capital anywhere before its
ending. Each is a pattern of RE2 that the path has."""

COLUMNS = pa.schema(
    [
        *(
            (name, pa.int64() if name in COUNTS else pa.bool_() if name == "final_newline" else pa.float64())
            for name in _C.lexical.columns
        ),
        *((name, pa.bool_()) for name in FILE_NAMES),
    ]
)


class Lexical:
    """The columns of `COLUMNS`; see `codeshell.scorers.Scorer`.

    Shares are 0 to 1. `comment_share` and `docstring_share` are of the text's characters, a licence at its top apart;
    numbers, strings, prints and keywords are per line of code. Null stands where a column has no meaning: type
    annotations of a language without them, unused imports of one other than Python, JavaScript and TypeScript.
    """

    version = 2
    columns = COLUMNS

    def score(self, batch: pa.Table) -> dict[str, pa.Array]:
        """The columns of a batch, from `text`, `language` and `path`."""
        values = lexis.measures(batch)
        result = {}
        for name, row in zip(_C.lexical.columns, values, strict=True):
            # NaN is the C++ side's null. Whole numbers up to 2^53 are exact.
            column = pa.array(row, pa.float64(), from_pandas=True)
            result[name] = column.cast(COLUMNS.field(name).type) if COLUMNS.field(name).type != pa.float64() else column
        result["unused_imports"] = _without_packages(result["unused_imports"], batch)
        return result | _file_names(batch)


def _file_names(batch: pa.Table) -> dict[str, pa.Array]:
    """The columns `FILE_NAMES` of a batch."""
    import pyarrow.compute as pc

    paths = batch["path"].combine_chunks()
    paths = pc.if_else(pc.equal(paths, ""), pa.scalar(None, paths.type), paths)
    return {name: pc.match_substring_regex(paths, pattern) for name, pattern in FILE_NAMES.items()}


def _without_packages(unused: pa.Array, batch: pa.Table) -> pa.Array:
    """Null for files that import in order to export: `__init__.py` and `index.js`."""
    import pyarrow.compute as pc

    exports = pc.match_substring_regex(
        batch["path"].combine_chunks(), r"(?:^|/)(?:__init__\.pyi?|index\.[mc]?[jt]sx?)$"
    )
    return pc.if_else(exports.fill_null(False), pa.scalar(None, pa.float64()), unused)
