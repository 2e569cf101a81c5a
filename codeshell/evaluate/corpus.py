"""The documents that an evaluation looks at: chosen by a hash of their id, read once, a bounded amount in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codeshell.documents import batches, inputs, languages, readers
from codeshell.documents.choose import choose
from codeshell.documents.inputs import InputOptions, Shard
from codeshell.documents.shards import document_id, list_shards
from codeshell.errors import UserError
from codeshell.randomness import draw

MAX_SHARDS = 64
"""Shards of a split that are looked at: some 2 GB, from which 16 MB or less are chosen. A corpus of terabytes is not
read through for it."""

SHARD_BYTES = 64 << 20
"""Text in a part of a file that is read at a time."""

OPTIONS = InputOptions()


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
    shard: int
    """Place in the plan."""
    row: int
    """Row in the source of that shard."""


class Corpus:
    """Files of documents, indexed by id and size; texts are read when they are chosen.

    Args:
        paths: what `codeshell.documents` reads: Parquet or JSONL with a `text` column, folders of code. Of tables,
            `id`, `path`, `language` and (in Parquet) `bytes` are used where they exist.

    Raises:
        UserError: a file is damaged or has no text column.
    """

    def __init__(self, paths: Sequence[Path | str]) -> None:
        self.paths = list(paths)
        self.rows: list[_Row] = []
        # The plan is kept: a chosen row is found again by its shard and its place in the source.
        self._plan = inputs.plan([str(path) for path in paths], OPTIONS, SHARD_BYTES) if paths else inputs.Plan([], [])
        for shard in self._plan.shards:
            self._index(shard)

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

        A document that does not fit any more is passed over and smaller ones after it may still come, so the sample
        never exceeds the limit; this leaves out files larger than the limit altogether.

        Args:
            languages: lower-case names; keep only these.
            excluded: lower-case names; leave these out.
        """
        # First by language, then by hash: so the choice for one language does not depend on the others.
        able = [
            row
            for row in self.rows
            if (languages is None or row.language.lower() in languages) and row.language.lower() not in excluded
        ]
        taken, _ = choose(seed, purpose, ((row.id, row.size) for row in able), max_bytes, fill=True)
        chosen = [able[place] for place in taken.tolist()]
        # Texts come shard by shard, and are put back into the order of the hash.
        texts = self._texts(chosen)
        return [Document(row.id, row.path, row.language, texts[row.shard, row.row]) for row in chosen]

    def _index(self, shard: Shard) -> None:
        """Add the documents of a part of a file."""
        add, number = self.rows.append, shard.number
        if self._has(shard, "id", "bytes"):
            # Shards of a run say all that is needed beside the texts, which are not read then.
            for first, batch in batches.tables(shard, ("id", "path", "language", "bytes"), batches.OBJECT_ROWS):
                for row, of in enumerate(batch.to_pylist(), first):
                    add(_Row(of["id"], of.get("path") or "", of.get("language") or "", of["bytes"] or 0, number, row))
            return
        # Other files are read once to measure them, a text at a time.
        for found, _ in batches.texts(shard, replace(OPTIONS, id_column="id"), Counter()):
            identity = found.id or document_id(found.text)
            path, language = found.path or "", found.language
            if shard.source.kind in ("files", "tar"):  # a table says what it knows; of a file only the name is known
                language = languages.by_path(path, found.text)
            add(_Row(identity, path, language or "", found.size, number, found.row))

    def _has(self, shard: Shard, *names: str) -> bool:
        """Whether a part of a file is Parquet with these columns."""
        if shard.source.kind != "parquet":
            return False
        with readers.open_parquet(shard.source.path) as file:
            return set(names) <= set(file.schema_arrow.names)

    def _texts(self, rows: Sequence[_Row]) -> dict[tuple[int, int], str]:
        """The texts of some rows; each shard is read once."""
        # shard -> rows of it
        places: dict[int, list[int]] = {}
        for row in rows:
            places.setdefault(row.shard, []).append(row.row)
        texts: dict[tuple[int, int], str] = {}
        for number, found in places.items():
            # A row whose text is null or no UTF-8 contradicts the size that its file gave.
            try:
                column = batches.texts_at(self._plan.shards[number], found, OPTIONS).to_pylist()
            except ValueError as error:
                raise UserError(f"{error}, though its size is given; write the file again") from None
            texts.update(zip(((number, row) for row in found), column, strict=True))
        return texts


def split_paths(run: Path, split: str, *, seed: int) -> list[Path]:
    """Shards of one split of a run: all of them, or the `MAX_SHARDS` that come first by hash(seed, split, name).

    What a shard holds does not depend on the workers, so neither does this choice. Without shards the list is empty.
    """
    paths = list_shards(run / "curated", split)
    # By the name of the shard alone, so that the choice is the same wherever the run lies.
    ranked = sorted(paths, key=lambda path: (draw(seed, split, path.name), path.name))
    return sorted(ranked[:MAX_SHARDS])


def find_parquet(names: Sequence[str]) -> list[Path | str]:
    """Inputs named on a command line; a directory stands for its `test-*.parquet`, else for the Parquet files below
    it, else (a folder of code or of JSONL) for itself."""
    found: list[Path | str] = []
    for name in names:
        # The test split of a run was held out; in other folders all Parquet counts.
        path = Path(name)
        inside = (list_shards(path, "test") or sorted(path.rglob("*.parquet"))) if name and path.is_dir() else []
        found += inside or [name]
    return found
