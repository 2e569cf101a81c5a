"""Speed of the syntax metrics for each language: all of it, parsing alone with the same core, and peers.

    python benchmarks/quality_syntax.py FOLDER... [--json FILE] [--megabytes 2]

Reads code from the folders (site-packages, headers, checkouts), takes up to so many megabytes of each language, and
gives MB of source for each second of CPU time of this process. `parse` is our build of the core, into its arena;
`wheel` the parser of the package `tree-sitter` from Python, with each tree given back; `lizard` and `radon` are
measured on the first tenth. Each number is the best of three turns (peers: of one); the target is total >= 0.85 parse.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from codeshell.documents.languages import by_name
from codeshell.scorers import grammars

TURNS = 3
LARGEST, SMALLEST = 300_000, 200
LIZARD = {"c": "c", "cpp": "cpp", "java": "java", "javascript": "js", "go": "go", "rust": "rs", "python": "py"}


def collect(folders: list[Path], limit: int) -> dict[str, list[bytes]]:
    """Texts by language, in the order of their paths, up to `limit` bytes of each."""
    found: dict[str, list[bytes]] = defaultdict(list)
    taken: dict[str, int] = defaultdict(int)
    for folder in folders:
        for where, directories, files in os.walk(folder):
            directories.sort()
            for file in sorted(files):
                language = by_name(file)[0]
                if language is None or language not in grammars.entries() or taken[language] >= limit:
                    continue
                path = Path(where) / file
                if path.is_file() and not path.is_symlink() and SMALLEST < path.stat().st_size < LARGEST:
                    text = path.read_bytes()
                    found[language].append(text)
                    taken[language] += len(text)
    return found


def seconds(work: Callable[[], object], turns: int) -> float:
    """The best CPU time of some turns."""
    best = float("inf")
    for _ in range(turns):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def peers(language: str, texts: list[bytes]) -> dict[str, float]:
    """MB/s of what else is installed."""
    few = texts[: max(1, len(texts) // 10)]
    found: dict[str, float] = {}
    megabytes, few_megabytes = sum(map(len, texts)) / 1e6, sum(map(len, few)) / 1e6
    try:
        tree_sitter = importlib.import_module("tree_sitter")
        given = grammars.grammar(language)
        if not isinstance(given, int):
            parser = tree_sitter.Parser(tree_sitter.Language(given))
            found["wheel"] = megabytes / seconds(lambda: [parser.parse(text) for text in texts] and None, 1)
    except ImportError:
        print("tree-sitter's package is not installed: not compared", file=sys.stderr)
    if language in LIZARD:
        lizard = importlib.import_module("lizard")
        name = f"a.{LIZARD[language]}"
        decoded = [text.decode("utf-8", "replace") for text in few]
        found["lizard"] = few_megabytes / seconds(
            lambda: [lizard.analyze_file.analyze_source_code(name, text) for text in decoded], 1
        )
    if language == "python":
        visitors = importlib.import_module("radon.visitors")

        def run() -> None:
            for text in few:
                try:
                    visitors.ComplexityVisitor.from_code(text.decode("utf-8", "replace"))
                except (SyntaxError, ValueError):
                    continue

        found["radon"] = few_megabytes / seconds(run, 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--megabytes", type=float, default=2.0, help="of each language at most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    args = parser.parse_args()
    rows = []
    for language, texts in sorted(collect(args.folders, int(args.megabytes * 1e6)).items()):
        try:
            measurer = grammars.make(language)
        except ModuleNotFoundError:
            print(f"{language}: its grammar is not installed", file=sys.stderr)
            continue
        data, offsets = b"".join(texts), np.cumsum([0, *map(len, texts)], dtype=np.int64)
        # In turns, so that a change of the machine's pace meets both.
        parse = total = float("inf")
        for _ in range(TURNS):
            parse = min(parse, seconds(lambda: measurer.parse_only(data, offsets), 1))  # noqa: B023
            total = min(total, seconds(lambda: measurer.measure(data, offsets, 1 << 20), 1))  # noqa: B023
        counts = measurer.measure(data, offsets, 1 << 20)
        megabytes = len(data) / 1e6
        row = {
            "language": language,
            "files": len(texts),
            "megabytes": round(megabytes, 2),
            "total": round(megabytes / total, 2),
            "parse": round(megabytes / parse, 2),
            "ratio": round(parse / total, 3),
            "functions": int(counts["functions"].sum()),
            "errors": round(int(counts["error_bytes"].sum()) / max(1, int(counts["tokens_bytes"].sum())), 4),
            "not measured": int((~counts["measured"]).sum()),
            **{name: round(speed, 2) for name, speed in peers(language, texts).items()},
        }
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"unit": "MB of source per CPU second", "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
