"""Speed of encoding with a byte-level BPE tokenizer and of training one, beside other libraries.

    python benchmarks/tokenizer.py --tokenizer FILE [--code FOLDER] [--chinese FILE.parquet] [--json FILE]

Without `--tokenizer` one of 16,384 tokens is trained on the code first. Every contender encodes on one thread, and
times are CPU time of this process; the contenders take turns, and the median of the rounds counts. MB are 10^6 bytes of
text. Each row says for how many documents the contender gives the library's ids: "exact" is a number of documents, not
a claim. A peer that is not installed has no row. The hostile texts are one document each, of one class of characters
without a break, and random words that no cache knows.

Training rows are wall time and CPU time, once, because a run takes minutes with the library (`--training` sets how much
text the library gets; ours gets that and ten times as much).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sysconfig
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codeshell import _C
from codeshell.documents import languages, walk
from codeshell.documents.texts import text_buffers
from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.encoder import BYTE_SYMBOLS, tokenizer_threads
from codeshell.tokenizer.train import train

ROUNDS = 5
LARGEST_FILE = 300_000
CODE_BYTES = 4_000_000
"""Text of an encoding row; the slowest peer takes three seconds for it."""

HOSTILE_CHARACTERS = 300_000

TIKTOKEN_PATTERN = r"'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
"""Digits one by one, then GPT-2's pattern, as one regular expression: the nearest that tiktoken can be asked for."""


def code(folder: Path, limit: int) -> list[str]:
    """Texts of the folder's source files, spread over it, up to `limit` bytes."""
    found = [one.path for one in walk.walk(str(folder), max_file_bytes=LARGEST_FILE, vendored=True) if not one.reason]
    # Every file of a fixed shuffle until there is enough.
    random.Random(1).shuffle(found)
    texts, size = [], 0
    for name in found:
        data = (folder / name).read_bytes()
        if languages.by_path(name, data[: languages.HEAD_BYTES]) is None:
            continue
        try:
            texts.append(data.decode())
        except UnicodeDecodeError:
            continue
        size += len(data)
        if size >= limit:
            break
    return texts


