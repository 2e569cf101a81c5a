"""What one arm takes of the corpus: by its limits and ranks, in equal tokens for every arm.

The limits and the ranks are those of the select stage (`codeshell.data.decisions`), on the same columns. The budget is
counted in tokens of the one tokenizer, and each language has the part of it that it has of the corpus, so that arms
differ in which documents of a language they have and not in the languages. Within a language the best come first, and
by a hash of (seed, id) where ranks are equal; a document that does not fit any more is passed over. So every arm has
the budget but for less than its smallest document that was left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.ablate import plan
from codeshell.ablate.plan import Training
from codeshell.data import decisions
from codeshell.data.budget import shares
from codeshell.data.distributions import Distributions, hashes, languages_of, merge, sketch_shard
from codeshell.data.score import columns_of
from codeshell.data.scored import MEASURES, Scored
from codeshell.documents.token_shards import TokenCorpus, TokenShardWriter
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import make_directory, read_json, write_json
from codeshell.errors import UserError
from codeshell.recipe import Recipe

REPOSITORIES = 40
"""Repositories that a selection's record names, the largest first."""


@dataclass(frozen=True)
class Pool:
    """The corpus that every arm selects from: what trains of the shared run. Arrays have one entry per document."""

    corpus: TokenCorpus
    scored: Scored
    place: dict[str, int]
    """Document id to its number in `corpus`; held-out documents are in `scored` alone."""

    @classmethod
    def of(cls, shared: Path) -> Pool:
        """The pool of a shared run.

        Raises:
            UserError: a damaged file.
        """
        paths = sorted((shared / "tokens").glob("train-[0-9][0-9][0-9][0-9][0-9].tokens"))
        corpus = TokenCorpus(paths, read_json(shared / "tokens" / "stats.json")["tokenizer_hash"])
        place = {corpus.document_id(number): number for number in range(len(corpus))}
        return cls(corpus, Scored.of_run(shared), place)


@dataclass(frozen=True)
class Judged:
    """The answer of an arm's plan for every document of the pool, in the pool's order."""

    reason: NDArray[np.int64]
    """A number of `reasons`, -1 for none."""
    reasons: list[str]
    rank: NDArray[np.float64]
    key: NDArray[np.uint64]
    """The hash that breaks ties."""
    language: NDArray[np.int64]
    languages: list[str]
    repo: list[str]


def select(recipe: Recipe, training: Training, pool: Pool, home: Path, engine: Engine) -> dict[str, Any]:
    """Write the tokens of one training below `home`: `tokens/train-00000.tokens`, `stats.json`, `selection.json`.

    Returns:
        What `selection.json` holds: `documents`, `tokens`, `bytes`; `pool` with the same of all and of those that the
        limits let through; `dropped {reason: {documents, tokens}}`; `languages`; `repositories`, tokens of the largest.

    Raises:
        UserError: a language has less than its part of the budget after the limits.
    """
    if (home / "selection.json").exists() and (home / "tokens" / "stats.json").exists():
        found: dict[str, Any] = read_json(home / "selection.json")
        return found
    judged = judge(plan.arm_recipe(recipe, training.arm), training.seed, pool, home / "scores", engine)
    tokens = np.asarray(pool.corpus.token_counts, dtype=np.int64)
    taken = take(judged, tokens, plan.budget(recipe), training.arm)
    writer_home = make_directory(home / "tokens")
    vocabulary, tokenizer_hash = pool.corpus.vocab_size, pool.corpus.tokenizer_hash
    size = 0
    with TokenShardWriter(
        writer_home / "train-00000.tokens", vocab_size=vocabulary, tokenizer_hash=tokenizer_hash
    ) as shard:
        for number in np.flatnonzero(taken).tolist():
            bytes_of = pool.corpus.document_bytes(number)
            shard.add(pool.corpus.document_id(number), pool.corpus.document(number), bytes_of)
            size += bytes_of
    result = _statistics(judged, tokens, taken) | {"bytes": size}
    # What the training stage compares its shards with.
    counts = {"documents": result["documents"], "tokens": result["tokens"], "bytes": size}
    write_json(home / "selection.json", result)
    write_json(writer_home / "stats.json", {"train": counts, "tokenizer_hash": tokenizer_hash})
    return result


