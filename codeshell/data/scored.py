"""The scores of a run's distinct documents: which columns there are, where they lie, and how they are read together.

Row i of any column of shard N belongs to row i of `neardup/kept-N`. The text measures lie in `collect/scores-N`, the
columns of a scorer in `score/SCORER/scores-N`; `score/stats.json` says which scorer gives which columns.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from codeshell.documents.shards import KEPT, list_shards, read_table, shard_path
from codeshell.engine.files import read_json
from codeshell.errors import UserError
from codeshell.scorers.text import SCORES

MEASURES = tuple(name for name in SCORES.names if name not in ("id", "language"))
"""The text measures, which every document has."""
OWN = ("id", "repo", "path", "language", "bytes")
"""What is known of a document without a score."""


def scorer_home(stage: Path, scorer: str) -> Path:
    """The directory of a scorer's columns below `score/`: its name, or for a place the object's name and a number."""
    if re.fullmatch(r"\w+", scorer):
        return stage / scorer
    # Two files may have an object of the same name.
    attribute = re.sub(r"\W+", "_", scorer.rpartition(":")[2]) or "scorer"
    return stage / f"{attribute}-{zlib.crc32(scorer.encode('utf-8', 'surrogatepass')):08x}"


@dataclass(frozen=True)
class Scored:
    """The documents that `neardup` kept in a run, with every column that is known of them. It is pickled for nothing.

    Raises:
        UserError: a damaged file, in any member that reads.
    """

    run: Path
    columns: Mapping[str, Path | None]
    """Every score by name, with the directory that its file lies in; None for a text measure."""

    @classmethod
    def of_run(cls, run: Path) -> Scored:
        """The columns that a run has now; without a finished score stage, the text measures alone."""
        columns: dict[str, Path | None] = dict.fromkeys(MEASURES)
        done = run / "score" / "stats.json"
        # A run of an earlier version had its scores for what was collected, in other files.
        stats = read_json(done) if done.exists() else {}
        for scorer, names in stats.get("columns", {}).items():
            home = scorer_home(run / "score", scorer)
            if home.is_dir():
                columns |= dict.fromkeys(names, home)
        return cls(run, columns)

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(len(list_shards(self.run / "neardup", "kept")))

    def kept(self, shard: int) -> pa.Table:
        """The rows of `neardup/kept-NNNNN` (schema `shards.KEPT`)."""
        return read_table(shard_path(self.run / "neardup", "kept", shard)).select(KEPT.names).cast(KEPT)

    def read(self, shard: int, names: Iterable[str], kept: pa.Table | None = None) -> pa.Table:
        """Some columns of a shard: scores, and any of `OWN`; a row for each row of `kept`.

        Args:
            names: each is in `columns` or in `OWN`.
            kept: of `kept(shard)`, if the caller has it.
        """
        names = list(dict.fromkeys(names))
        rows = self.kept(shard) if kept is None else kept
        found = {name: rows[name] for name in names if name in OWN}
        # One read for each file, of the columns that are asked for.
        wanted: dict[Path | None, list[str]] = {}
        for name in names:
            if name not in found:
                wanted.setdefault(self.columns[name], []).append(name)
        for home, some in wanted.items():
            if home is None:
                measures = read_table(shard_path(self.run / "collect", "scores", shard), some)
                table = measures.take(rows["row"].combine_chunks())
            else:
                path = shard_path(home, "scores", shard)
                table = read_table(path, some)
                if table.num_rows != rows.num_rows:
                    raise UserError(
                        f"{path}: {table.num_rows} rows for {rows.num_rows} documents; delete {home} and run again"
                    )
            found |= {name: table[name] for name in some}
        return pa.table({name: found[name] for name in names})
