"""Corpora for `dedup.py` and `dedup_quality.py`, as Parquet shards with the columns id and text.

    python benchmarks/dedup_corpora.py files ~/src -o corpora/files
    python benchmarks/dedup_corpora.py scale corpora/files -o corpora/scale-1000000 --documents 1000000
    python benchmarks/dedup_corpora.py header corpora/files -o corpora/header

`files` packs the source files below folders. The other two make corpora that are hard to find, from the text of a base
corpus (Parquet files, or folders of them):

- `scale`: N documents of about 1.5 kB: pieces of the base's files, each piece once as it is and as seven copies with
  random edits (tokens changed, lines left out), in random order. So a corpus of twice the documents has twice the
  pieces, and clusters of the same sizes. The Jaccard similarity of most copies to each other is below 0.7.
- `header`: two corpora of equal size. All documents of OUT/header have the same licence header and the code of the
  same template, in which a random part of the blocks has identifiers of its own. Any two documents have a Jaccard
  similarity of about 0.3 to 0.65, so almost everything collides and few are duplicates. OUT/control has pieces of
  the base's files of the same lengths.

The same arguments give the same bytes. A corpus that exists already is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import string
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROW_GROUP = 2_000
COPIES = 8
"""Copies of a piece in `scale`, the unedited one included."""

LICENCE = """\
# Copyright (c) the authors of this file. All rights reserved.
#
# Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
# documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
# rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
# persons to whom the Software is furnished to do so, subject to the following conditions:
#
# The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
# Software.
#
# THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
# WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
# COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
# OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

BLOCKS = (
    "    def {a}(self, {b}, {c}=None):\n        if {b} is None:\n            raise ValueError({c}, {d})\n\n",
    "    {a} = {b}.{c}({d}={e}, key=lambda {b}: ({b}.{d}, {b}.{e}), default={c}.{a})\n\n",
    "    def {a}(self):\n        return [{b}.{d} for {b} in self.{c} if {b}.{d} > {e}]\n\n",
    "    @property\n    def {a}(self):\n        self.{c} = {d}({b}, {c})\n        return self.{e}({c})\n\n",
)
"""Blocks of the template; {a} to {e} are identifiers."""


def parquet_files(paths: list[Path]) -> list[Path]:
    """The Parquet files among `paths` and below the folders among them, in order."""
    return [file for path in paths for file in (sorted(path.rglob("*.parquet")) if path.is_dir() else [path])]


def read_texts(paths: list[Path]) -> Iterator[str]:
    for file in parquet_files(paths):
        for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP, columns=["text"]):
            yield from batch["text"].to_pylist()


