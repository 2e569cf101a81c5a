"""Speed of the measures that need no syntax tree: lexical measures, libraries, standards.

    python benchmarks/quality_lexical.py [--corpus FOLDER...] [--json FILE]

The corpus is real code: files of folders, by default those of this interpreter (Python, C and C++ headers, JavaScript
and CUDA of installed packages). Everything runs on one thread; times are CPU time of this process, the contenders take
turns, and the median of the rounds counts. MB are 10^6 bytes of text.

Rows: the C++ alone (`lexer and repetition`, `imports`), the scorers as the score stage calls them, all three together,
each language for itself, ruff, and Python's `tokenize` and radon's `raw` as peers on the same Python files. Two texts
show the worst case: one line of 100 MB, and 100 MB of line ends.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sysconfig
import time
import tokenize
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codeshell import _C
from codeshell.documents import languages, walk
from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.scorers import lexis
from codeshell.scorers.lexical import Lexical
from codeshell.scorers.libraries import Libraries
from codeshell.scorers.standards import Standards

ROUNDS = 5
LARGEST_FILE = 1_000_000
LANGUAGE_BYTES = 8_000_000
"""The limit for each language, so that a round takes about a second."""

SMALLEST = 200_000
"""Bytes from which on a language has a row of its own."""


def read(folders: list[Path]) -> pa.Table:
    """Documents of the folders, in the order of their paths."""
    rows: list[tuple[str, str, str, str]] = []
    sizes: dict[str, int] = defaultdict(int)
    for folder in folders:
        for found in walk.walk(str(folder), max_file_bytes=LARGEST_FILE, vendored=True):
            if found.reason:
                continue
            data = (folder / found.path).read_bytes()
            language = languages.by_path(found.path, data[: languages.HEAD_BYTES])
            if not data or language is None or sizes[language] >= LANGUAGE_BYTES:
                continue
            try:
                rows.append((data.decode(), language, found.path, found.path.partition("/")[0]))
            except UnicodeDecodeError:
                continue
            sizes[language] += len(data)
    texts, *others = zip(*rows, strict=True)
    names = ("language", "path", "repo")
    columns = {name: pa.array(list(values), pa.string()) for name, values in zip(names, others, strict=True)}
    return pa.table({"text": pa.array(list(texts), pa.large_string()), **columns})


def measured(contenders: dict[str, Callable[[], Any]], size: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each contender; `size` is in bytes."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            started = time.process_time()
            call()
            # The first round fills caches.
            if number:
                seconds[name].append(time.process_time() - started)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append(
            {
                "case": name,
                "MB": round(size / 1e6, 2),
                "MB_per_second": round(size / 1e6 / median, 2),
                "ms_per_MB": round(median * 1e9 / size, 2),
                "rounds_ms": [round(1e3 * one, 2) for one in times],
            }
        )
    return rows


def scorers(table: pa.Table) -> dict[str, Callable[[], Any]]:
    """The calls of the score stage, and the C++ in them."""
    (piece,), lexes, which = lexis.batch_pieces(table.combine_chunks())
    measures, libraries, standards = Lexical(), Libraries(), Standards()
    scored = table
    for name, column in measures.score(table).items():
        scored = scored.append_column(name, column)
    return {
        "C++: lexer and repetition": lambda: _C.lexical.measure(piece.data, piece.offsets, lexes, which),
        "C++: imports": lambda: _C.lexical.imports(piece.data, piece.offsets, lexes, which),
        "scorer lexical": lambda: measures.score(table),
        "scorer libraries": lambda: libraries.score(table),
        "scorer standards": lambda: standards.score(scored),
        "all three scorers": lambda: (measures.score(table), libraries.score(table), standards.score(scored)),
    }


def peers(table: pa.Table) -> dict[str, Callable[[], Any]]:
    """Others on Python files, and our measures of the same."""
    texts = table["text"].to_pylist()
    measures = Lexical()

    def tokens() -> None:
        for text in texts:
            try:
                for _ in tokenize.generate_tokens(io.StringIO(text).readline):
                    pass
            except (tokenize.TokenError, SyntaxError):
                continue

    found: dict[str, Callable[[], Any]] = {"python: scorer lexical": lambda: measures.score(table), "tokenize": tokens}
    try:
        from radon.raw import analyze
    except ImportError:
        return found

    def raw() -> None:
        for text in texts:
            try:
                analyze(text)
            except Exception:  # radon raises many kinds
                continue

    return {**found, "radon raw": raw}


def ruff_row(table: pa.Table) -> dict[str, Any]:
    """ruff runs as a child, so wall time counts."""
    from codeshell.scorers import ruff

    program, version = ruff.find()
    texts = table["text"].to_pylist()
    started = time.perf_counter()
    findings = sum(ruff.count(program, texts))
    seconds = time.perf_counter() - started
    size = sum(len(text.encode()) for text in texts)
    return {
        "case": f"ruff {version}, as the option runs it (wall time, all cores)",
        "MB": round(size / 1e6, 2),
        "MB_per_second": round(size / 1e6 / seconds, 2),
        "findings": findings,
    }


def hostile() -> list[dict[str, Any]]:
    """Texts of 100 MB that are far from code."""
    rows = []
    for name, data in {
        "one line of 100 MB": b"x = 1; " * 14_285_714,
        "100 MB of line ends": b"\n" * 100_000_000,
    }.items():
        offsets = np.array([0, len(data)], np.int64)
        started = time.process_time()
        _C.lexical.measure(data, offsets, [lexis.of_language("python")], np.zeros(1, np.int32))
        seconds = time.process_time() - started
        rows.append({"case": name, "MB": len(data) / 1e6, "MB_per_second": round(len(data) / 1e6 / seconds, 1)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", help="folders of code (default: this interpreter's own)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    own = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "include")}
    table = read(args.corpus or sorted(path for path in own if path.is_dir()))
    size = sum(len(text.encode()) for text in table["text"].to_pylist())
    rows = measured(scorers(table), size, args.rounds)
    names = np.array(table["language"].to_pylist())
    for language in sorted(set(names.tolist())):
        part = table.filter(pa.array(names == language))
        part_size = sum(len(text.encode()) for text in part["text"].to_pylist())
        if part_size >= SMALLEST:
            calls = scorers(part)
            rows += measured({f"{language}: all three scorers": calls["all three scorers"]}, part_size, args.rounds)
    python = table.filter(pa.array(names == "python"))
    # The peers are slow: as much Python as they read in a few seconds.
    python = python.slice(0, max(1, python.num_rows // 8))
    rows += measured(peers(python), sum(len(text.encode()) for text in python["text"].to_pylist()), min(args.rounds, 3))
    rows.append(ruff_row(python))
    rows += hostile()
    for row in rows:
        print(f"{row['case']:58} {row['MB']:8.2f} MB {row['MB_per_second']:9.1f} MB/s")
    if args.json:
        write_json(args.json, {"environment": environment(1), "documents": table.num_rows, "rows": rows})


if __name__ == "__main__":
    main()
