"""Conversations in training: whole rows, no rearranging, and targets where the mask says and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_run import MemoryCorpus, byte_tokenizer, texts, tiny_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.data import instructions
from codeshell.documents.token_shards import TokenCorpus, TokenShardWriter
from codeshell.recipe import to_tree
from codeshell.tokenizer.chat import ChatTemplate
from codeshell.train.batches import IGNORED, Batch, Documents, aligned, fingerprint, fold, take
from codeshell.train.build import build
from codeshell.train.forward import summed_loss
from codeshell.train.rows import Lanes
from codeshell.train.train_run import run
from codeshell.train.validate import Validation

TOKENIZER = byte_tokenizer()
MARK = 1
"""The byte that the conversations of these tests begin with; no text has it."""


def corpus_of(spoken: list[list[bool]], plain: list[int]) -> MemoryCorpus:
    """Conversations with these masks, each with other tokens, and texts of these lengths."""
    said = [
        bytes([MARK, 2 + number, *(128 + (number + n) % 100 for n in range(len(mask)))])
        for number, mask in enumerate(spoken)
    ]
    masks = [np.array([False, False, *mask]) for mask in spoken]
    written = ["".join(chr(97 + (number + n) % 26) for n in range(size)) for number, size in enumerate(plain)]
    return MemoryCorpus(TOKENIZER, [*said, *written], masks=[*masks, *[None] * len(plain)])


def lanes_of(
    corpus: MemoryCorpus, *, context: int = 32, isolated: bool = True, rate: float = 1.0, **more: Any
) -> Lanes:
    return Lanes(
        corpus, TOKENIZER, batch_tokens=2 * context, contexts=(context,), seed=3, fim_rate=rate, spm_rate=0.5,
        isolated=isolated, **more,
    )  # fmt: skip


def pieces(batch: Batch) -> list[tuple[list[int], list[int], int]]:
    """(inputs, targets, place) of each piece."""
    ends = [*batch.starts[1:].tolist(), len(batch.inputs)]
    return [
        (batch.inputs[a:b].tolist(), batch.targets[a:b].tolist(), a)
        for a, b in zip(batch.starts.tolist(), ends, strict=True)
    ]


def expected(tokens: list[int], mask: list[bool]) -> list[int]:
    """The targets of a conversation's tokens."""
    return [token if flag else IGNORED for token, flag in zip(tokens[1:], mask[1:], strict=True)] + [IGNORED]