class Shards:
    """Writes documents to a number of Parquet files of about equal size, in order."""

    SCHEMA = pa.schema([("id", pa.string()), ("text", pa.large_string())])

    def __init__(self, folder: Path, documents: int, shards: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._per_shard = folder, -(-documents // shards)
        self._rows: list[str] = []
        self._written = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, text: str) -> None:
        self._rows.append(text)
        if len(self._rows) == ROW_GROUP or (self._written + len(self._rows)) % self._per_shard == 0:
            self.flush()

    def flush(self) -> None:
        """Write the waiting documents; at the end of a shard, close it."""
        if self._rows:
            if self._writer is None:
                path = self._folder / f"part-{self._written // self._per_shard:03d}.parquet"
                self._writer = pq.ParquetWriter(path, self.SCHEMA, compression="zstd", compression_level=3)
            ids = [str(self._written + i) for i in range(len(self._rows))]
            self._writer.write_table(pa.table([ids, self._rows], schema=self.SCHEMA))
            self._written += len(self._rows)
            self._rows = []
        if self._writer is not None and self._written % self._per_shard == 0:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        self.flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def pieces(texts: Iterator[str], lengths: Iterator[int]) -> Iterator[bytes]:
    """The texts, cut at ends of lines into pieces of about the given lengths in bytes.

    The rest of a file is dropped, and so is a piece that is more than twice too long because of a long line.
    """
    wanted = next(lengths)
    for text in texts:
        piece, size = [], 0
        for line in text.encode().splitlines(keepends=True):
            piece.append(line)
            size += len(line)
            if size >= wanted:
                if size < 2 * wanted:
                    yield b"".join(piece)
                    wanted = next(lengths)
                piece, size = [], 0


def edited(piece: bytes, rng: np.random.Generator) -> bytes:
    """A copy in which up to 20 % of the tokens are changed; every second copy also lacks some lines."""
    if rng.random() < 0.5:
        lines = piece.splitlines(keepends=True)
        start = int(rng.integers(len(lines)))
        del lines[start : start + int(rng.integers(1 + len(lines) // 4))]
        piece = b"".join(lines)
    text = np.frombuffer(piece, np.uint8).copy()
    places = (
        rng.integers(len(text), size=int(rng.uniform(0.002, 0.2) * len(text) / 6)) if len(text) else np.empty(0, int)
    )
    places = places[ALPHANUMERIC[text[places]]]
    text[places] = rng.integers(ord("a"), ord("z") + 1, size=len(places))
    return text.tobytes()


ALPHANUMERIC: NDArray[np.bool_] = np.isin(np.arange(256), list((string.ascii_letters + string.digits).encode()))


def scale(base: list[Path], out: Path, *, documents: int, shards: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = iter(lambda: int(rng.integers(500, 2200)), None)
    shuffler = random.Random(seed)
    count = -(-documents // COPIES)
    bases = list(islice(pieces(read_texts(base), lengths), count))
    if len(bases) < count:
        raise SystemExit(f"{base[0]}: {len(bases)} pieces, {count} are needed; give more text")
    order = list(range(documents))
    shuffler.shuffle(order)
    writer = Shards(out, documents, shards)
    for index in order:
        piece, copy = bases[index // COPIES], index % COPIES
        writer.add((edited(piece, np.random.default_rng((seed, index))) if copy else piece).decode())
    writer.close()


def from_template(rng: random.Random, names: list[tuple[str, ...]]) -> str:
    """One document: the licence, then the template's blocks, about a quarter of them with identifiers of its own."""
    own = set(rng.sample(range(len(names)), rng.randint(6, 10)))
    parts = [LICENCE, "\n\nclass Handler:\n"]
    for i, common in enumerate(names):
        chosen = tuple(identifier(rng) for _ in range(5)) if i in own else common
        parts.append(BLOCKS[i % len(BLOCKS)].format(**dict(zip("abcde", chosen, strict=True))))
    return "".join(parts)


def identifier(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=7))


def header(base: list[Path], out: Path, *, documents: int, shards: int, seed: int) -> None:
    rng = random.Random(seed)
    names = [tuple(identifier(rng) for _ in range(5)) for _ in range(32)]
    writer = Shards(out / "header", documents, shards)
    lengths = []
    for _ in range(documents):
        text = from_template(rng, names)
        lengths.append(len(text))
        writer.add(text)
    writer.close()
    writer = Shards(out / "control", documents, shards)
    controls = list(islice(pieces(read_texts(base), iter([*lengths, 0])), documents))
    if len(controls) < documents:
        raise SystemExit(f"{base[0]}: {len(controls)} pieces, {documents} are needed; give more text")
    for piece in controls:
        writer.add(piece.decode())
    writer.close()


def files(folders: list[Path], out: Path, *, shards: int, distinct: bool) -> None:
    """Pack the files that `codeshell dedup` would read below the folders; `distinct`: only the first of equal texts."""
    from codeshell.documents import readers, walk

    limit = 1_000_000
    found = [
        folder / entry.path
        for folder in folders
        for entry in walk.walk(str(folder), max_file_bytes=limit, vendored=False)
        if not entry.reason
    ]
    writer = Shards(out, len(found), shards)
    seen = set[bytes]()
    for path in found:
        data, reason = readers.read_file(str(path), limit)
        if reason:
            continue
        digest = hashlib.md5(data).digest()
        if distinct and digest in seen:
            continue
        seen.add(digest)
        try:
            writer.add(data.decode())
        except UnicodeDecodeError:
            continue
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("files", "scale", "header"))
    parser.add_argument("base", nargs="+", type=Path, help="folders of source files; for the others a corpus")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--documents", type=int, default=200_000, help="of scale, header and control (default: 200000)")
    parser.add_argument("--distinct", action="store_true", help="files: of equal texts only the first")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if any(args.output.rglob("*.parquet")):
        print(f"{args.output}: there already")
        return
    partial = args.output.with_name(args.output.name + ".partial")
    if args.kind == "files":
        files(args.base, partial, shards=args.shards, distinct=args.distinct)
    else:
        make = {"scale": scale, "header": header}[args.kind]
        make(args.base, partial, documents=args.documents, shards=args.shards, seed=args.seed)
    partial.rename(args.output)
    for folder in sorted({file.parent for file in parquet_files([args.output])}):
        texts = sum(pq.ParquetFile(file).metadata.num_rows for file in parquet_files([folder]))
        print(f"{folder}: {texts:,} documents")


if __name__ == "__main__":
    main()
