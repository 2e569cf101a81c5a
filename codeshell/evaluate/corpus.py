"""The documents that an evaluation looks at: chosen by a hash of their id, read once, a bounded amount in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from codeshell.documents.shards import document_id, list_shards
from codeshell.errors import UserError
from codeshell.randomness import draw

BATCH_ROWS = 512

MAX_SHARDS = 64
"""Shards of a split that are looked at: some 2 GB, from which 16 MB or less are chosen. A corpus of terabytes is not
read through for it."""


@dataclass(frozen=True)
class Document:
    """A document to evaluate on; `language` is "" where the file does not say."""

    id: str
    path: str
    language: str
    text: str

    @property
    def data(self) -> bytes:
        """The text in UTF-8."""
        return self.text.encode("utf-8")


@dataclass(frozen=True)
class _Row:
    id: str
    path: str
    language: str
    size: int
    file: int
    row: int


class Corpus:
    """Parquet files of documents, indexed by id and size; texts are read when they are chosen.

    Args:
        paths: Parquet files with a `text` column; `id`, `path`, `language` and `bytes` are used where they exist.

    Raises:
        UserError: a file is not Parquet or has no text column.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.rows: list[_Row] = []
        for number, path in enumerate(self.paths):
            self._index(number, path)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def total_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return sum(row.size for row in self.rows)

    def choose(
        self,
        seed: int,
        purpose: str,
        *,
        max_bytes: int,
        languages: frozenset[str] | None = None,
        excluded: frozenset[str] = frozenset(),
    ) -> list[Document]:
        """Documents in the order of hash(seed, id, purpose), as many as fit `max_bytes`.

        A document that does not fit any more is passed over and smaller ones behind it may still come, so the sample
        never exceeds the limit; this leaves out files larger than the limit altogether.

        Args:
            languages: lower-case names; keep only these.
            excluded: lower-case names; leave these out.
        """
        ranked = sorted(
            (draw(seed, row.id, purpose), row.id, index)
            for index, row in enumerate(self.rows)
            if (languages is None or row.language.lower() in languages) and row.language.lower() not in excluded
        )
        chosen: list[_Row] = []
        total = 0
        for _, _, index in ranked:
            row = self.rows[index]
            if row.size > 0 and total + row.size <= max_bytes:
                chosen.append(row)
                total += row.size
        texts = self._texts(chosen)
        return [Document(row.id, row.path, row.language, texts[row.file, row.row]) for row in chosen]

    def _index(self, number: int, path: Path) -> None:
        file = _open(path)
        names = set(file.schema_arrow.names)
        if "text" not in names:
            raise UserError(f"{path}: no column text; give Parquet documents with one")
        whole = {"id", "bytes"} <= names
        columns = [name for name in ("id", "path", "language", "bytes") if name in names]
        at = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns if whole else [*columns, "text"]):
            for values in batch.to_pylist():
                data = b"" if whole else (values["text"] or "").encode("utf-8")
                self.rows.append(
                    _Row(
                        id=values.get("id") or document_id(data),
                        path=values.get("path") or "",
                        language=values.get("language") or "",
                        size=int(values["bytes"]) if whole else len(data),
                        file=number,
                        row=at,
                    )
                )
                at += 1

    def _texts(self, rows: Sequence[_Row]) -> dict[tuple[int, int], str]:
        wanted: dict[int, list[int]] = {}
        for row in rows:
            wanted.setdefault(row.file, []).append(row.row)
        texts: dict[tuple[int, int], str] = {}
        for number, indices in wanted.items():
            left = sorted(indices, reverse=True)
            at = 0
            for batch in _open(self.paths[number]).iter_batches(batch_size=BATCH_ROWS, columns=["text"]):
                while left and left[-1] < at + batch.num_rows:
                    index = left.pop()
                    texts[number, index] = batch.column(0)[index - at].as_py() or ""
                at += batch.num_rows
                if not left:
                    break
        return texts


def split_paths(run: Path, split: str, *, seed: int) -> list[Path]:
    """Shards of one split of a run: all of them, or the `MAX_SHARDS` that come first by hash(seed, split, name).

    What a shard holds does not depend on the workers, so neither does this choice. No shard is an empty list.
    """
    paths = list_shards(run / "curated", split)
    ranked = sorted(paths, key=lambda path: (draw(seed, split, path.name), path.name))
    return sorted(ranked[:MAX_SHARDS])


def find_parquet(inputs: Sequence[str]) -> list[Path]:
    """Parquet files named on a command line; a directory stands for its `test-*.parquet`, else for all it holds.

    Raises:
        UserError: a path does not exist or holds no Parquet.
    """
    found: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            inside = list_shards(path, "test") or sorted(path.rglob("*.parquet"))
            if not inside:
                raise UserError(f"{name}: no .parquet files below it; give Parquet documents with a text column")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"{name}: no such file or directory; give Parquet documents with a text column")
    return found


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); give Parquet documents") from None