def judge(recipe: Recipe, seed: int, pool: Pool, stage: Path, engine: Engine) -> Judged:
    """Ask an arm's `[select]` about every document of the pool.

    Args:
        recipe: with the arm's selection.
        seed: of the hash that breaks ties.
        stage: a directory for the distributions that quantiles and ranks are taken from.
    """
    known = _known(recipe)
    shards = pool.scored.shards
    make_directory(stage)
    if not (stage / "sketches.parquet").exists():
        # The distributions do not depend on the seed of a training.
        sketch = partial(sketch_shard, pool.scored, decisions.fine_columns(recipe.select), recipe.seed, stage)
        map_shards(engine, stage, "sketch", sketch, list(shards))
        merge(stage, shards)
    distributions = Distributions(stage)
    this = decisions.plan(recipe, known, distributions)
    count = len(pool.corpus)
    reason, rank = np.full(count, -1), np.full(count, 0.5)
    key, language = np.zeros(count, np.uint64), np.zeros(count, np.int64)
    languages: dict[str, int] = {}
    repo = [""] * count
    seen = 0
    for shard in shards:
        table = pool.scored.read(shard, [*this.columns, "id", "language", "repo"])
        ids = table["id"].to_pylist()
        # Held-out documents, and those that the tokenizer could not write, are no part of the pool.
        rows = np.array([row for row, name in enumerate(ids) if name in pool.place], dtype=np.int64)
        if not len(rows):
            continue
        table = table.take(pa.array(rows))
        at = np.array([pool.place[ids[row]] for row in rows.tolist()], dtype=np.int64)
        reason[at] = decisions.decide(this, table).reason
        rank[at] = decisions.ranks(this, table, distributions)
        key[at] = hashes(table["id"], seed, "ablate")
        for name, some in languages_of(table["language"]):
            language[at[some]] = languages.setdefault(name, len(languages))
        for number, name in zip(at.tolist(), table["repo"].to_pylist(), strict=True):
            repo[number] = name
        seen += len(rows)
    assert seen == count, "every document of the pool has scores"
    return Judged(reason, this.reasons, rank, key, language, list(languages), repo)


def _known(recipe: Recipe) -> dict[str, str | None]:
    """The columns that a pool of this recipe has, each with its scorer; None: every document has it."""
    return {**dict.fromkeys([*MEASURES, "bytes"]), **columns_of(recipe)}


def check(recipe: Recipe) -> None:
    """Find, before anything is done, what an arm asks that no scorer of the recipe gives; the line names the arm."""
    known = _known(recipe)
    for arm in recipe.ablate.arms:
        try:
            decisions.check(plan.arm_recipe(recipe, arm), known)
        except UserError as error:
            raise UserError(f"ablate.arms.{arm}: {error}") from None


def take(judged: Judged, tokens: NDArray[np.int64], budget: int, arm: str) -> NDArray[np.bool_]:
    """(documents,): which documents an arm has.

    Args:
        tokens: of each document.
        budget: of all languages together.
        arm: for messages.

    Raises:
        UserError: what is left of a language is less than its part.
    """
    taken = np.zeros(len(tokens), bool)
    whole = [int(tokens[judged.language == number].sum()) for number in range(len(judged.languages))]
    if sum(whole) < budget:
        raise UserError(
            f"ablate.tokens: the corpus has {sum(whole):,} tokens to train on, and each arm takes {budget:,}; add "
            "inputs, or lower ablate.tokens"
        )
    for number, part in enumerate(shares(whole, [1.0] * len(whole), budget)):
        # From the best to the worst; the last key of lexsort is the first that counts.
        able = np.flatnonzero((judged.language == number) & (judged.reason < 0))
        order = able[np.lexsort((judged.key[able], -judged.rank[able]))]
        there = int(tokens[able].sum())
        if there < part:
            raise UserError(
                f"ablate.arms.{arm}: its limits leave {there:,} of the {whole[number]:,} tokens of "
                f"{judged.languages[number]}, and every arm has {part:,}; loosen them, or lower ablate.tokens"
            )
        room = part
        for document in order.tolist():
            if tokens[document] <= room:
                taken[document] = True
                room -= int(tokens[document])
            if not room:
                break
    return taken


def _statistics(judged: Judged, tokens: NDArray[np.int64], taken: NDArray[np.bool_]) -> dict[str, Any]:
    through = judged.reason < 0

    def amount(which: NDArray[np.bool_]) -> dict[str, int]:
        return {"documents": int(which.sum()), "tokens": int(tokens[which].sum())}

    repositories: Counter[str] = Counter()
    for document in np.flatnonzero(taken).tolist():
        repositories[judged.repo[document]] += int(tokens[document])
    return {
        **amount(taken),
        "pool": {"all": amount(np.ones(len(tokens), bool)), "after_limits": amount(through)},
        "dropped": {judged.reasons[code]: amount(judged.reason == code) for code in np.unique(judged.reason[~through])},
        "languages": {
            name: amount(taken & (judged.language == number)) for number, name in enumerate(judged.languages)
        },
        "repositories": dict(sorted(repositories.items(), key=lambda item: (-item[1], item[0]))[:REPOSITORIES]),
    }
