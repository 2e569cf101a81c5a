"""datatrove's four MinHash stages on local files with its default MinhashConfig: 14 x 8, its words, normalised."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers.parquet import ParquetWriter
from shared import Timer, band_pairs, batches, finish, lay_out, parser, save_sets, signatures


def stages(data: Path, files: int, work: Path, output: Path, workers: int, timer: Timer) -> None:
    config = MinhashConfig()

    def execute(name: str, tasks: int, *pipeline: object) -> None:
        LocalPipelineExecutor(list(pipeline), tasks=tasks, workers=workers, logging_dir=str(work / f"log-{name}")).run()
        timer(name)

    reader = ParquetReader(str(data), glob_pattern="*.parquet")
    execute("signatures", files, reader, MinhashDedupSignature(str(work / "signatures"), config))
    buckets = MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config)
    execute("buckets", config.num_buckets, buckets)
    execute("cluster", 1, MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=config))
    execute(
        "filter",
        files,
        reader,
        MinhashDedupFilter(str(work / "remove")),
        ParquetWriter(str(output / "kept"), compression="zstd"),
    )


def outcome(work: Path, files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Who stays, and the pairs with an equal bucket, from what the stages have written."""
    config = MinhashConfig()
    firsts = np.cumsum([0, *(pq.ParquetFile(file).metadata.num_rows for file in files)])
    kept = np.ones(firsts[-1], bool)
    for rank in range(len(files)):
        removed = work / "remove" / f"{rank:06d}.remove"
        if removed.exists():
            kept[firsts[rank] + np.fromfile(removed, "<u4").astype(np.int64)] = False
    record = np.dtype([("signature", "<u8", config.hashes_per_bucket), ("document", "<u4")])
    bands = []
    for bucket in range(config.num_buckets):
        band = np.zeros((firsts[-1], config.hashes_per_bucket), np.uint64)
        band[:, 0] = np.arange(firsts[-1])  # a document without a signature equals no other
        for rank in range(len(files)):
            rows = np.fromfile(work / "signatures" / f"bucket_{bucket:03d}" / f"{rank:05d}.minhash.sig", record)
            band[firsts[rank] + rows["document"].astype(np.int64)] = rows["signature"]
        bands.append(band)
    return kept, band_pairs(bands)


def main() -> None:
    args = parser("whole", "signatures").parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    work = args.output / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if args.task == "signatures":
        stage = MinhashDedupSignature(str(work), MinhashConfig())
        stage.get_shingles("int main(void);")  # loads the tokenizer
        ways = {"14x8": lambda sets: [stage.get_signature(shingles) for shingles in sets if len(shingles)]}
        finish(args.output, "datatrove", "spacy", "numpy", **signatures(args, stage.get_shingles, ways))
        return
    data = work / "data"
    lay_out(args.input, data, numbered=False)
    timer = Timer()
    stages(data, len(args.input), work, args.output, args.workers, timer)
    kept, pairs = outcome(work, args.input)
    if args.pairs:
        np.save(args.output / "kept.npy", kept)
        np.save(args.output / "pairs.npy", pairs)
        stage = MinhashDedupSignature(str(work), MinhashConfig())
        sets = (stage.get_shingles(text).ravel().tolist() for batch in batches(args.input) for text in batch)
        save_sets(args.output, sets)
    shutil.rmtree(work)
    finish(
        args.output,
        "datatrove",
        "spacy",
        "numpy",
        seconds=timer.seconds,
        documents=len(kept),
        kept=int(kept.sum()),
        parameters="14x8",
    )


if __name__ == "__main__":
    main()
