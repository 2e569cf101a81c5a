"""The stream of tokens: nothing lost or repeated, whatever the cuts; documents apart; resume exact."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.train import fim
from codeshell.train.batches import (
    IGNORED,
    Batch,
    Documents,
    Position,
    Prefetch,
    fold,
    lane_count,
    take,
    take_lanes,
)

TEXTS = ["import re\n", "x", "", "def f(a):\n    return a\n" * 3, "é = 'ü'\n", "y" * 90, "z = 1\n"]


def stream_by_hand(documents: Documents, epochs: int) -> tuple[list[int], list[int]]:
    """The stream and where documents begin in it, document by document."""
    tokens: list[int] = []
    starts: list[int] = []
    for epoch in range(epochs):
        for index in range(len(documents)):
            piece = documents.tokens(epoch, index).tolist()
            if piece:
                starts.append(len(tokens))
            tokens += piece
    return tokens, starts


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=8), seed=st.integers(0, 5), rate=st.sampled_from([0, 0.5])
)
def test_batches_of_any_size_are_one_stream(memory_corpus, tokenizer, counts, seed, rate):
    documents = Documents(memory_corpus(TEXTS), tokenizer, seed=seed, fim_rate=rate, spm_rate=0.5)
    expected, starts = stream_by_hand(documents, 4)
    position, at = Position(), 0
    for count in counts:
        batch = take(documents, position, count, own=False)
        assert batch.inputs.tolist() == expected[at : at + count]
        assert batch.targets.tolist() == expected[at + 1 : at + count + 1]
        assert (batch.starts + at).tolist() == [start for start in starts if at <= start < at + count]
        masked = take(documents, position, count, own=True).targets
        for offset in range(count):
            crosses = at + offset + 1 in starts
            assert masked[offset] == (IGNORED if crosses else expected[at + offset + 1])
        position, at = batch.after[0], at + count


def test_a_position_alone_resumes_exactly(memory_corpus, tokenizer):
    def fresh():
        return Documents(memory_corpus(TEXTS), tokenizer, seed=3, fim_rate=0.5, spm_rate=0.5)

    documents, position = fresh(), Position()
    for _ in range(12):
        batch = take(documents, position, 37, own=True)
        again = take(fresh(), Position(**asdict(position)), 37, own=True)
        assert np.array_equal(batch.inputs, again.inputs) and np.array_equal(batch.targets, again.targets)
        assert batch.after == again.after
        position = batch.after[0]
    assert position.epoch >= 1


def test_order_and_content_do_not_depend_on_how_the_shards_lie(memory_corpus, tokenizer):
    ids = [f"{index:032x}" for index in range(len(TEXTS))]
    turned = [(index * 3) % len(TEXTS) for index in range(len(TEXTS))]
    a = Documents(memory_corpus(TEXTS, ids), tokenizer, seed=1, fim_rate=0.5, spm_rate=0.5)
    b = Documents(
        memory_corpus([TEXTS[i] for i in turned], [ids[i] for i in turned]),
        tokenizer,
        seed=1,
        fim_rate=0.5,
        spm_rate=0.5,
    )
    assert stream_by_hand(a, 3) == stream_by_hand(b, 3)
    assert a.fingerprint == b.fingerprint
    assert a.fingerprint != Documents(memory_corpus(TEXTS[:-1], ids[:-1]), tokenizer, seed=1).fingerprint


def test_every_epoch_has_every_document_in_another_order(memory_corpus, tokenizer):
    documents = Documents(memory_corpus([str(index) for index in range(300)]), tokenizer, seed=0)
    orders = [documents.order(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(300)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    other = Documents(memory_corpus([str(index) for index in range(300)]), tokenizer, seed=1)
    assert other.order(0).tolist() != orders[0]


def test_a_rearranged_document_has_four_specials_and_its_bytes(memory_corpus, tokenizer):
    text = "def f(a):\n    return a  # é\n"
    documents = Documents(memory_corpus([text]), tokenizer, seed=0, fim_rate=1.0, spm_rate=0.5)
    specials = set(tokenizer.specials.values())
    for epoch in range(20):
        ids = documents.tokens(epoch, 0).tolist()
        assert sum(token in specials for token in ids) == 4
        assert ids[-1] == tokenizer.eot
        assert sorted(tokenizer.decode_bytes(ids)) == sorted(text.encode())


@pytest.mark.parametrize("data", [b"caf\xc3", b"\xff\xfe", b"ok \x80 ok"])
def test_a_document_that_is_not_utf8_stays_as_it_is(memory_corpus, tokenizer, data):
    documents = Documents(memory_corpus([data]), tokenizer, seed=0, fim_rate=1.0)
    assert documents.tokens(0, 0).tolist() == [*data, tokenizer.eot]


def test_a_document_whose_tokens_lost_bytes_stays_as_it_is(memory_corpus, tokenizer):
    there = memory_corpus(["abc"])
    there.sizes[0] = 4  # The text had a byte more than its tokens decode to.
    assert Documents(there, tokenizer, seed=0, fim_rate=1.0).tokens(0, 0).tolist() == [*b"abc", tokenizer.eot]


def test_plain_documents_are_not_decoded(memory_corpus, tokenizer, monkeypatch):
    documents = Documents(memory_corpus(TEXTS), tokenizer, seed=0, fim_rate=0.0)
    monkeypatch.setattr(type(tokenizer), "decode_bytes", lambda *_: pytest.fail("decoded"))
    stream_by_hand(documents, 1)


def test_the_data_module_agrees_with_the_plan(memory_corpus, tokenizer):
    documents = Documents(memory_corpus(TEXTS), tokenizer, seed=5, fim_rate=0.5, spm_rate=0.5)
    for index in range(len(TEXTS)):
        document = int(documents.order(2)[index])
        name = documents.corpus.document_id(document)
        plan = fim.rearrange(TEXTS[document], seed=5, epoch=2, doc_id=name, fim_rate=0.5, spm_rate=0.5)
        expected = fim.encode(plan, tokenizer) + ([tokenizer.eot] if TEXTS[document] else [])
        assert documents.tokens(2, index).tolist() == expected


def whole(tokens: int, starts: list[int]) -> Batch:
    inputs = np.arange(tokens, dtype=np.int64)
    return Batch(inputs, inputs + 1, np.asarray(starts, dtype=np.int64), (Position(),))


def test_fold_cuts_at_rows_and_documents():
    micro = list(fold(whole(16, [0, 3, 8, 13]), 4, 8, own=True))
    assert [m.inputs.tolist() for m in micro] == [[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9, 10, 11], [12, 13, 14, 15]]]
    assert [m.cu_seqlens.tolist() for m in micro] == [[0, 3, 4, 8], [0, 4, 5, 8]]
    assert all(m.cu_seqlens.dtype == np.int32 and m.max_seqlen == 4 for m in micro)
    assert all((m.targets == m.inputs + 1).all() for m in micro)


@pytest.mark.parametrize(("micro_tokens", "rows"), [(0, [4]), (4, [1, 1, 1, 1]), (1, [1, 1, 1, 1]), (13, [3, 1])])
def test_fold_sizes(micro_tokens, rows):
    micro = list(fold(whole(16, [0]), 4, micro_tokens, own=False))
    assert [m.inputs.shape for m in micro] == [(count, 4) for count in rows]
    assert np.concatenate([m.inputs.ravel() for m in micro]).tolist() == list(range(16))
    assert all(m.cu_seqlens is None for m in micro)


def test_prefetch_gives_the_same_batches_and_raises_what_the_maker_raised(memory_corpus, tokenizer):
    documents = Documents(memory_corpus(TEXTS), tokenizer, seed=0, fim_rate=0.5)
    fetched = Prefetch(lambda positions: take(documents, *positions, 29, own=True), (Position(),))
    position = Position()
    direct = Documents(memory_corpus(TEXTS), tokenizer, seed=0, fim_rate=0.5)
    for _ in range(9):
        batch = take(direct, position, 29, own=True)
        assert np.array_equal(fetched.next().inputs, batch.inputs)
        position = batch.after[0]
    fetched.close()

    def broken(positions: tuple[Position, ...]) -> Batch:
        raise RuntimeError("shard is gone")

    failing = Prefetch(broken, (Position(),))
    with pytest.raises(RuntimeError, match="shard is gone"):
        failing.next()
    failing.close()


@pytest.mark.parametrize(
    ("batch_tokens", "contexts", "documents", "lanes"),
    [
        (8192, (256, 1024), 10_000, 8),
        (8192, (256, 1024), 5, 4),  # 5 does not divide 8 sequences.
        (8192, (256, 1024), 0, 1),
        (4_194_304, (2048, 8192), 10**9, 512),
        (96, (32, 48), 10, 1),
        (64, (64,), 10, 1),
    ],
)
def test_lanes_give_whole_sequences_at_every_context(batch_tokens, contexts, documents, lanes):
    assert lane_count(batch_tokens, contexts, documents) == lanes
    assert all(batch_tokens // lanes % context == 0 for context in contexts)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_lanes_hold_every_document_once_and_keep_their_own_places(memory_corpus, tokenizer, count):
    documents = Documents(memory_corpus(TEXTS), tokenizer, seed=2, fim_rate=0.5, spm_rate=0.5)
    assert documents.filled == 6  # One of the seven texts is empty.
    lanes = documents.deal(count)
    members = [lane.order(0).tolist() for lane in lanes]
    assert sorted(itertools.chain(*members)) == [index for index, text in enumerate(TEXTS) if text]
    assert max(map(len, members)) - min(map(len, members)) <= 1
    positions = (Position(),) * count
    for _ in range(5):
        batch = take_lanes(lanes, positions, 12 * count, own=True)
        alone = [take(lane, place, 12, own=True) for lane, place in zip(lanes, positions, strict=True)]
        assert batch.inputs.tolist() == [token for one in alone for token in one.inputs]
        assert batch.targets.tolist() == [token for one in alone for token in one.targets]
        assert batch.starts.tolist() == [start + 12 * at for at, one in enumerate(alone) for start in one.starts]
        positions = batch.after
        assert positions == tuple(one.after[0] for one in alone)


def test_lanes_do_not_depend_on_how_the_shards_lie(memory_corpus, tokenizer):
    ids = [f"{index:032x}" for index in range(len(TEXTS))]
    turned = [(index * 3) % len(TEXTS) for index in range(len(TEXTS))]
    a = Documents(memory_corpus(TEXTS, ids), tokenizer, seed=1).deal(2)
    b = Documents(memory_corpus([TEXTS[i] for i in turned], [ids[i] for i in turned]), tokenizer, seed=1).deal(2)
    assert [stream_by_hand(lane, 2) for lane in a] == [stream_by_hand(lane, 2) for lane in b]