MASKS = st.lists(st.lists(st.booleans(), min_size=1, max_size=60), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(spoken=MASKS, plain=st.lists(st.integers(0, 90), max_size=6), isolated=st.booleans())
def test_conversations_are_whole_and_their_answers_alone_are_targets(
    spoken: list[list[bool]], plain: list[int], isolated: bool
) -> None:
    context = 32
    corpus = corpus_of(spoken, plain)
    known = {tuple(corpus.document(n).tolist()): corpus.masks[n].tolist() for n in range(len(spoken))}
    lanes = lanes_of(corpus, context=context, isolated=isolated)
    positions = lanes.start()
    seen: list[tuple[int, ...]] = []
    rest: list[int] = []  # what was read of a conversation that is longer than a row
    while min(position.epoch for position in positions) < 2:
        batch = lanes.take(positions, 2 * context, context)
        positions = batch.after
        assert set(range(0, 2 * context, context)) <= set(batch.starts.tolist())
        for inputs, targets, place in pieces(batch):
            if lanes.count > 1 and rest:
                rest = []
            if inputs[0] == MARK and tuple(inputs) in known:
                # Whole, not rearranged, and its own tokens are all that it may learn.
                seen.append(tuple(inputs))
                assert targets == expected(inputs, known[tuple(inputs)])
            elif MARK in inputs or (inputs[0] >= 128 and inputs[0] < 256):
                # Only what no row can hold is cut, and each cut is at the end of a row.
                whole = next(
                    one for one in known if any(one[n : n + len(inputs)] == tuple(inputs) for n in range(len(one)))
                )
                assert len(whole) > context
                assert place % context == 0 or len(whole) % context
                at = next(n for n in range(len(whole)) if whole[n : n + len(inputs)] == tuple(inputs))
                aims = expected(list(whole), known[whole])[at : at + len(inputs)]
                assert targets == aims
            elif set(inputs) == {TOKENIZER.eot} and len(inputs) > 1:
                # Filler, to the end of its row.
                assert set(targets) == {IGNORED}
                assert (place + len(inputs)) % context == 0
            else:
                assert all(token < 128 or token >= 256 for token in inputs)
    # Each once an epoch, if a row can hold it.
    for one in known:
        if len(one) <= context:
            assert seen.count(one) >= 2


@settings(max_examples=40, deadline=None)
@given(spoken=MASKS, plain=st.lists(st.integers(0, 90), max_size=6), first=st.integers(1, 6))
def test_a_resume_continues_with_the_same_rows(spoken: list[list[bool]], plain: list[int], first: int) -> None:
    lanes = lanes_of(corpus_of(spoken, plain))
    positions = lanes.start()
    rows = []
    for _ in range(first + 6):
        batch = lanes.take(positions, 64, 32)
        positions = batch.after
        rows.append(batch)
    again = lanes.take(rows[first - 1].after, 64, 32)
    assert np.array_equal(again.inputs, rows[first].inputs) and np.array_equal(again.targets, rows[first].targets)


def test_texts_have_the_rows_that_they_had_without_conversations_in_the_format() -> None:
    # `trained` gives None: not a token of a text's rows may change.
    corpus = corpus_of([], [40, 3, 17, 90, 60])
    batch = lanes_of(corpus, rate=0.5).take(lanes_of(corpus, rate=0.5).start(), 64, 32)
    assert IGNORED in batch.targets and (batch.targets != IGNORED).sum() > 50


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_token_before_each_text(rate: float) -> None:
    begin = TOKENIZER.specials["<filename>"]
    corpus = corpus_of([[True] * 5] * 3, [40, 3, 17, 90, 60])
    lanes = lanes_of(corpus, rate=rate, begin=begin)
    positions, count, texts_begun = lanes.start(), 0, 0
    while min(position.epoch for position in positions) < 1:
        before = positions
        batch = lanes.take(positions, 64, 32)
        positions = batch.after
        for inputs, targets, _ in pieces(batch):
            count += inputs.count(begin)
            if begin in inputs:
                # It stands first, and the next token is its target.
                assert inputs.index(begin) == 0 and targets[0] == (inputs[1] if len(inputs) > 1 else targets[0])
                assert MARK not in inputs
            texts_begun += inputs[0] == begin
        assert before != positions
    assert count == texts_begun >= 4


@settings(max_examples=60, deadline=None)
@given(
    spoken=MASKS,
    plain=st.lists(st.integers(0, 90), max_size=6),
    isolated=st.booleans(),
    context=st.sampled_from([16, 32]),
)
def test_validation_keeps_conversations_whole_and_predicts_their_answers(
    spoken: list[list[bool]], plain: list[int], isolated: bool, context: int
) -> None:
    corpus = corpus_of(spoken, plain)
    documents = Documents(corpus, TOKENIZER, seed=0)
    count = corpus.n_tokens + documents.added() - 1
    assert documents.added() == sum(size > 0 for size in plain)
    batch = take(documents, count, isolated=isolated)
    rows = aligned(batch, context, TOKENIZER.eot)
    assert len(rows.inputs) % context == 0
    # Without the filler it is the same stream.
    kept = [piece for piece in pieces(rows) if not (set(piece[0]) == {TOKENIZER.eot} and set(piece[1]) == {IGNORED})]
    bare = [piece for piece in pieces(batch) if not (set(piece[0]) == {TOKENIZER.eot} and set(piece[1]) == {IGNORED})]
    assert [piece[:2] for piece in kept] == [piece[:2] for piece in bare]
    known = {tuple(corpus.document(n).tolist()): corpus.masks[n].tolist() for n in range(len(spoken))}
    for inputs, targets, place in kept:
        mask = known.get(tuple(inputs))
        if mask is not None:
            assert targets == expected(inputs, mask)
            assert len(inputs) > context or place % context + len(inputs) <= context
    # All that may be learned is predicted, but for what the stream ends with.
    validation = Validation(corpus, TOKENIZER, limit=10**6, isolated=isolated)
    answers = sum(sum(mask) for mask in spoken)
    assert sum(token >= 128 and token < 256 for token in validation.predicted.tolist()) == answers


def shard(path: Path, spoken: list[list[bool]], **more: Any) -> TokenCorpus:
    with TokenShardWriter(path, vocab_size=300, tokenizer_hash="ab" * 32, masked=True, **more) as writer:
        for number, mask in enumerate(spoken):
            writer.add(f"{number:032x}", [(number + n) % 300 for n in range(len(mask))], len(mask), mask)
    return TokenCorpus([path])


@settings(max_examples=40, deadline=None)
@given(spoken=st.lists(st.lists(st.booleans(), max_size=40), max_size=12))
def test_a_shard_gives_back_the_mask_of_each_document(tmp_path_factory: Any, spoken: list[list[bool]]) -> None:
    corpus = shard(tmp_path_factory.mktemp("shard") / "a.tokens", spoken)
    assert corpus.masked and corpus.n_trained == sum(map(sum, spoken))
    corpus.shards[0].verify()
    for number, mask in enumerate(spoken):
        found = corpus.trained(number)
        assert found is not None and found.tolist() == mask
        assert len(corpus.document(number)) == len(mask)


def test_a_flipped_bit_of_the_mask_is_damage(tmp_path: Path) -> None:
    from codeshell.errors import UserError

    corpus = shard(tmp_path / "a.tokens", [[True, False] * 20])
    data = bytearray((tmp_path / "a.tokens").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.tokens").write_bytes(data)
    with pytest.raises(UserError, match="its content is damaged"):
        TokenCorpus([tmp_path / "a.tokens"]).shards[0].verify()
    (tmp_path / "a.tokens").write_bytes(data[:-1])
    with pytest.raises(UserError, match="cut short"):
        TokenCorpus([tmp_path / "a.tokens"])
    assert corpus.masked


def test_a_mask_belongs_to_shards_that_have_one(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="trained: missing"),
        TokenShardWriter(tmp_path / "a", vocab_size=9, tokenizer_hash="ab" * 32, masked=True) as writer,
    ):
        writer.add("0" * 32, [1], 1)
    with (
        pytest.raises(ValueError, match="trained: given"),
        TokenShardWriter(tmp_path / "a", vocab_size=9, tokenizer_hash="ab" * 32) as writer,
    ):
        writer.add("0" * 32, [1], 1, [True])
    with (
        pytest.raises(ValueError, match=r"trained: .2,. flags for .1,. tokens"),
        TokenShardWriter(tmp_path / "a", vocab_size=9, tokenizer_hash="ab" * 32, masked=True) as writer,
    ):
        writer.add("0" * 32, [1], 1, [True, False])
    assert not list(tmp_path.iterdir())


def test_another_mask_is_another_corpus() -> None:
    # A resume with answers that another template marks must be refused, though no token differs.
    one, other = corpus_of([[True, False, True]], [9]), corpus_of([[True, False, False]], [9])
    assert fingerprint(one) != fingerprint(other)


def spoken_run(directory: Path) -> None:
    """A run's tokens: conversations beside a few texts."""
    TOKENIZER.save(directory / "tokenizer")
    template = ChatTemplate.load(directory, TOKENIZER, "plain")
    assert template is not None
    path = directory / "a.jsonl"
    rows = [{"instruction": f"Say {n}{n % 7}.", "output": f"{n} {'ab' * (n % 7)}\n"} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    instructions.write([str(path)], directory / "tokens", TOKENIZER, template, max_tokens=64, valid=0.1, seed=0)
    where = directory / "tokens" / "train-00000.tokens"
    with TokenShardWriter(where, vocab_size=TOKENIZER.vocab_size, tokenizer_hash=TOKENIZER.hash) as writer:
        for number, text in enumerate(texts(6)):
            writer.add(f"{number:032x}", TOKENIZER.encode(text), len(text))


ONE_PHASE: dict[str, Any] = {
    "phases": [{"share": 1.0, "context": 64}],
    "steps": 6,
    "valid_every": 3,
    "checkpoint_every": 0,
}


def log_of(directory: Path) -> list[dict[str, Any]]:
    drop = ("seconds", "tokens_per_second", "mfu")
    lines = [json.loads(line) for line in (directory / "train" / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in drop} for line in lines]


def test_training_on_conversations_is_the_mean_over_answers_on_any_number_of_ranks(tmp_path: Path, ranks: Any) -> None:
    recipe = tiny_recipe(dropout=0.0, log_every=1, micro_batch_tokens=128, **ONE_PHASE)
    for name in ("one", "two"):
        spoken_run(tmp_path / name)
    run(recipe, tmp_path / "one", None)  # type: ignore[arg-type]
    lines = log_of(tmp_path / "one")
    # The first loss by hand: the mean over the targets of the whole batch.
    model, _ = build(recipe, TOKENIZER, torch.device("cpu"))
    corpus = TokenCorpus(sorted((tmp_path / "one" / "tokens").glob("train-*.tokens")))
    assert corpus.masked and not all(one.masked for one in corpus.shards)
    lanes = Lanes(
        corpus, TOKENIZER, batch_tokens=256, contexts=(64,), seed=0, fim_rate=0.5, spm_rate=0.5, isolated=True
    )  # fmt: skip
    batch = lanes.take(lanes.start(), 256, 64)
    counted = int((batch.targets != IGNORED).sum())
    assert 0 < counted < 200
    (micro,) = fold(batch, 64, 0, isolated=True)
    with torch.no_grad():
        assert lines[0]["loss"] == pytest.approx(float(summed_loss(model, micro, "fp32")) / counted, rel=1e-5)
    # Ranks have other numbers of targets in their parts, and still the same mean.
    parts = [replace(batch, targets=batch.targets[n : n + 128]) for n in (0, 128)]
    assert len({int((part.targets != IGNORED).sum()) for part in parts}) == 2
    job = {"recipe": to_tree(recipe), "directory": str(tmp_path / "two")}
    for ended in ranks.run(2, "helpers.rank_cases:trainings", jobs=[job]):
        assert ended.code == 0, ended.error
    assert log_of(tmp_path / "two") == lines
    assert [line["kind"] for line in lines].count("valid") == 2
    assert lines[-1]["loss"] < lines[0]["loss"]
