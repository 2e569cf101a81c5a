"""text-dedup 0.4.0, the newest on the package index: its command `python -m text_dedup.minhash` with its defaults.

These are 250 permutations, threshold 0.7, 5-grams of lower-case words, and connected components; documents of fewer
than 5 words are dropped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
from datasets import load_from_disk
from shared import Timer, band_pairs, batches, finish, lay_out, parser, save_sets, signatures
from text_dedup import minhash
from text_dedup.utils import ngrams, optimal_param, sha1_hash
from text_dedup.utils.args import MinHashArgs

DEFAULTS = MinHashArgs()
BANDS, ROWS = optimal_param(DEFAULTS.threshold, DEFAULTS.num_perm, 0.5, 0.5)
PRIME = np.uint64((1 << 61) - 1)
PERMUTATIONS = tuple(minhash.RNG.randint(low, PRIME, size=(DEFAULTS.num_perm,), dtype=np.uint64) for low in (1, 0))
NON_ALPHA = re.compile(r"\W")


def shingles(text: str) -> set[str]:
    return {" ".join(words) for words in ngrams(NON_ALPHA.split(text.lower()), DEFAULTS.ngram, DEFAULTS.min_length)}


def band_keys(text: str) -> bytes:
    """Band keys by the package's own function."""
    found = minhash.embed_func(
        text,
        0,
        num_perm=DEFAULTS.num_perm,
        ngram_size=DEFAULTS.ngram,
        min_length=DEFAULTS.min_length,
        hashranges=[(i * ROWS, (i + 1) * ROWS) for i in range(BANDS)],
        permutations=PERMUTATIONS,
        hash_func=sha1_hash,
        dtype=np.uint64,
        max_hash=np.uint32((1 << 32) - 1),
        modulo_prime=PRIME,
    )
    return b"".join(found[minhash.SIGNATURE_COLUMN])


def main() -> None:
    args = parser("whole", "signatures").parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.task == "signatures":
        ways = {"texts to band keys": lambda texts: [band_keys(text) for text in texts]}
        finish(args.output, "text-dedup", "numpy", **signatures(args, lambda text: text, ways))
        return
    work = args.output / "work"
    shutil.rmtree(work, ignore_errors=True)
    lay_out(args.input, work / "data", numbered=args.pairs)
    command = [sys.executable, "-m", "text_dedup.minhash", "--path", "parquet", "--split", "train", "--column", "text"]
    command += ["--data_files", str(work / "data" / "*.parquet"), "--output", str(args.output / "kept")]
    command += ["--cache_dir", str(work / "cache"), "--num_proc", str(args.workers)]
    timer = Timer()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    timer("command")
    stays = load_from_disk(str(args.output / "kept"))
    documents = sum(map(len, batches(args.input)))
    if args.pairs:
        kept = np.zeros(documents, bool)
        kept[stays["position"]] = True
        np.save(args.output / "kept.npy", kept)
        keys = np.frombuffer(b"".join(band_keys(text) for batch in batches(args.input) for text in batch), np.uint64)
        keys = keys.reshape(documents, BANDS * ROWS)
        np.save(args.output / "pairs.npy", band_pairs(keys[:, i * ROWS : (i + 1) * ROWS] for i in range(BANDS)))
        save_sets(args.output, (shingles(text) for batch in batches(args.input) for text in batch))
    shutil.rmtree(work)
    finish(
        args.output,
        "text-dedup",
        "datasets",
        "numpy",
        seconds=timer.seconds,
        documents=documents,
        kept=len(stays),
        parameters=f"{BANDS}x{ROWS} of {DEFAULTS.num_perm}",
    )


if __name__ == "__main__":
    main()