def hostile() -> dict[str, list[str]]:
    """Texts that are far from code, by what they are."""
    noise, length = random.Random(2), HOSTILE_CHARACTERS
    draw = lambda letters: "".join(noise.choices(letters, k=length))  # noqa: E731
    letters = "abcdefghijklmnopqrstuvwxyz"
    return {
        "one letter": ["a" * length],
        "spaces": [" " * length],
        "line ends": ["\n" * length],
        "ACGT": [draw("ACGT")],
        "random letters": [draw(letters)],
        "random punctuation": [draw("!#$%&()*+,-./:;<=>?@[]^{|}~")],
        "random Chinese": [draw([chr(point) for point in range(0x4E00, 0x9FA6)])],
        "random words of 3 to 16 letters": [
            " ".join("".join(noise.choices(letters, k=noise.randrange(3, 17))) for _ in range(length // 10))
        ],
        "random words of 17 to 120 letters": [
            " ".join("".join(noise.choices(letters, k=noise.randrange(17, 121))) for _ in range(length // 70))
        ],
        "every code point": ["".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)],
    }


def library(tokenizer: Tokenizer) -> Callable[[list[str]], list[list[int]]]:
    """The tokenizers library on the same file, special tokens left to the text."""
    import tokenizers

    theirs = tokenizers.Tokenizer.from_str(tokenizer.__reduce__()[1][0])
    theirs.encode_special_tokens = True
    return lambda texts: [one.ids for one in theirs.encode_batch_fast(texts, add_special_tokens=False)]


def tiktoken(tokenizer: Tokenizer) -> Callable[[list[str]], list[list[int]]]:
    """tiktoken with this vocabulary, its products ranked by their first merge, under the ids of the file."""
    from tiktoken import Encoding

    tree = json.loads(tokenizer.__reduce__()[1][0])
    # A byte that has no token gets a rank of its own; its id is none of the file's.
    ranks = {bytes([byte]): byte for byte in range(256)}
    ids = [tree["model"]["vocab"].get(symbol, -1) for symbol, _ in sorted(BYTE_SYMBOLS.items(), key=lambda one: one[1])]
    for merge in tree["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        product = bytes(BYTE_SYMBOLS[symbol] for symbol in left + right)
        if product not in ranks:
            ranks[product] = len(ranks)
            ids.append(tree["model"]["vocab"][left + right])
    encoding = Encoding("benchmark", pat_str=TIKTOKEN_PATTERN, mergeable_ranks=ranks, special_tokens={})
    table = np.array(ids, np.int64)
    return lambda texts: [table[encoding.encode_ordinary(text)].tolist() for text in texts]


def contenders(tokenizer: Tokenizer) -> dict[str, Callable[[list[str]], list[list[int]]]]:
    """Every encoder that is installed, by name and version."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Callable[[list[str]], list[list[int]]]] = {"codeshell": tokenizer.encode_batch}
    for name, make in (("tokenizers", library), ("tiktoken", tiktoken)):
        try:
            found[f"{name} {version(name)}"] = make(tokenizer)
        except (PackageNotFoundError, ImportError):
            continue
    return found


def encoding_rows(tokenizer: Tokenizer, name: str, texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """A row for each contender on these texts, and one for ours without Python strings and lists."""
    (buffers,) = text_buffers(pa.array(texts, pa.large_string()))
    size = int(buffers.offsets[-1])
    calls: dict[str, Callable[[], Any]] = {
        one: lambda encode=encode: encode(texts) for one, encode in contenders(tokenizer).items()
    }
    calls["codeshell, from Arrow buffers"] = lambda: tokenizer.encode_buffers(buffers)
    seconds: dict[str, list[float]] = {one: [] for one in calls}
    results: dict[str, Any] = {}
    for number in range(rounds + 1):
        for one, call in calls.items():
            started = time.process_time()
            result = call()
            # The first round fills caches; its ids are compared.
            if number:
                seconds[one].append(time.process_time() - started)
            else:
                results[one] = lists(result)
    expected = next((ids for one, ids in results.items() if one.startswith("tokenizers")), results["codeshell"])
    return [
        {
            "case": f"encode {name}",
            "contender": one,
            "MB": round(size / 1e6, 2),
            "tokens": sum(map(len, results[one])),
            "MB_per_second": round(size / 1e6 / statistics.median(times), 2),
            "exact": sum(ours == theirs for ours, theirs in zip(results[one], expected, strict=True)),
            "documents": len(texts),
            "rounds_ms": [round(1e3 * value, 2) for value in times],
        }
        for one, times in seconds.items()
    ]


def lists(result: Any) -> list[list[int]]:
    """Ids by document, from either form."""
    if isinstance(result, tuple):
        ids, offsets = result
        return [ids[begin:end].tolist() for begin, end in pairwise(offsets)]
    return list(result)


def usage() -> tuple[float, float]:
    """Wall time and CPU time of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def library_train(batches: list[list[str]], size: int) -> str:
    """Training by the tokenizers library, as codeshell did it before: the text of tokenizer.json."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    from codeshell.documents.templates import SPECIAL_TOKENS

    learner = tokenizers.Tokenizer(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": size, "min_frequency": 2, "initial_alphabet": alphabet, "show_progress": False}
    learner.train_from_iterator(iter(batches), trainers.BpeTrainer(**options))
    learner.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return str(learner.to_str(pretty=True))


def training_rows(folder: Path, megabytes: int, threads: int) -> list[dict[str, Any]]:
    """The library and ours on the same text to 4,096 tokens, then ours on ten times as much to 70,000."""
    rows = []
    made: dict[str, str] = {}
    plan = [("codeshell", megabytes, 4096), ("tokenizers", megabytes, 4096), ("codeshell", 10 * megabytes, 70_000)]
    for name, amount, size in plan:
        texts = code(folder, amount * 1_000_000)
        batches = [texts[begin : begin + 512] for begin in range(0, len(texts), 512)]
        with tokenizer_threads(threads):
            wall, cpu = usage()
            if name == "codeshell":
                result = str(train(batches, size).__reduce__()[1][0])
            else:
                result = library_train(batches, size)
            after = usage()
        rows.append(
            {
                "case": f"train to {size:,}",
                "contender": name,
                "MB": round(sum(len(text.encode()) for text in texts) / 1e6, 2),
                "threads": threads,
                "seconds": round(after[0] - wall, 2),
                "cpu_seconds": round(after[1] - cpu, 2),
            }
        )
        # Words beyond the longest are cut by ours alone, so texts with such may differ.
        if size == 4096:
            made[name] = result
            rows[-1]["same_file"] = len(set(made.values())) == 1
    # One document of 400,000 characters without a break.
    noise = random.Random(3)
    long = "INSERT INTO gene VALUES (1, '" + "".join(noise.choices("ACGT", k=400_000)) + "');\n"
    wall, cpu = usage()
    train([[long]], 4096)
    after = usage()
    rows.append({"case": "train on 400,000 characters without a break", "contender": "codeshell", "MB": 0.4})
    rows[-1] |= {"seconds": round(after[0] - wall, 2), "cpu_seconds": round(after[1] - cpu, 2)}
    return rows


def cut_row(tokenizer: Tokenizer, texts: list[str]) -> dict[str, Any]:
    """The pre-tokenizer alone."""
    data = "".join(texts).encode()
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        words = len(_C.bpe.split("digits-gpt2", data)) - 1
        times.append(time.process_time() - started)
    row = {"case": "cut code into words", "contender": "codeshell", "MB": round(len(data) / 1e6, 2), "words": words}
    return row | {"MB_per_second": round(len(data) / 1e6 / statistics.median(times), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json or its directory (default: trained here)")
    parser.add_argument("--code", type=Path, help="a folder of code (default: this interpreter's library)")
    parser.add_argument("--chinese", type=Path, help="a Parquet file with a column text")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--training", type=int, default=20, metavar="MB", help="text for training; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=2, help="threads of training")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    folder = args.code or Path(sysconfig.get_path("stdlib"))
    texts = code(folder, CODE_BYTES)
    # Training first, because the library keeps the number of threads that it begins with.
    rows = training_rows(folder, args.training, args.threads) if args.training else []
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else train([texts], 16_384)
    with tokenizer_threads(1):
        rows += [cut_row(tokenizer, texts), *encoding_rows(tokenizer, "code", texts, args.rounds)]
        if args.chinese:
            column = pq.ParquetFile(args.chinese).read(["text"]).column("text").to_pylist()
            rows += encoding_rows(tokenizer, "Chinese", column, args.rounds)
        for name, one in hostile().items():
            rows += encoding_rows(tokenizer, name, one, args.rounds)
    for row in rows:
        speed = f"{row['MB_per_second']:9.1f} MB/s" if "MB_per_second" in row else f"{row['seconds']:9.2f} s"
        exact = f"{row['exact']:>6} of {row['documents']} exact" if "exact" in row else ""
        print(f"{row['case']:42} {row['contender']:30} {row['MB']:8.2f} MB {speed} {exact}")
    if args.json:
        write_json(args.json, {"environment": environment(1), "rows": rows})


if __name__ == "__main__":
    main()
