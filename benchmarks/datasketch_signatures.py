"""datasketch's signatures, made by datasketch and by `scheme="datasketch"`: one thread each, and the same bits.

    python benchmarks/datasketch_signatures.py ~/src --json benchmarks/results/datasketch-signatures.json

The rows `sets` start from ready shingles, a list of bytes per text: datasketch gets them by `MinHash.bulk`, its fastest
way, and `minhash_sets` as the same list and as an Arrow array. The rows `texts` start from whole texts; for datasketch
with the fastest tokens and n-grams that Python has (re.findall, slices and a set). MB are 10^6 bytes of the source
files. All are ASCII, so that Python's tokens are ours. The best of --rounds counts; the systems take turns.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasketch
import numpy as np
import pyarrow as pa

from codeshell import _C
from codeshell.dedup import minhash, minhash_sets

SUFFIXES = {".py", ".c", ".h", ".cpp", ".hpp", ".js", ".java", ".go", ".rs", ".pl", ".rb", ".ts"}
TOKEN = re.compile(r"[A-Za-z0-9_]+")


def read_texts(folders: list[Path], size: float) -> list[str]:
    """ASCII source files in random order, `size` bytes of them."""
    paths = [p for folder in folders for p in sorted(folder.expanduser().rglob("*")) if p.suffix in SUFFIXES]
    random.Random(0).shuffle(paths)
    texts: list[str] = []
    for path in paths:
        if size <= 0:
            break
        if path.is_file() and (data := path.read_bytes()).isascii() and TOKEN.search(data.decode()):
            texts.append(data.decode())
            size -= len(data)
    return texts


def shingle_set(text: str, n: int = 5) -> list[bytes]:
    tokens = TOKEN.findall(text)
    joined = {" ".join(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))}
    return [shingle.encode() for shingle in joined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    texts = read_texts(args.folders, args.megabytes * 1e6)
    megabytes = sum(map(len, texts)) / 1e6
    sets = [shingle_set(text) for text in texts]
    shingles = sum(map(len, sets))
    columns = pa.array(texts, pa.large_string()), pa.array(sets, pa.large_list(pa.large_binary()))
    print(f"{len(texts):,} files, {megabytes:.1f} MB, {shingles:,} distinct shingles; {_C.simd_level()}")

    rows: list[dict[str, Any]] = []
    for scheme, kind in (("datasketch", "legacy"), ("datasketch-affine32", "affine32")):
        for num_perm in (128, 256):
            ours: dict[str, Any] = {"scheme": scheme, "num_perm": num_perm, "threads": 1}
            theirs: dict[str, Any] = {"scheme": kind, "num_perm": num_perm}

            def peer(sets: Any, theirs: dict[str, Any] = theirs) -> np.ndarray:
                return np.array([m.hashvalues for m in datasketch.MinHash.bulk(sets, **theirs)])

            cases: dict[str, Callable[[], np.ndarray]] = {
                "sets, datasketch": lambda peer=peer: peer(sets),
                "sets, codeshell": lambda ours=ours: minhash_sets(sets, **ours),
                "sets, codeshell, Arrow": lambda ours=ours: minhash_sets(columns[1], **ours),
                "texts, datasketch": lambda peer=peer: peer(map(shingle_set, texts)),
                "texts, codeshell": lambda ours=ours: minhash(columns[0], **ours),
            }
            seconds = dict.fromkeys(cases, float("inf"))
            results = {}
            for _ in range(args.rounds):
                for name, case in cases.items():
                    start = time.perf_counter()
                    results[name] = case()
                    seconds[name] = min(seconds[name], time.perf_counter() - start)
            for name in cases:
                assert np.array_equal(results[name], results["sets, datasketch"]), f"{name}: not datasketch's bits"
                row = {"scheme": kind, "num_perm": num_perm, "case": name, "seconds": round(seconds[name], 4)}
                row["mb_per_second"] = round(megabytes / seconds[name], 1)
                row["shingles_per_second"] = round(shingles / seconds[name])
                rows.append(row)
                print(
                    f"{kind:9}{num_perm:4}  {name:24}{row['mb_per_second']:8.1f} MB/s"
                    f"{row['shingles_per_second'] / 1e6:9.2f} M shingles/s"
                )
    if args.json:
        facts = {"files": len(texts), "megabytes": round(megabytes, 1), "shingles": shingles}
        facts |= {"datasketch": datasketch.__version__, "simd": _C.simd_level(), "rows": rows}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
