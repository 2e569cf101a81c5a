"""rensa's deduplicator with the full-set R-MinHash: 128 permutations, threshold 0.7, its own number of bands.

The shingles are those of `code_shingles`, made in Python, because rensa has no tokenizer. Its "rho" sketches are left
out, because they sample tokens.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np
from rensa import RMinHash, RMinHashDeduplicator, RMinHashLSH
from shared import Timer, batches, code_shingles, finish, parser, signatures, write_kept

THRESHOLD, PERMUTATIONS, SEED = 0.7, 128, 42
BANDS = 16
"""What RMinHashDeduplicator chooses at this threshold."""


def sign_sets(sets: list[set[str]], permutations: int = PERMUTATIONS) -> list[RMinHash]:
    return RMinHash.from_token_sets(sets, num_perm=permutations, seed=SEED)


def sign_texts(texts: list[str]) -> list[RMinHash]:
    return sign_sets([code_shingles(text) for text in texts])


def all_pairs(minhashes: list[RMinHash]) -> np.ndarray:
    """What the deduplicator takes for duplicates, if nothing were dropped."""
    lsh = RMinHashLSH(THRESHOLD, PERMUTATIONS, BANDS)
    lsh.insert_many(minhashes)
    found = [
        (j, i)
        for i, candidates in enumerate(lsh.query_all(minhashes))
        for j in candidates
        if j < i and minhashes[i].jaccard(minhashes[j]) >= THRESHOLD
    ]
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def main() -> None:
    args = parser("whole", "signatures").parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.task == "signatures":
        ways = {f"full set, k={k}": lambda sets, k=k: sign_sets(sets, k) for k in (128, 256)}
        finish(args.output, "rensa", **signatures(args, code_shingles, ways))
        return
    timer = Timer()
    with ProcessPoolExecutor(args.workers) as pool:
        minhashes = [minhash for part in pool.map(sign_texts, batches(args.input)) for minhash in part]
    timer("sign")
    deduplicator = RMinHashDeduplicator(THRESHOLD, PERMUTATIONS, True, seed=SEED)
    kept = np.array(deduplicator.add_pairs([(str(i), minhash) for i, minhash in enumerate(minhashes)]), bool)
    timer("decide")
    write_kept(args.input, kept, args.output)
    timer("write")
    if args.pairs:
        np.save(args.output / "kept.npy", kept)
        np.save(args.output / "pairs.npy", all_pairs(minhashes))
    finish(
        args.output,
        "rensa",
        seconds=timer.seconds,
        documents=len(kept),
        kept=int(kept.sum()),
        parameters=f"{BANDS}x{PERMUTATIONS // BANDS}, estimate >= {THRESHOLD}",
    )


if __name__ == "__main__":
    main()
