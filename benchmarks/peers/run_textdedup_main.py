"""text-dedup as it is in its repository (0.4.1, not on the package index), with its configs/minhash.toml.

These are 240 permutations, threshold 0.7 and 5-grams of lower-case words; documents of fewer than 5 words are dropped.
Within a component of candidates, the pairs whose exact Jaccard reaches the threshold make the final components.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from datasets import load_from_disk
from shared import Timer, band_pairs, batches, finish, lay_out, parser, save_sets, signatures
from text_dedup.config import MinHashAlgorithmConfig

PERMUTATIONS, THRESHOLD, NGRAM = 240, 0.7, 5

CONFIG = """\
[input]
input_type = "local_files"
file_type = "parquet"

[input.read_arguments]
path = "parquet"
data_files = "{data}/*.parquet"
cache_dir = "{work}/cache"
split = "train"

[algorithm]
algorithm_name = "minhash"
text_column = "text"
seed = 42
batch_size = 10000
num_perm = {permutations}
threshold = {threshold}
false_positive_weight = 0.5
false_negative_weight = 0.5
hash_bits = 64
ngram_size = {ngram}
check_false_positive = true
num_proc = {workers}

[output]
output_dir = "{output}"
clean_cache = false
save_clusters = false
keep_index_column = false
keep_cluster_column = false
skip_filtering = false

[debug]
enable_profiling = false
"""


def algorithm() -> MinHashAlgorithmConfig:
    return MinHashAlgorithmConfig(
        algorithm_name="minhash",
        text_column="text",
        num_perm=PERMUTATIONS,
        threshold=THRESHOLD,
        ngram_size=NGRAM,
        check_false_positive=True,
    )


def main() -> None:
    args = parser("whole", "signatures").parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    method = algorithm()
    sign = method.get_embed_func()
    if args.task == "signatures":
        ways = {"texts to band keys": lambda texts: [sign([text], [0]) for text in texts]}
        finish(args.output, "text-dedup", "numpy", **signatures(args, lambda text: text, ways))
        return
    work = args.output / "work"
    shutil.rmtree(work, ignore_errors=True)
    lay_out(args.input, work / "data", numbered=args.pairs)
    config = CONFIG.format(
        data=(work / "data").resolve(),
        work=work.resolve(),
        output=(args.output / "kept").resolve(),
        permutations=PERMUTATIONS,
        threshold=THRESHOLD,
        ngram=NGRAM,
        workers=args.workers,
    )
    Path(work / "config.toml").write_text(config)
    timer = Timer()
    subprocess.run([sys.executable, "-m", "text_dedup.minhash"], check=True, cwd=work, stdout=subprocess.DEVNULL)
    timer("command")
    stays = load_from_disk(str(args.output / "kept"))
    documents = sum(map(len, batches(args.input)))
    if args.pairs:
        kept = np.zeros(documents, bool)
        kept[stays["position"]] = True
        np.save(args.output / "kept.npy", kept)
        keys = [b"".join(sign([text], [0])["__band_val__"]) for batch in batches(args.input) for text in batch]
        bands = np.frombuffer(b"".join(keys), np.uint64).reshape(documents, method.bands, method.rows)
        np.save(args.output / "pairs.npy", band_pairs(bands[:, i] for i in range(method.bands)))
        shingles = method.get_ngrams_func()
        save_sets(args.output, (shingles(text) for batch in batches(args.input) for text in batch))
    shutil.rmtree(work)
    finish(
        args.output,
        "text-dedup",
        "datasets",
        "polars",
        "numpy",
        seconds=timer.seconds,
        documents=documents,
        kept=len(stays),
        parameters=f"{method.bands}x{method.rows} of {PERMUTATIONS}, verified",
    )


if __name__ == "__main__":
    main()
