"""datasketch as its documentation shows it: MinHash and MinHashLSH; a document that the index knows is dropped.

`--preset default`: 128 permutations, threshold 0.7, the default scheme, shingles of `code_shingles`. It works as a
stream: a document is dropped if its query finds one that was kept. `--preset bigcode` does by datasketch's means what
bigcode-dataset's script for The Stack v1 does: 256 permutations, 25 bands of 10, the legacy scheme, its shingles with
their empty tokens, connected components.
"""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from datasketch import MinHash, MinHashLSH
from shared import (
    NGRAM,
    Timer,
    band_pairs,
    batches,
    code_shingles,
    components,
    finish,
    parser,
    save_sets,
    signatures,
    write_kept,
)

THRESHOLD = 0.7
BIGCODE_SPLIT = re.compile("[^A-Za-z_0-9]")


def bigcode_shingles(text: str) -> set[str]:
    tokens = BIGCODE_SPLIT.split(text)
    return {" ".join(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)}


PRESETS = {
    "default": (code_shingles, {"num_perm": 128, "scheme": "affine32"}, None),
    "bigcode": (bigcode_shingles, {"num_perm": 256, "scheme": "legacy"}, (25, 10)),
}


def sign(shingles: set[str], **settings: object) -> np.ndarray:
    minhash = MinHash(**settings)
    minhash.update_batch([shingle.encode() for shingle in shingles])
    return minhash.hashvalues


def sign_texts(texts: list[str], preset: str) -> np.ndarray:
    shingles, settings, _ = PRESETS[preset]
    return np.array([sign(shingles(text), **settings) for text in texts])


def sign_all(sets: list[set[str]], **settings: object) -> list[np.ndarray]:
    return [sign(shingles, **settings) for shingles in sets]


def main() -> None:
    arguments = parser("whole", "signatures")
    arguments.add_argument("--preset", choices=PRESETS, default="default")
    args = arguments.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    shingles, settings, bands = PRESETS[args.preset]
    if args.task == "signatures":
        ways = {scheme: partial(sign_all, num_perm=128, scheme=scheme) for scheme in ("affine32", "legacy")}
        finish(args.output, "datasketch", "numpy", permutations=128, **signatures(args, shingles, ways))
        return
    timer = Timer()
    with ProcessPoolExecutor(args.workers) as pool:
        values = np.concatenate(list(pool.map(partial(sign_texts, preset=args.preset), batches(args.input))))
    timer("sign")
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=settings["num_perm"], params=bands)
    rows = [values[:, i : i + lsh.r] for i in range(0, lsh.b * lsh.r, lsh.r)]
    pairs = None
    if bands is None:
        kept = np.ones(len(values), bool)
        for i, row in enumerate(values):
            minhash = MinHash(hashvalues=row, **settings)
            if lsh.query(minhash):
                kept[i] = False
            else:
                lsh.insert(i, minhash)
    else:
        pairs = band_pairs(rows)
        kept = components(len(values), pairs) == np.arange(len(values))
    timer("decide")
    write_kept(args.input, kept, args.output)
    timer("write")
    if args.pairs:
        np.save(args.output / "kept.npy", kept)
        np.save(args.output / "pairs.npy", band_pairs(rows) if pairs is None else pairs)
        if shingles is not code_shingles:
            save_sets(args.output, (shingles(text) for batch in batches(args.input) for text in batch))
    finish(
        args.output,
        "datasketch",
        "numpy",
        seconds=timer.seconds,
        documents=len(kept),
        kept=int(kept.sum()),
        parameters=f"{lsh.b}x{lsh.r} of {settings['num_perm']}, {settings['scheme']}",
    )


if __name__ == "__main__":
    main()
