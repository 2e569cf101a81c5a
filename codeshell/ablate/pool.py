"""The stages that all arms share, done once: a run up to its tokens, and the further held-out sets.

The run is that of `codeshell run` without a selection, so its `tokens/` are those of every distinct document that is
not held out, by one tokenizer; an arm takes some of them. A further held-out set is read, filtered and deduplicated by
the same settings. Then each of its documents is compared with all of the corpus, and what reaches the threshold of near
duplicates is left out, as the split stage does for the test split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codeshell import _C, pipeline
from codeshell.ablate import plan
from codeshell.documents.shards import DOCUMENTS, list_shards, read_kept, read_table, shard_path, write_table
from codeshell.documents.texts import text_buffers
from codeshell.engine.files import read_json, write_json
from codeshell.environment import thread_count
from codeshell.errors import UserError, say
from codeshell.recipe import Recipe, Score, Select, Split


def prepare(recipe: Recipe, directory: Path, workers: int) -> dict[str, str]:
    """Do the shared stages below `directory`; return a key of everything that trainings read of them.

    Raises:
        UserError: what the stages raise; a held-out set without documents.
    """
    shared = directory / "shared"
    pipeline.run(plan.shared_recipe(recipe), shared, workers=workers, until="tokens")
    # What a training reads: the tokens, the scores, and the held-out documents of the split.
    made = [name for name in ("score", "tokens") if (shared / name / "key.json").exists()]
    keys = {name: str(read_json(shared / name / "key.json")["key"]) for name in made}
    for name, inputs in recipe.ablate.held_out.items():
        keys[f"held out {name}"] = _held_out(recipe, directory, name, inputs, workers)
    return keys


def held_out_sets(recipe: Recipe, directory: Path) -> dict[str, list[Path]]:
    """The held-out sets with the files of their documents: the named ones, then the corpus' own test split."""
    found = {name: [directory / "held-out" / name / "test-00000.parquet"] for name in recipe.ablate.held_out}
    if recipe.split.test:
        found[plan.UNFILTERED] = list_shards(directory / "shared" / "curated", "test")
    return found


def _held_out(recipe: Recipe, directory: Path, name: str, inputs: tuple[str, ...], workers: int) -> str:
    """Make one held-out set, unless it is made; return its key."""
    home, shared = directory / "held-out" / name, directory / "shared"
    corpus = read_json(shared / "tokens" / "key.json")["key"]
    counts = read_json(shared / "curated" / "stats.json")
    # Of the corpus' languages only: no arm has seen another one.
    languages = tuple(sorted(counts["by_language"]))
    settings = msgspec.structs.replace(
        recipe,
        name=f"{recipe.name}, held out: {name}",
        collect=msgspec.structs.replace(recipe.collect, inputs=inputs),
        rules=msgspec.structs.replace(recipe.rules, language_floor=0, languages=languages),
        score=Score(),
        select=Select(),
        split=Split(),
    )
    pipeline.run(settings, home, workers=workers, until="neardup")
    key = plan.digest([read_json(home / "neardup" / "key.json")["key"], corpus])
    done = home / "held-out.json"
    if done.exists() and (home / "test-00000.parquet").exists() and read_json(done).get("key") == key:
        return key
    parts = [DOCUMENTS.empty_table()]
    for path in list_shards(home / "neardup", "kept"):
        parts += [table.select(DOCUMENTS.names).cast(DOCUMENTS) for table in read_kept(home / "collect", path)]
    held = pa.concat_tables(parts)
    jaccard = _resemblance(held, list_shards(shared / "curated", "train"), recipe.near_dedup.ngram, workers)
    leaks = jaccard >= recipe.near_dedup.threshold
    kept = held.filter(pa.array(~leaks))
    if not kept.num_rows:
        raise UserError(
            f"ablate.held_out.{name}: of {held.num_rows:,} documents, each resembles one of the corpus; name others, "
            "or leave them out of collect.inputs"
        )
    write_table(shard_path(home, "test", 0), kept)
    size = int(pc.sum(kept["bytes"]).as_py() or 0)
    write_json(
        done,
        {
            "key": key,
            "in": held.num_rows,
            "left_out": {"near_duplicate_of_the_corpus": int(leaks.sum())},
            "documents": kept.num_rows,
            "bytes": size,
            "max_jaccard": float(jaccard[~leaks].max(initial=0.0)),
        },
    )
    say(
        f"held out: {name}: {kept.num_rows:,} documents, {size / 1e6:.1f} MB; {int(leaks.sum()):,} more resemble a "
        "document of the corpus and are left out"
    )
    return key


def _resemblance(held: pa.Table, corpus: list[Path], ngram: int, workers: int) -> np.ndarray[Any, Any]:
    """The highest Jaccard of each document of `held` with any document of the corpus, exact."""
    if not held.num_rows:
        return np.empty(0)
    (piece,) = text_buffers(held["text"].combine_chunks())
    overlap = _C.DedupOverlap(piece.data, piece.offsets, ngram)
    for path in corpus:
        for texts in text_buffers(read_table(path, ["text"])["text"]):
            overlap.compare(texts.data, texts.offsets, thread_count(workers))
    best: np.ndarray[Any, Any] = overlap.best()[1]
    return best
